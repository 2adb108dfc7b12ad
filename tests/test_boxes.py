import dataclasses
import doctest
import math

import numpy as np
import pytest
import torch

import pctransformer.boxes
from pctransformer import BoxBatch
from pctransformer.boxes import bottom_from_center, box_corners, center_from_bottom, limit_period
from pctransformer.ops import box_iou, box_nms, points_in_boxes
from tests.ops.boxes import cars


def batch(scores=True):
    """Three clouds of two, no and three boxes."""
    boxes = cars(5, span=3)
    labels, values = torch.tensor([0, 1, -1, 2, 0]), torch.tensor([0.5, 0.9, 0.1, 0.7, 0.3])
    return BoxBatch(boxes, torch.tensor([0, 2, 2, 5]), labels, values if scores else None)


def test_what_it_holds():
    boxes = batch()
    assert len(boxes) == 3
    assert boxes.lengths.tolist() == [2, 0, 3]
    assert boxes.batch_index.tolist() == [0, 0, 2, 2, 2]
    assert repr(boxes) == "BoxBatch(3 clouds, 5 boxes, with scores, cpu)"
    assert repr(batch(scores=False)) == "BoxBatch(3 clouds, 5 boxes, cpu)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        boxes.labels = boxes.labels


def test_from_list_packs_arrays_and_tensors():
    boxes = cars(3)
    made = BoxBatch.from_list(
        [boxes[:1], np.zeros((0, 7)), boxes[1:].double().numpy()],
        labels=[np.array([2], dtype=np.int32), np.zeros(0, dtype=np.int64), torch.tensor([-1, 0])],
        scores=[torch.tensor([0.5]), torch.zeros(0), np.array([0.25, 1.0])],
    )
    assert torch.equal(made.boxes, boxes)
    assert made.offsets.tolist() == [0, 1, 1, 3]
    assert made.labels.tolist() == [2, -1, 0]
    assert made.scores.tolist() == [0.5, 0.25, 1.0]
    assert made.boxes.dtype == made.scores.dtype == torch.float32
    plain = BoxBatch.from_list([boxes])
    assert plain.labels.tolist() == [0, 0, 0]
    assert plain.scores is None


def test_split_and_from_list_are_inverse():
    boxes = batch()
    parts = boxes.split()
    assert [len(part.boxes) for part in parts] == [2, 0, 3]
    again = BoxBatch.from_list(*([getattr(part, name) for part in parts] for name in ("boxes", "labels", "scores")))
    for name in ("boxes", "offsets", "labels", "scores"):
        assert torch.equal(getattr(again, name), getattr(boxes, name))
    assert batch(scores=False).split()[0].scores is None


def test_replace_and_to_share_or_move_everything():
    boxes = batch()
    ignored = boxes.replace(labels=torch.full((5,), -1))
    assert ignored.boxes is boxes.boxes
    assert boxes.labels.tolist() == [0, 1, -1, 2, 0]
    moved = boxes.to("meta")
    assert {moved.boxes.device.type, moved.offsets.device.type, moved.labels.device.type, moved.scores.device.type} == {
        "meta"
    }


def test_take_what_suppression_keeps():
    boxes = batch()
    kept = boxes.take(*box_nms(boxes.boxes, boxes.offsets, boxes.scores, 0.9, max_outputs=1))
    assert kept.offsets.tolist() == [0, 1, 1, 2]
    assert kept.scores.tolist() == pytest.approx([0.9, 0.7])
    assert kept.labels.tolist() == [1, 2]
    assert torch.equal(kept.boxes, boxes.boxes[[1, 3]])


# ---- corners and angles ----------------------------------------------------------------------------------------------
def test_corners_by_hand():
    """A car that drives to the left (+y): its front left corner is behind-left in the frame, at lower x."""
    corners = box_corners(torch.tensor([10.0, 5, -1, 4, 2, 1.5, math.pi / 2]))
    expected = [[9, 7], [9, 3], [11, 3], [11, 7]]
    torch.testing.assert_close(corners[:4, :2], torch.tensor(expected, dtype=torch.float32))
    torch.testing.assert_close(corners[4:, :2], corners[:4, :2])
    assert corners[:4, 2].unique().tolist() == [-1.75]
    assert corners[4:, 2].unique().tolist() == [-0.25]
    assert batch().corners().shape == (5, 8, 3)


