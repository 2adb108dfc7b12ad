"""The query head: what its queries are and see, what its loss is, what it finds, and that the two belong together."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pctransformer.boxes import BoxBatch
from pctransformer.heads.assignment import draw_centers
from pctransformer.heads.box_coding import encode_around
from pctransformer.heads.losses import heatmap_focal_loss, turned_giou
from pctransformer.heads.matching import match, matching_costs
from pctransformer.heads.object_queries import Heatmap, HeatmapQueries, LearnedQueries, SampledQueries
from pctransformer.heads.query import (
    DIRECTION_WEIGHT,
    NO_OBJECT_WEIGHT,
    QueryHead,
    QueryOutput,
    as_tokens,
    probabilities,
)
from pctransformer.layers.recording import record_attention
from pctransformer.ops import box_iou
from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap, Grid
from tests.heads.boxes import FEW, FEW_RANGE, assert_found, random_objects

GRID = Grid.from_range(FEW_RANGE, (1.0, 1.0, 4.0))
KINDS = ("learned", "sampled", "heatmap")


def queries_of(kind: str, number: int = 12, channels: int = 4, dim: int = 16) -> nn.Module:
    if kind == "learned":
        return LearnedQueries(number, dim, range=FEW_RANGE)
    return SampledQueries(number) if kind == "sampled" else HeatmapQueries(number, channels, dim, num_classes=3)


def head_of(kind: str = "sampled", channels: int = 4, **options) -> QueryHead:
    torch.manual_seed(0)
    made = {"range": FEW_RANGE, "dim": 16, "depth": 2, "num_heads": 2, **options}
    return QueryHead(channels, num_classes=3, queries=queries_of(kind, channels=channels, dim=made["dim"]), **made)


def bev(clouds: int = 3, channels: int = 4) -> BevMap:
    return BevMap(torch.randn(clouds, channels, 16, 16, generator=torch.Generator().manual_seed(1)), GRID)


def tokens(lengths: list[int], channels: int = 4) -> PointBatch:
    generator = torch.Generator().manual_seed(2)
    return PointBatch.from_list(
        [
            torch.cat([torch.rand(n, 3, generator=generator) * 16, torch.randn(n, channels, generator=generator)], 1)
            for n in lengths
        ]
    )


def random_output(clouds: int, layers: int = 2, number: int = 24, seed: int = 0) -> QueryOutput:
    torch.manual_seed(seed)
    return QueryOutput(
        torch.randn(clouds, layers, number, 4),
        torch.randn(clouds, layers, number, 9),
        torch.rand(clouds, layers, number, 3) * torch.tensor([16, 16, 4]) - torch.tensor([0, 8, 3]),
    )


def answer(boxes: BoxBatch, number: int = 8, layers: int = 2) -> QueryOutput:
    """An output that says just these boxes, from the last query on, and nothing else."""
    logits = torch.zeros(len(boxes), layers, number, 4)
    logits[..., 3] = 20
    codes = torch.zeros(len(boxes), layers, number, 9)
    references = torch.rand(len(boxes), layers, number, 3)
    for b, cloud in enumerate(boxes.split()):
        for i, (row, label) in enumerate(zip(cloud.boxes, cloud.labels)):
            logits[b, :, -1 - i] = torch.where(torch.arange(4) == label, 20.0, 0.0)
            code = encode_around(row, references[b, :, -1 - i])
            codes[b, :, -1 - i] = torch.cat([code[:, :8], 40 * code[:, 8:] - 20], 1)
    return QueryOutput(logits, codes, references)


HEAD = head_of()


# ---- tokens ----------------------------------------------------------------------------------------------------------
def test_cells_are_tokens_where_they_are():
    features = bev(2)
    found = as_tokens(features, 256)
    assert found.is_dense
    assert found.lengths.tolist() == [256, 256]
    # row 3, column 5 of the second map, half as high as the map
    assert found.xyz[256 + 3 * 16 + 5].tolist() == [5.5, -8 + 3.5, -1.0]
    assert torch.equal(found.features[256 + 3 * 16 + 5], features.features[1, :, 3, 5])


def test_maps_of_many_cells_become_squares():
    """Of 6 x 7 cells in 12 tokens: squares of two, the last of a row narrower."""
    grid = Grid.from_range((0.0, 0.0, 0.0, 7.0, 6.0, 2.0), (1.0, 1.0, 2.0))
    features = torch.rand(1, 2, 6, 7)
    found = as_tokens(BevMap(features, grid), 12)
    assert found.lengths.tolist() == [12]
    assert found.xyz[:4].tolist() == [[1, 1, 1], [3, 1, 1], [5, 1, 1], [6.5, 1, 1]]
    torch.testing.assert_close(found.features[5], features[0, :, 2:4, 2:4].mean((1, 2)))
    torch.testing.assert_close(found.features[11], features[0, :, 4:6, 6].mean(1))
    assert as_tokens(BevMap(features, grid), 11).lengths.tolist() == [6]
    assert as_tokens(BevMap(features, grid), 1).xyz.tolist() == [[3.5, 3, 1]]


def test_tokens_stay_as_they_are_but_want_features():
    points = tokens([4, 0])
    assert as_tokens(points, 1) is points
    with pytest.raises(ValueError, match="bare points"):
        HEAD(points.replace(features=None))


# ---- queries ---------------------------------------------------------------------------------------------------------
def test_sampled_queries_are_tokens_far_from_each_other():
    points = PointBatch.from_list([torch.tensor([[0.0, 0, 0, 1], [1, 0, 0, 2], [9, 0, 0, 3]]), torch.zeros(0, 4)])
    found = SampledQueries(5)(points, points)
    assert found.references[0, :, 0].tolist() == [0, 9, 1, 0, 9]
    assert found.content[0, :, 0].tolist() == [1, 3, 2, 1, 3]
    assert found.references[1].tolist() == [[0, 0, 0]] * 5
    assert found.content[1].tolist() == [[0]] * 5


def test_learned_queries_are_the_same_everywhere_and_lie_in_the_range():
    points = tokens([3, 0])
    found = LearnedQueries(50, 8, range=FEW_RANGE)(points, points)
    assert torch.equal(found.references[0], found.references[1])
    low, high = torch.tensor(FEW_RANGE).view(2, 3)
    assert ((found.references >= low) & (found.references <= high)).all()


def test_heatmap_queries_are_peaks_before_anything_else():
    queries = HeatmapQueries(4, 1, 1, num_classes=2).eval()
    with torch.no_grad():  # the map itself as heat map of class 0, and its negative of class 1
        for conv, centre in ((queries.shared_conv[0], [1.0]), (queries.heatmap, [1.0, -1.0])):
            conv.weight.zero_()
            conv.weight[:, 0, 1, 1] = torch.tensor(centre)
        queries.heatmap.bias.copy_(torch.tensor([0.0, -9.0]))
        queries.class_embedding.weight.copy_(torch.tensor([[0.0], [100.0]]))
    features = torch.zeros(1, 1, 16, 16)
    features[0, 0, 2, 3], features[0, 0, 2, 4], features[0, 0, 9, 9] = 5.0, 4.9, 2.0
    features[0, 0, 4:, :8] = torch.linspace(0.1, 1, 96).view(12, 8)  # a slope: one peak, on the edge of the map
    points = tokens([1])
    found = queries(BevMap(features, GRID), points)
    values = dict(zip([tuple(row) for row in found.references[0].tolist()], found.content[0, :, 0].tolist()))
    # the fourth is one of the places of nothing, none of which exceeds another; (4, 2) is more, but beside a peak
    assert {(3.5, -5.5, -1), (9.5, 1.5, -1), (7.5, 7.5, -1)} < values.keys()
    assert sorted(values.values()) == pytest.approx([0, 1, 2, 5], rel=1e-4, abs=1e-6)
    assert found.heatmap.logits[0, :, 2, 3].tolist() == pytest.approx([5, -14], rel=1e-4)
    everywhere = HeatmapQueries(9999, 1, 1, num_classes=2)(BevMap(features, GRID), points)
    assert everywhere.content.shape == (1, 512, 1)


def test_heatmap_queries_need_a_map():
    with pytest.raises(ValueError, match="need a BevMap"):
        head_of("heatmap")(tokens([9]))


# ---- the layers ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_output(kind):
    head = head_of(kind, refine=kind == "learned")
    output = head(bev())
    assert [tuple(part.shape) for part in output[:3]] == [(3, 2, 12, 4), (3, 2, 12, 9), (3, 2, 12, 3)]
    assert (output.heatmap is not None) == (kind == "heatmap")
    first, second = output.references.unbind(1)
    moved = first + output.box_codes[:, 0, :, :3] if head.refine else first
    torch.testing.assert_close(second, moved)


def test_dense_tokens_are_packed_tokens():
    head = head_of()
    points = tokens([30, 30])
    assert points.is_dense
    for ours, theirs in zip(head(points)[:3], head(points.replace(max_points=None))[:3]):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["learned", "sampled"])
def test_a_cloud_alone_is_the_cloud_in_its_batch(kind):
    head, lengths = head_of(kind), [30, 0, 1, 9]
    points = tokens(lengths)
    together = head(points)
    rows = torch.cat([points.xyz, points.features], 1).split(lengths)
    for b, cloud in enumerate(rows):
        for whole, alone in zip(together[:3], head(PointBatch.from_list([cloud]))[:3]):
            assert whole.isfinite().all()
            torch.testing.assert_close(alone[0], whole[b], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("features", [bev(2), tokens([30, 8])], ids=["map", "tokens"])
def test_what_queries_looked_at_can_be_seen(features):
    head = head_of().eval()
    plain = head(features)
    with record_attention(head) as maps:
        recorded = head(features)
    for ours, theirs in zip(recorded[:3], plain[:3]):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    looks = [found for found in maps if found.keys == "context"]
    assert [found.layer for found in looks] == ["layers.0.cross_attention", "layers.1.cross_attention"]
    query, key, weight = looks[1].pairs()
    count = as_tokens(features, 1600)
    cloud = count.batch_index[key]
    assert torch.equal(cloud, query // 12)
    torch.testing.assert_close(torch.zeros(24).index_add(0, query, weight), torch.ones(24))


# ---- loss ------------------------------------------------------------------------------------------------------------
def loss_by_loops(output: QueryOutput, boxes: BoxBatch) -> dict[str, float]:
    real = boxes.labels >= 0
    queries = match(matching_costs(*output[:3], boxes, real), boxes, real)
    clouds, layers, number, _ = output.class_logits.shape
    each = []
    for layer in range(layers):
        pairs = {
            (cloud, query): row
            for row, (cloud, query) in enumerate(zip(boxes.batch_index.tolist(), queries[:, layer].tolist()))
            if query >= 0
        }
        entropy, weights, box, overlap, direction = 0.0, 0.0, 0.0, 0.0, 0.0
        for cloud in range(clouds):
            for query in range(number):
                here = cloud, layer, query
                row = pairs.get((cloud, query))
                label = 3 if row is None else int(boxes.labels[row])
                weight = 0.1 if row is None else 1.0
                entropy -= weight * output.class_logits[here].log_softmax(0)[label].item()
                weights += weight
                if row is not None:
                    code, point = output.box_codes[here], output.references[here]
                    true = encode_around(boxes.boxes[row], point)
                    box += (code - true)[:8].abs().sum().item()
                    direction -= torch.nn.functional.logsigmoid(code[8] if true[8] else -code[8]).item()
                    said = torch.cat([code[:3] + point, code[3:6].exp(), torch.zeros(1)])  # the heading does not count
                    overlap += 1 - turned_giou(said, boxes.boxes[row]).item()
        objects = max(1, len(pairs))
        parts = {"box": box / 2, "overlap": overlap, "direction": direction / 5}
        each.append({"class": entropy / weights, **{name: part / objects for name, part in parts.items()}})
    return {**each[-1], "auxiliary": sum(sum(one.values()) for one in each[:-1])}


@pytest.mark.parametrize("seed", range(2))
def test_loss_is_the_sum_of_its_parts(seed):
    """Of three layers; one cloud is empty, one box ignored, and one cloud holds more boxes than there are queries."""
    boxes = random_objects([6, 0, 21], FEW_RANGE, seed)
    boxes = boxes.replace(labels=torch.where(torch.arange(27) == 4, -1, boxes.labels))
    output = random_output(3, layers=3, number=15, seed=seed)
    loss, expected = HEAD.loss(output, boxes), loss_by_loops(output, boxes)
    assert {name: value.item() for name, value in loss.items() if name != "loss"} == pytest.approx(expected, rel=1e-4)
    assert loss["loss"].item() == pytest.approx(sum(expected.values()), rel=1e-4)


def test_loss_of_the_heat_map_is_the_centre_heads():
    boxes = random_objects([6, 2], FEW_RANGE)
    output = random_output(2)._replace(heatmap=Heatmap(torch.randn(2, 3, 16, 16), GRID))
    loss = HEAD.loss(output, boxes)
    drawn = draw_centers(GRID, boxes, 3).heatmap
    expected = heatmap_focal_loss(output.heatmap.logits, drawn).sum() / (drawn == 1).sum()
    torch.testing.assert_close(loss["heatmap"], expected)
    torch.testing.assert_close(loss["loss"], HEAD.loss(output._replace(heatmap=None), boxes)["loss"] + expected)


def test_what_is_there_is_found_and_costs_almost_nothing():
    output = answer(FEW)
    assert HEAD.loss(output, FEW)["loss"].item() < 1e-4
    assert_found(HEAD.predict(output), FEW)


def test_objects_beyond_the_sides_have_no_effect():
    """To the left of the range and ahead of it; one above it counts, as it does on a map."""
    rows = torch.tensor([[4.0, 9, -1, 4, 2, 2, 0], [16.0, 0, -1, 4, 2, 2, 0], [4.0, 0, 5, 4, 2, 2, 0]])
    outside, above = (BoxBatch.from_list([part]) for part in (rows[:2], rows[2:]))
    output = random_output(1)
    nothing = HEAD.loss(output, BoxBatch.from_list([rows[:0]]))["loss"]
    assert torch.equal(HEAD.loss(output, outside)["loss"], nothing)
    assert HEAD.loss(output, above)["loss"] > nothing + 1


def test_a_layer_before_the_last_is_told_off_too():
    output = answer(FEW)
    output.box_codes[:, 0] += 0.5
    loss = HEAD.loss(output, FEW)
    assert loss["auxiliary"] > 1 > 1e-4 > loss["box"]


def test_gradients_of_the_loss():
    boxes = random_objects([2, 1], FEW_RANGE)
    output = random_output(2, number=3)
    leaves = [part.double().requires_grad_() for part in output[:3]]

    def loss(*parts: Tensor) -> Tensor:
        return HEAD.loss(QueryOutput(*parts), boxes)["loss"]

    assert loss(*leaves).dtype == torch.float64
    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind, deterministic_algorithms):
    """Those of a learned query's point by its code and by its box; without objects, too, though some are zero then."""
    head = head_of(kind)
    head.loss(head(bev()), FEW)["loss"].backward()
    assert [name for name, parameter in head.named_parameters() if not parameter.grad.any()] == []
    head.zero_grad()
    nothing = BoxBatch.from_list([torch.zeros(0, 7)] * 3)
    loss = head.loss(head(bev()), nothing)
    assert loss["box"] == loss["overlap"] == 0 < loss["class"]
    loss["loss"].backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []
    assert head.box[-1].weight.grad.abs().sum() == 0 < head.classify.weight.grad.abs().sum()


