"""A detector that looks ahead finds, all around, what it would find ahead: each object once, in its place."""

import math

import pytest
import torch

from pctransformer.evaluation.sweeps import detect, seen_by, views_around
from pctransformer.ops import box_iou
from pctransformer.voxels import Grid
from tests.fake_detector import AHEAD, ALL_ROUND, BrightPoints, scan_with


def on_circles(radii, step=0.05):
    """Bright points at every angle, far enough from each other that boxes do not touch."""
    rows = []
    for radius in radii:
        count = int(2 * math.pi * radius / 6)
        for i in range(count):
            angle = 2 * math.pi * i / count + step
            rows.append([radius * math.cos(angle), radius * math.sin(angle), -1.0, 0.6 + 0.3 * i / count])
    return torch.tensor(rows)


@pytest.mark.parametrize(
    ("limits", "views"),
    [
        (AHEAD, 7),  # atan(25.6 / 51.2) = 26.57 degrees: 180 / 26.57 = 6.8
        ((0, -40, -3, 70.4, 40, 1), 7),
        ((0, -50, -3, 50, 50, 1), 4),  # +-45 degrees
        ((0, -25.6, -3, 25.6, 51.2, 1), 4),  # the nearer side counts
        (ALL_ROUND, 1),
        ((-30, -50, -3, 50, 50, 1), 1),
        ((-2, -50, -3, 50, 50, 1), 4),
    ],
)
def test_as_many_views_as_it_takes(limits, views):
    assert views_around(Grid(limits[:3], (0.1, 0.1, 4), tuple(round(x) for x in (
        1, (limits[4] - limits[1]) / 0.1, (limits[3] - limits[0]) / 0.1)))) == views  # fmt: skip


def test_what_does_not_look_ahead_cannot_be_turned():
    with pytest.raises(ValueError, match=r"x -50 to -10, y -20 to 20, which is not ahead"):
        views_around(Grid.from_range((-50, -20, -3, -10, 20, 1), (1, 1, 4)))
    with pytest.raises(ValueError, match="not ahead"):
        views_around(Grid.from_range((0, 0, -3, 50, 20, 1), (1, 1, 4)))


@pytest.mark.parametrize("step", [0.0, 0.05, math.pi / 7])  # on borders of views, too
def test_every_object_around_is_found_once(step):
    markers = on_circles((5, 12, 20, 30, 40, 50), step)
    model = BrightPoints()
    found = detect(model, scan_with(markers), around=True)
    assert len(model.seen) == 7
    assert len(found.boxes) == len(markers)
    distance = (found.boxes[:, None, :2] - markers[None, :, :2]).norm(dim=2)
    nearest = distance.min(1)
    assert nearest.values.max() < 1e-4
    assert nearest.indices.unique().numel() == len(markers)
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)
    assert torch.equal(found.scores, markers[nearest.indices, 3])
    # each was seen in a view that looks its way, and turned back with it
    direction = torch.atan2(found.boxes[:, 1], found.boxes[:, 0])
    off = (found.boxes[:, 6] - direction + math.pi) % (2 * math.pi) - math.pi
    assert off.abs().max() < math.pi / 7 + 1.0 / 5 + 1e-4
    assert (found.boxes[:, 6].abs() <= math.pi + 1e-6).all()


def test_ahead_only_without_being_asked_for_more():
    markers = on_circles((12, 30))
    model = BrightPoints()
    found = detect(model, scan_with(markers))
    inside = model.grid.cells(markers[:, :3])[1]
    assert len(model.seen) == 1
    assert len(found.boxes) == int(inside.sum())
    assert (found.boxes[:, 6] == 0).all()


def test_a_model_that_sees_all_around_looks_once():
    markers = on_circles((12, 30, 45))
    model = BrightPoints(ALL_ROUND)
    found = detect(model, scan_with(markers), around=True)
    assert len(model.seen) == 1
    assert len(found.boxes) == len(markers)


def test_of_boxes_that_two_views_find_the_better_is_kept():
    border = math.pi / 7
    near = [[20 * math.cos(border + a), 20 * math.sin(border + a), -1.0, score] for a, score in
            ((-0.01, 0.7), (0.01, 0.9))]  # fmt: skip
    found = detect(BrightPoints(), torch.tensor(near), around=True)
    assert found.scores.tolist() == pytest.approx([0.9])
    overlap = box_iou(found.boxes, found.boxes, view="bev")
    assert overlap.shape == (1, 1)


def test_points_that_are_seen():
    grid = BrightPoints().grid
    points = torch.tensor([[10.0, 0, 0], [-10, 0, 0], [40, 40, 0], [30, 30, 0], [0, -50, 0], [10, 0, 5], [80, 0, 0]])
    assert seen_by(grid, points).tolist() == [True, False, False, False, False, False, False]
    assert seen_by(grid, points, around=True).tolist() == [True, True, False, True, True, False, False]


def test_thresholds_modes_and_scans_without_anything():
    model = BrightPoints().train()
    scan = scan_with([[10.0, 0, -1, 0.6], [20, 0, -2, 0.9]])
    assert detect(model, scan).labels.tolist() == [1, 0]
    assert detect(model, scan, score_threshold=0.8).labels.tolist() == [1]
    assert model.training
    for around in (False, True):
        empty = detect(model, torch.zeros(0, 4), around=around)
        assert len(empty.boxes) == 0
        assert empty.scores.shape == (0,)
    with torch.no_grad():
        model.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="the model gives NaN or infinite boxes"):
        detect(model, scan)
