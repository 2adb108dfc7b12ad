"""Matching of queries with objects: costs by hand, matches against all permutations, and what is refused."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from pctransformer.boxes import BoxBatch
from pctransformer.heads.box_coding import encode_around
from pctransformer.heads.matching import Costs, match, matching_costs
from tests.heads.boxes import FEW_RANGE, random_objects


def boxes_of(counts: list[int]) -> BoxBatch:
    return random_objects(counts, FEW_RANGE)


def costs_of(total: Tensor) -> Costs:
    return Costs(total, torch.zeros_like(total), torch.zeros_like(total))


def matched(total: Tensor, counts: list[int], real: list[bool] | None = None) -> list[list[int]]:
    is_real = torch.ones(sum(counts), dtype=torch.bool) if real is None else torch.tensor(real)
    return match(costs_of(total), boxes_of(counts), is_real).tolist()


# ---- costs -----------------------------------------------------------------------------------------------------------
def test_costs_by_hand():
    """Two queries; the box is a cube of 2 m at the second's point, and the first's box is a copy one metre aside."""
    boxes = BoxBatch.from_list([torch.tensor([[4.0, 0, 0, 2, 2, 2, 0]])], [torch.tensor([1])])
    references = torch.tensor([[[[3.0, 0, 0], [4.0, 0, 0]]]])  # (1, 1, 2, 3)
    codes = torch.zeros(1, 1, 2, 9)
    codes[..., 3:6], codes[..., 6] = math.log(2), 1
    logits = torch.tensor([[[[0.0, math.log(3), 0], [0, 0, math.log(2)]]]])
    costs = matching_costs(logits, codes, references, boxes, torch.tensor([True]))
    assert costs.class_.flatten().tolist() == pytest.approx([-3 / 5, -1 / 4])
    assert costs.box.flatten().tolist() == pytest.approx([0.5, 0], abs=1e-6)
    # of volumes 8 and 8 the half is common: union 12, and the box around both, 3 x 2 x 2 m, holds nothing else
    assert costs.overlap.flatten().tolist() == pytest.approx([-1 / 3, -1])


def test_costs_are_those_of_loops():
    torch.manual_seed(0)
    boxes = boxes_of([3, 0, 2])
    logits, codes, references = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 9), torch.randn(3, 2, 4, 3)
    costs = matching_costs(logits, codes, references, boxes, torch.ones(5, dtype=torch.bool))
    assert [part.shape for part in costs] == [(5, 2, 4)] * 3
    for row, cloud in enumerate([0, 0, 0, 2, 2]):
        for layer in range(2):
            for query in range(4):
                here = cloud, layer, query
                likely = logits[here].exp()[boxes.labels[row]] / logits[here].exp().sum()
                apart = (codes[here] - encode_around(boxes.boxes[row], references[here]))[:8].abs().sum()
                assert costs.class_[row, layer, query].item() == pytest.approx(-likely.item(), rel=1e-5)
                assert costs.box[row, layer, query].item() == pytest.approx(apart.item() / 2, rel=1e-5)


# ---- matches ---------------------------------------------------------------------------------------------------------
def test_the_best_for_all_is_not_the_best_for_each():
    """Both boxes would have query 0; the sum is least if the first yields."""
    total = torch.tensor([[[1.0, 2, 9]], [[1, 9, 9]]])
    assert matched(total, [2]) == [[1], [0]]


@pytest.mark.parametrize("queries", [2, 4, 5])
def test_no_other_matching_costs_less(queries):
    """Of all permutations; with fewer queries than boxes, too."""
    counts, layers = [4, 0, 1, 3], 2
    torch.manual_seed(queries)
    total = torch.randn(8, layers, queries)
    found = matched(total, counts)
    begin = 0
    for count in counts:
        for layer in range(layers):
            cost = total[begin : begin + count, layer]
            pairs = [(box, found[begin + box][layer]) for box in range(count) if found[begin + box][layer] >= 0]
            taken = [query for _, query in pairs]
            assert len(set(taken)) == len(taken) == min(count, queries)
            if count <= queries:
                sums = [sum(cost[b, q] for b, q in enumerate(p)) for p in permutations(range(queries), count)]
            else:
                sums = [sum(cost[b, q] for q, b in enumerate(p)) for p in permutations(range(count), queries)]
            least = min(float(one) for one in sums)
            assert float(sum(cost[pair] for pair in pairs)) == pytest.approx(least, abs=1e-5)
        begin += count


def test_of_more_boxes_than_queries_the_cheapest_are_found():
    total = torch.tensor([[[5.0, 5]], [[1, 3]], [[4, 1]]])
    assert matched(total, [3]) == [[-1], [0], [1]]


def test_boxes_that_are_not_real_take_no_query():
    total = torch.tensor([[[0.0, 9]], [[1, 9]]])
    assert matched(total, [2], [False, True]) == [[-1], [0]]


def test_without_boxes():
    assert match(costs_of(torch.zeros(0, 3, 4)), boxes_of([0, 0]), torch.zeros(0, dtype=torch.bool)).shape == (0, 3)


def test_matches_follow_their_boxes():
    torch.manual_seed(0)
    total, order = torch.randn(9, 2, 12), torch.randperm(9)
    found = matched(total, [9])
    assert matched(total[order], [9]) == [found[i] for i in order]
    assert matched(total, [9]) == found


# ---- refused ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("part", "what"),
    [("class_", "the class logits"), ("box", "the code of its box"), ("overlap", "the size of its box")],
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_costs_that_are_no_numbers_are_refused(part, what, value):
    costs = Costs(*(torch.zeros(3, 2, 4) for _ in range(3)))
    getattr(costs, part)[2, 1, 3] = value
    message = (
        rf"1 of 24 costs are NaN or infinite, first that of query 3 of cloud 1 in layer 1 with box 2, by {what}: .*"
        " diverged in training"
    )
    with pytest.raises(FloatingPointError, match=message):
        match(costs, boxes_of([1, 2]), torch.ones(3, dtype=torch.bool))
    match(costs, boxes_of([1, 2]), torch.tensor([True, True, False]))  # nobody asks what such a box costs


def test_codes_out_of_hand_are_named():
    boxes = boxes_of([1])
    codes = torch.full((1, 1, 2, 9), math.inf)
    costs = matching_costs(torch.zeros(1, 1, 2, 4), codes, torch.zeros(1, 1, 2, 3), boxes, torch.tensor([True]))
    with pytest.raises(FloatingPointError, match=r"by the code of its box and the size of its box"):
        match(costs, boxes, torch.tensor([True]))