def test_directions_share_no_layer_with_the_other_codes():
    """Behind the decoder: codes of boxes say nothing to the predictor of directions, nor do directions to theirs."""
    head = head_of()
    loss = head.loss(head(bev()), FEW)
    for part, deaf, told in (("box", head.direction, head.box), ("direction", head.box, head.direction)):
        grads = torch.autograd.grad(loss[part], [*deaf.parameters(), *told.parameters()], retain_graph=True)
        assert not any(grad.any() for grad in grads[: len([*deaf.parameters()])])
        assert all(grad.any() for grad in grads[len([*deaf.parameters()]) :])


def test_directions_are_learned_as_soon_as_boxes_are(deterministic_algorithms):
    """Tokens beside objects know where they are, their size and axis, and less clearly which way they point."""
    torch.manual_seed(0)
    head = QueryHead(10, num_classes=1, queries=SampledQueries(4), range=FEW_RANGE, dim=32, depth=1, num_heads=2)
    optimizer = torch.optim.AdamW(head.parameters(), 2e-3)
    usual = torch.tensor([4.2, 1.7, 1.5])
    for _ in range(200):
        place = torch.rand(8, 4, 3) * torch.tensor([16.0, 16, 1]) - torch.tensor([0, 8, 1])
        aside, size = torch.randn(8, 4, 3) * 0.5, usual + torch.randn(8, 4, 3) * 0.1
        heading = (torch.rand(8, 4, 1) * 2 - 1) * math.pi
        ways = [(2 * heading).cos(), (2 * heading).sin(), 0.5 * heading.cos(), 0.5 * heading.sin()]
        features = torch.cat([aside, size - usual, *ways], 2).flatten(0, 1)
        cloud = PointBatch((place - aside).flatten(0, 1), torch.arange(9) * 4, features, 4)
        loss = head.loss(head(cloud), BoxBatch.from_list([*torch.cat([place, size, heading], 2)]))
        optimizer.zero_grad()
        loss["loss"].backward()
        optimizer.step()
    assert loss["box"] < 0.4
    assert loss["direction"] / DIRECTION_WEIGHT < 0.35  # ln 2 is what it begins with