def test_corners_agree_with_points_in_boxes():
    boxes = cars(30)
    boxes[:, 0] = 20 * torch.arange(30)  # apart from each other
    corners = box_corners(boxes)
    centre, ends = boxes[:, None, :3], torch.tensor([0, 240])
    for factor, inside in ((0.999, True), (1.001, False)):
        found = points_in_boxes(
            (centre + factor * (corners - centre)).reshape(-1, 3), ends, boxes, torch.tensor([0, 30])
        )
        own = found == torch.arange(30).repeat_interleave(8)
        assert own.all() if inside else not own.any()


def test_corners_have_gradients():
    boxes = cars(2).double().requires_grad_()
    assert torch.autograd.gradcheck(box_corners, (boxes,))


def test_limit_period():
    angle = torch.tensor([0.0, 3.0, math.pi, -math.pi, 7.0, -7.0, 100.0, -1e-9], dtype=torch.float64)
    around = limit_period(angle)
    assert ((around >= -math.pi) & (around < math.pi)).all()
    torch.testing.assert_close(around.cos(), angle.cos())
    torch.testing.assert_close(around.sin(), angle.sin())
    assert around[:2].tolist() == [0, 3]
    up = limit_period(angle.float(), offset=0.0)
    assert ((up >= 0) & (up < 2 * math.pi)).all()
    half = limit_period(angle, period=math.pi)
    assert ((half >= -math.pi / 2) & (half < math.pi / 2)).all()
    torch.testing.assert_close((2 * half).cos(), (2 * angle).cos())


def test_bottom_and_center():
    boxes = cars(4)
    bottom = bottom_from_center(boxes)
    torch.testing.assert_close(bottom[:, 2], box_corners(boxes)[:, 0, 2])
    torch.testing.assert_close(center_from_bottom(bottom), boxes)
    assert torch.equal(bottom[:, 3:], boxes[:, 3:])


def test_the_reverse_heading_is_the_same_box():
    boxes = cars(10)
    turned = torch.cat([boxes[:, :6], limit_period(boxes[:, 6:] + math.pi)], 1)
    torch.testing.assert_close(box_iou(boxes, turned, aligned=True), torch.ones(10), rtol=0, atol=2e-6)


# ---- errors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"boxes": torch.rand(5, 9)}, ValueError, r"boxes must be \(M, 7\).* velocities"),
        ({"boxes": torch.rand(5, 7).double()}, TypeError, "float32"),
        ({"offsets": torch.tensor([0, 5]).int()}, TypeError, "offsets must be int64"),
        ({"labels": torch.zeros(5)}, TypeError, "labels must be int64"),
        ({"labels": torch.zeros(4).long()}, ValueError, "labels must be .* 5 boxes"),
        ({"scores": torch.zeros(5, 1)}, ValueError, "scores must be .* 5 boxes"),
        ({"scores": torch.zeros(5).long()}, TypeError, "scores must be of a floating type"),
    ],
)
def test_bad_parts_are_explained(change, error, text):
    with pytest.raises(error, match=text):
        batch().replace(**change)


def changed(row, column, value):
    boxes = cars(4)
    boxes[row, column] = value
    return [boxes]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (([],), ValueError, r"at least one cloud.*torch.zeros\(0, 7\)"),
        (([torch.zeros(7)],), ValueError, r"boxes\[0\] must be \(M, 7\)"),
        ((["car"],), TypeError, "torch.Tensor"),
        (([np.array([["car"] * 7])],), TypeError, "must hold numbers"),
        ((changed(2, 6, torch.nan),), ValueError, "box 2, .* holds NaN"),
        ((changed(1, 4, -2.0),), ValueError, "box 1, .* negative size"),
        (([cars(2)], [torch.tensor([0, -2])]), ValueError, "box 1.* below -1"),
        (([cars(2)], [torch.tensor([0.0, 1.0])]), TypeError, "whole numbers"),
        (
            ([cars(2), cars(1)], [torch.tensor([0, 1])]),
            ValueError,
            r"labels must hold \(m,\) for each cloud, .*\[2, 1\]",
        ),
        (([cars(2)], None, [torch.rand(3)]), ValueError, r"scores must hold"),
    ],
)
def test_bad_lists_are_explained(arguments, error, text):
    with pytest.raises(error, match=text):
        BoxBatch.from_list(*arguments)


@pytest.mark.parametrize(
    ("offsets", "text"), [([0, 3], "from 0 to the number of boxes, 5"), ([1, 5], "from 0"), ([0, 4, 2, 5], "decrease")]
)
def test_validate_checks_offsets(offsets, text):
    with pytest.raises(ValueError, match=text):
        batch().replace(offsets=torch.tensor(offsets)).validate()


def test_documented_examples():
    assert doctest.testmod(pctransformer.boxes, extraglobs={"torch": torch}).failed == 0
