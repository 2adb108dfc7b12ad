from __future__ import annotations

import numpy as np
import pytest
import torch

from pctransformer.heads.anchor import AnchorHead
from pctransformer.heads.anchor_layout import KITTI_ANCHORS, AnchorClass, AnchorLayout, anchors_from_boxes
from tests.heads.boxes import random_objects

RANGE = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
CAR = AnchorClass(4.0, 2.0, 1.5, -2.0, 0.6, 0.45)


def test_published_numbers_of_anchors():
    assert AnchorLayout(KITTI_ANCHORS, RANGE, 200, 176).count == 211_200
    assert AnchorLayout(KITTI_ANCHORS, (0, -39.68, -3, 69.12, 39.68, 1), 248, 216).count == 321_408


def test_anchors_reach_from_edge_to_edge():
    boxes = AnchorLayout(KITTI_ANCHORS, RANGE, 200, 176).all_boxes().view(200, 176, 3, 2, 7)
    assert boxes[0, 0, 0, 0].tolist() == pytest.approx([0, -40, -1, 3.9, 1.6, 1.56, 0])
    assert boxes[199, 175, 2, 1].tolist() == pytest.approx([70.4, 40, 0.265, 1.76, 0.6, 1.73, 1.57])
    torch.testing.assert_close(boxes[7, :, 1, 0, 0], torch.linspace(0, 70.4, 176))
    torch.testing.assert_close(boxes[:, 9, 1, 1, 1], torch.linspace(-40, 40, 200))


def test_anchors_on_centres_of_cells():
    layout = AnchorLayout((CAR,), (0, -4, -3, 16, 4, 1), 2, 4, align_center=True)
    boxes = layout.all_boxes().view(2, 4, 1, 2, 7)
    assert boxes[0, :, 0, 0, 0].tolist() == [2, 6, 10, 14]
    assert boxes[:, 0, 0, 1, 1].tolist() == [-2, 2]
    one = AnchorLayout((CAR,), (0, -4, -3, 16, 4, 1), 1, 1)
    assert one.all_boxes()[:, :2].tolist() == [[8, 0], [8, 0]]


def test_boxes_of_some_anchors():
    layout = AnchorLayout(KITTI_ANCHORS, RANGE, 6, 5)
    index = torch.tensor([[179, 0, 7], [33, 100, 64]])
    assert torch.equal(layout.boxes(index), layout.all_boxes()[index])


# ---- anchors of one's own --------------------------------------------------------------------------------------------
def test_anchors_are_mean_sizes_and_bottoms():
    boxes = torch.tensor(
        [
            [0, 0, 1.0, 4, 2, 1, 0],
            [9, 9, 2.0, 6, 2, 2, 1],
            [5, 5, 0.0, 0.5, 0.75, 1.5, 2],
            [5, 5, 9.0, 99, 99, 99, 2],
        ]
    )
    car, walker = anchors_from_boxes(boxes, torch.tensor([0, 0, 1, -1]), 2)
    assert car == AnchorClass(5, 2, 1.5, 0.75, 0.6, 0.45)
    assert walker == AnchorClass(0.5, 0.75, 1.5, -0.75, 0.5, 0.35)
    assert anchors_from_boxes(boxes.numpy(), np.array([0, 0, 1, -1]), 2) == (car, walker)
    assert AnchorHead(4, anchors=(car, walker), range=RANGE).num_classes == 2


def test_anchors_of_objects_like_kittis_are_like_kittis():
    objects = random_objects([600], RANGE)
    for one, expected in zip(anchors_from_boxes(objects.boxes, objects.labels, 3), KITTI_ANCHORS):
        assert one[:3] == pytest.approx(expected[:3], rel=0.03)
        assert one[4:] == expected[4:]


def test_what_no_anchors_can_be_made_of():
    boxes, labels = np.ones((3, 7)), np.array([0, 2, -1])
    with pytest.raises(ValueError, match=r"no box has the class 1, .* give more scans"):
        anchors_from_boxes(boxes, labels, 3)
    with pytest.raises(ValueError, match="box 1 has label 2, which is not one of 2 classes"):
        anchors_from_boxes(boxes, labels, 2)
    with pytest.raises(ValueError, match=r"must be \(M, 7\) and labels \(M,\), got \(3, 6\)"):
        anchors_from_boxes(boxes[:, :6], labels, 3)
    with pytest.raises(ValueError, match="finite, with sizes above 0"):
        anchors_from_boxes(boxes * [1, 1, 1, 1, 0, 1, 1], labels, 3)
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        anchors_from_boxes(boxes, labels, 0)


def test_heads_refuse_anchors_that_are_none():
    for anchors, text in (
        ([], "at least one class"),
        ([CAR, CAR._replace(width=0.0)], r"class 1 must have positive sizes, got \(4.0, 0.0, 1.5\)"),
        ([CAR._replace(matched=0.3)], "0 < unmatched <= matched <= 1, got matched 0.3 and unmatched 0.45"),
        ([CAR._replace(unmatched=0.0)], "0 < unmatched"),
        ([(4.0, 2.0, 1.5)], "six finite numbers"),
        ([CAR._replace(bottom=float("nan"))], "six finite numbers"),
    ):
        with pytest.raises(ValueError, match=text):
            AnchorHead(4, anchors=anchors, range=RANGE)
    for limits in ((0, 0, 0, 1, 1), (0, 0, 0, 1, 0, 1)):
        with pytest.raises(ValueError, match="a range is x, y, z of the lowest corner"):
            AnchorHead(4, range=limits)