def test_loss_repeats_and_does_not_depend_on_the_order_of_boxes():
    boxes = random_objects([20, 20], FEW_RANGE)
    order = torch.cat([torch.randperm(20), 20 + torch.randperm(20)])
    shuffled = boxes.replace(boxes=boxes.boxes[order], labels=boxes.labels[order])
    grads = []
    for given in (boxes, boxes, shuffled):
        leaves = [part.clone().requires_grad_() for part in random_output(2)[:3]]
        HEAD.loss(QueryOutput(*leaves), given)["loss"].backward()
        grads.append([leaf.grad for leaf in leaves])
    assert all(map(torch.equal, grads[0], grads[1]))
    for ours, theirs in zip(grads[0], grads[2]):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(kind):
    head = head_of(kind)
    with torch.autocast("cpu", torch.bfloat16):
        output = head(bev())
        loss = head.loss(output, FEW)
        found = head.predict(output, score_threshold=0)
    assert output.box_codes.dtype == torch.bfloat16
    assert output.references.dtype == found.boxes.dtype == found.scores.dtype == torch.float32
    heatmap = output.heatmap and output.heatmap._replace(logits=output.heatmap.logits.float())
    full = head.loss(QueryOutput(*(part.float() for part in output[:3]), heatmap), FEW)
    for name, value in loss.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, full[name])


