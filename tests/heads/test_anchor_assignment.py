"""Anchors and which objects they are given: against the rule written out in loops, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pctransformer.boxes import BoxBatch
from pctransformer.heads import assignment
from pctransformer.heads.anchor_layout import KITTI_ANCHORS, AnchorClass, AnchorLayout
from pctransformer.heads.assignment import BACKGROUND, IGNORED, AnchorTargets, assign_anchors
from tests.heads.boxes import random_objects

RANGE = (0.0, -8.0, -3.0, 16.0, 8.0, 1.0)
LAYOUT = AnchorLayout(KITTI_ANCHORS, RANGE, 41, 33)


def rectangle(box: list[float]) -> tuple[float, float, float, float]:
    """Lowest and highest x and y of a box turned to the nearest axis."""
    x, y, _, dx, dy, _, heading = box
    quarter = abs(heading % math.pi - math.pi / 2) <= math.pi / 4
    dx, dy = (dy, dx) if quarter else (dx, dy)
    return x - dx / 2, x + dx / 2, y - dy / 2, y + dy / 2


def overlap(a: list[float], b: list[float]) -> float:
    (ax, ax2, ay, ay2), (bx, bx2, by, by2) = rectangle(a), rectangle(b)
    common = max(0.0, min(ax2, bx2) - max(ax, bx)) * max(0.0, min(ay2, by2) - max(ay, by))
    return float(np.float32(common / ((ax2 - ax) * (ay2 - ay) + (bx2 - bx) * (by2 - by) - common)))


def anchors_one_by_one(layout: AnchorLayout) -> list[tuple[int, list[float]]]:
    """Class and box of every anchor, in order."""
    anchors = []
    for row in range(layout.rows):
        for column in range(layout.columns):
            for label, one in enumerate(layout.classes):
                for heading in (0, 1.57):
                    where = []
                    for axis, place, count in ((0, column, layout.columns), (1, row, layout.rows)):
                        low, high = layout.range[axis], layout.range[axis + 3]
                        share = (place + 0.5) / count if layout.align_center else place / (count - 1)
                        where.append(low + share * (high - low))
                    z = one.bottom + one.height / 2
                    anchors.append((label, [*where, z, one.length, one.width, one.height, heading]))
    return anchors


def by_loops(layout: AnchorLayout, boxes: BoxBatch) -> tuple[list[list[int]], dict[int, int]]:
    """The rule of `assign_anchors`: labels of each cloud, and the row of the box of each anchor that has one."""
    anchors = anchors_one_by_one(layout)
    all_labels, found = [], {}
    for cloud, (begin, end) in enumerate(zip(boxes.offsets.tolist(), boxes.offsets.tolist()[1:])):
        objects = [(row, boxes.boxes[row].tolist(), int(boxes.labels[row])) for row in range(begin, end)]
        table = [
            {row: overlap(anchor, box) for row, box, label in objects if label == of_class}
            for of_class, anchor in anchors
        ]
        claimed = set()
        for row, box, label in objects:
            own = [(a, table[a][row], anchor) for a, (of_class, anchor) in enumerate(anchors) if of_class == label]
            if not own or max(iou for _, iou, _ in own) == 0:
                continue
            nearest = min(math.dist(anchor[:2], box[:2]) for _, _, anchor in own)
            there = [one for one in own if math.dist(one[2][:2], box[:2]) <= nearest + 1e-9]
            best = max(iou for _, iou, _ in there)
            assert best >= max(iou for _, iou, _ in own) - 1e-6, "the nearest anchor overlaps most"
            claimed.add(next(a for a, iou, _ in there if iou == best))
        labels = []
        for a, (of_class, _) in enumerate(anchors):
            best = max(table[a].values(), default=0.0)
            if a in claimed or best >= np.float32(layout.classes[of_class].matched):
                labels.append(of_class)
                found[cloud * len(anchors) + a] = min(row for row, iou in table[a].items() if iou == best)
            else:
                labels.append(BACKGROUND if best < np.float32(layout.classes[of_class].unmatched) else IGNORED)
        all_labels.append(labels)
    return all_labels, found


def pairs(targets: AnchorTargets) -> dict[int, int]:
    kept = targets.anchor >= 0
    assert (targets.anchor[kept].diff() > 0).all()
    assert (targets.box[~kept] == 0).all()
    return dict(zip(targets.anchor[kept].tolist(), targets.box[kept].tolist()))


@pytest.mark.parametrize("align_center", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_anchors_find_what_the_rule_says(seed, align_center):
    layout = AnchorLayout(KITTI_ANCHORS, RANGE, 21, 17, align_center)
    boxes = random_objects([9, 0, 25, 1], RANGE, seed, spread=1.3)
    targets = assign_anchors(layout, boxes)
    labels, found = by_loops(layout, boxes)
    assert targets.labels.tolist() == labels
    assert pairs(targets) == found
    assert set(targets.labels.unique().tolist()) == {IGNORED, BACKGROUND, 0, 1, 2}


def test_one_car_by_hand():
    """Anchors at x = 0, 4, 8, 12, 16 and y = -4, 0, 4, 4 m long and 2 m wide."""
    car = AnchorClass(4.0, 2.0, 1.5, -2.0, 0.6, 0.3)
    layout = AnchorLayout((car,), (0, -4, -3, 16, 4, 1), 3, 5)
    # 1.5 m ahead of the anchor at (4, 0): 2.5 m of 5.5 in common; that at (8, 0) shares 1.5 of 6.5
    boxes = BoxBatch.from_list([torch.tensor([[5.5, 0, -1, 4, 2, 1.5, 0]])])
    labels = assign_anchors(layout, boxes).labels.view(3, 5, 2)
    assert labels[1, 1].tolist() == [0, BACKGROUND]  # claimed; across, 2 of 8 + 8 - 4 m2
    assert labels[1, 2].tolist() == [BACKGROUND, BACKGROUND]
    assert (labels[[0, 2]] == BACKGROUND).all()
    # two objects that claim one anchor: it finds the one that overlaps it more; at (8, 0) 2.5 of 5.5 are ignored
    two = BoxBatch.from_list([torch.tensor([[5.9, 0, -1, 4, 2, 1.5, 0.1], [5, 0, -1, 4, 2, 1.5, -0.1]])])
    targets = assign_anchors(layout, two)
    assert pairs(targets) == {12: 1}  # row 1, column 1, heading 0
    two = BoxBatch.from_list([torch.tensor([[6.5, 0, -1, 4, 2, 1.5, 0.1], [7.5, 0, -1, 4, 2, 1.5, math.pi]])])
    targets = assign_anchors(layout, two)
    assert pairs(targets) == {14: 1}
    assert targets.labels[0, 12] == BACKGROUND  # 1.5 of 6.5
    near = BoxBatch.from_list([torch.tensor([[5.7, 0, -1, 4, 2, 1.5, 0], [8, 0, -1, 4, 2, 1.5, math.pi]])])
    assert pairs(assign_anchors(layout, near)) == {12: 0, 14: 1}
    # of what is equal the lowest: anchors as near, headings of a square, objects in one place
    between = BoxBatch.from_list([torch.tensor([[6.0, 0, -1, 4, 2, 1.5, 0], [12, 2, -1, 4, 2, 1.5, math.pi / 2]])])
    assert pairs(assign_anchors(layout, between)) == {12: 0, 17: 1}  # columns 1 and 3 of row 1
    square = BoxBatch.from_list([torch.tensor([[0.2, 0, -1, 1, 1, 1.5, 0]] * 2)])
    assert pairs(assign_anchors(layout, square)) == {10: 0}


def test_boxes_of_no_class_have_no_effect():
    boxes = random_objects([12, 8], RANGE)
    kept = torch.arange(20) % 3 != 1
    without = BoxBatch.from_list(
        [boxes.boxes[:12][kept[:12]], boxes.boxes[12:][kept[12:]]],
        [boxes.labels[:12][kept[:12]], boxes.labels[12:][kept[12:]]],
    )
    targets = assign_anchors(LAYOUT, boxes.replace(labels=torch.where(kept, boxes.labels, -1)))
    expected = assign_anchors(LAYOUT, without)
    assert torch.equal(targets.labels, expected.labels)
    assert torch.equal(targets.anchor, expected.anchor)
    assert torch.equal(boxes.boxes[targets.box], without.boxes[expected.box])


def test_order_of_boxes_does_not_matter():
    boxes = random_objects([15], RANGE)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(3))
    targets = assign_anchors(LAYOUT, boxes)
    shuffled = assign_anchors(LAYOUT, boxes.replace(boxes=boxes.boxes[order], labels=boxes.labels[order]))
    assert torch.equal(targets.labels, shuffled.labels)
    assert torch.equal(targets.box, order[shuffled.box])


def test_reversed_and_turned_boxes_overlap_alike():
    boxes = random_objects([15], RANGE)
    targets = assign_anchors(LAYOUT, boxes)
    for turn in (math.pi, -4 * math.pi):
        turned = boxes.boxes + torch.tensor([0, 0, 0, 0, 0, 0, turn])
        assert torch.equal(assign_anchors(LAYOUT, boxes.replace(boxes=turned)).labels, targets.labels)


def test_without_objects_all_is_background():
    outside = torch.tensor([[500.0, 3, -1, 4, 2, 1.5, 0], [5, -90, -1, 4, 2, 1.5, 0], [1e30, 0, 0, 1e30, 1, 1, 1e30]])
    for boxes in (
        BoxBatch.from_list([torch.zeros(0, 7)] * 2),
        BoxBatch.from_list([outside, torch.zeros(0, 7)]),
        BoxBatch.from_list([torch.zeros(0, 7), outside], [torch.zeros(0).long(), torch.tensor([-1, -1, 1])]),
    ):
        targets = assign_anchors(LAYOUT, boxes)
        assert targets.labels.shape == (2, LAYOUT.count)
        assert (targets.labels == BACKGROUND).all()
        assert len(targets.anchor) == len(targets.box) == 0


def test_an_object_beside_the_map_that_reaches_into_it_is_found_from_the_edge():
    boxes = BoxBatch.from_list([torch.tensor([[-1.0, 0, -1, 3.9, 1.6, 1.5, 0]])])
    (anchor,) = pairs(assign_anchors(LAYOUT, boxes))
    assert LAYOUT.boxes(torch.tensor(anchor))[:2].tolist() == [0, 0]


def test_a_large_object_claims_one_anchor():
    """A bus among cars: its footprint holds many anchors, which all overlap it alike."""
    bus = BoxBatch.from_list([torch.tensor([[8.1, 0.1, -1, 12, 2.8, 3, 0]])])
    targets = assign_anchors(LAYOUT, bus)
    (anchor,) = pairs(targets)
    assert LAYOUT.boxes(torch.tensor(anchor)).tolist() == pytest.approx([8, 0, -1, 3.9, 1.6, 1.56, 0])
    assert (targets.labels == BACKGROUND).sum() == LAYOUT.count - 1


def test_boxes_that_are_refused():
    boxes = torch.tensor([[5.0, 0, -1, 4, 2, 1.5, 0], [7, 0, -1, 4, 2, 0, 0]])
    with pytest.raises(ValueError, match=r"box 1 is .*2.0, 0.0, 0.0\] of class 0, .* sizes above 0"):
        assign_anchors(LAYOUT, BoxBatch.from_list([boxes]))
    assign_anchors(LAYOUT, BoxBatch.from_list([boxes], [torch.tensor([0, -1])]))
    with pytest.raises(ValueError, match=r"box 0 is .* of class 3, but the head knows the classes 0 to 2"):
        assign_anchors(LAYOUT, BoxBatch.from_list([boxes[:1]], [torch.tensor([3])]))
    boxes[0, 4] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        assign_anchors(LAYOUT, BoxBatch(boxes[:1], torch.tensor([0, 1]), torch.tensor([0])))


def test_what_cuda_does_without_looking(monkeypatch):
    """The same on the CPU, told that it must not look at values: boxes left out, and as many rows as there could be."""
    boxes = random_objects([9, 0, 25], RANGE, spread=1.2)
    expected = assign_anchors(LAYOUT, boxes)
    wrong = torch.tensor([[math.nan, 0, 0, 4, 2, 1.5, 0], [5, 0, -1, 4, 0, 1.5, 0], [5, 0, -1, 4, 2, math.inf, 0]])
    of_no_class = boxes.boxes[:1] + 0.5
    with_wrong = BoxBatch(
        torch.cat([boxes.boxes, wrong, of_no_class]), torch.tensor([0, 9, 9, 38]),
        torch.cat([boxes.labels, torch.tensor([0, 0, 1, 3])]),
    )  # fmt: skip
    monkeypatch.setattr(assignment, "_may_look", lambda values: False)
    for given in (boxes, with_wrong):
        targets = assign_anchors(LAYOUT, given)
        assert torch.equal(targets.labels, expected.labels)
        assert pairs(targets) == pairs(expected)
        assert len(targets.anchor) > len(expected.anchor)


@pytest.mark.cuda
def test_cuda_finds_what_the_cpu_finds():
    boxes = random_objects([9, 0, 25], RANGE, spread=1.2)
    expected, targets = assign_anchors(LAYOUT, boxes), assign_anchors(LAYOUT, boxes.to("cuda"))
    assert torch.equal(targets.labels.cpu(), expected.labels)
    assert pairs(AnchorTargets(*(values.cpu() for values in targets))) == pairs(expected)