def test_what_loss_refuses():
    with pytest.raises(ValueError, match="the output is of 2 clouds, the boxes are of 3"):
        HEAD.loss(random_output(2), FEW)
    output = random_output(3)
    output.class_logits[2, 1, 3, 0] = math.nan
    with pytest.raises(FloatingPointError, match=r"query 3 of cloud 2 in layer 1 with box 3, by the class logits"):
        HEAD.loss(output, FEW)


# ---- predictions -----------------------------------------------------------------------------------------------------
def test_thresholds():
    """Two queries with the same cube, one of them three times as sure; the others see nothing."""
    cube = torch.tensor([[4.0, 2, -1, 1, 1, 1, 0.5]])
    output = answer(BoxBatch.from_list([torch.cat([cube, cube])], [torch.tensor([1, 2])]))
    output.class_logits[0, -1, -2] = torch.tensor([0.0, 0, math.log(2), math.log(2 * NO_OBJECT_WEIGHT)])
    found = HEAD.predict(output)
    assert found.labels.tolist() == [1, 2]
    assert found.scores.tolist() == pytest.approx([1, 1 / 3], rel=1e-4)
    torch.testing.assert_close(found.boxes, torch.cat([cube, cube]))
    assert HEAD.predict(output, nms_threshold=0.5).labels.tolist() == [1]
    assert HEAD.predict(output, score_threshold=0.5).labels.tolist() == [1]
    assert HEAD.predict(output, max_outputs=1).labels.tolist() == [1]
    assert len(HEAD.predict(output, score_threshold=0).boxes) == 8


def test_scores_are_as_often_right_as_they_say():
    """Where all queries say the same, the loss is least at the share of queries that there are objects for."""
    share = torch.tensor([2, 1, 1, 8]) / 12  # of FEW, in three clouds of four queries
    logits = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.1)
    apart = random_output(3, layers=1, number=4)
    for _ in range(200):
        output = QueryOutput(logits.expand(3, 1, 4, 4), *apart[1:3])
        optimizer.zero_grad()
        HEAD.loss(output, FEW)["class"].backward()
        optimizer.step()
    torch.testing.assert_close(probabilities(logits), share[:3], rtol=0, atol=1e-3)
    found = HEAD.predict(output, score_threshold=0)
    torch.testing.assert_close(found.scores, torch.full((12,), 1 / 6), rtol=0, atol=1e-3)


def test_clouds_without_detections():
    boxes = HEAD.predict(answer(BoxBatch.from_list([torch.zeros(0, 7)] * 2)))
    assert boxes.offsets.tolist() == [0, 0, 0]


def test_outputs_that_are_no_numbers_are_refused():
    output = answer(FEW)
    output.class_logits[1, 1, 3, 3] = math.nan
    with pytest.raises(ValueError, match=r"1 of 32 scores of cloud 1 are NaN: .* diverged in training"):
        HEAD.predict(output)
    output = answer(FEW)
    output.box_codes[0, 1, -1, 1] = math.inf
    with pytest.raises(ValueError, match=r"1 of 4 boxes that score enough are NaN or infinite: .* diverged"):
        HEAD.predict(output)


# ---- together --------------------------------------------------------------------------------------------------------
def train(head: QueryHead, features: BevMap | PointBatch, steps: int) -> None:
    """Until the head, and what it reads, nothing else, should say FEW."""
    assert features.features is not None
    optimizer = torch.optim.Adam([features.features.requires_grad_(), *head.parameters()], 0.003)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, steps)  # L1 does not settle otherwise
    for _ in range(steps):
        loss = head.loss(head(features), FEW)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()


@pytest.mark.parametrize(
    ("kind", "options"), [("learned", {}), ("sampled", {}), ("heatmap", {}), ("sampled", {"refine": True})]
)
def test_a_handful_of_boxes_is_learned(kind, options):
    """From a map, or from packed tokens anywhere in the range, whose features are free."""
    head = head_of(kind, channels=8, dim=32, max_tokens=64, **options)
    features: BevMap | PointBatch = bev(channels=8)
    if kind != "heatmap":
        points = tokens([40, 20, 30], channels=8)
        features = points.replace(xyz=points.xyz * torch.tensor([1, 1, 0.25]) - torch.tensor([0.0, 8, 3]))
    train(head, features, steps=220 if options else 150)
    found = head.eval().predict(head(features), score_threshold=0.6)
    assert_found(found, FEW)
    assert not (box_iou(found.boxes, found.boxes, view="bev") - torch.eye(4)).gt(0.1).any()  # and nothing twice
