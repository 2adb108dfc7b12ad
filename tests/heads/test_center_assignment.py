"""Heat maps drawn for a centre head: against the rule written out in loops, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pctransformer.boxes import BoxBatch
from pctransformer.heads import assignment
from pctransformer.heads.assignment import draw_centers, gaussian_radius
from pctransformer.voxels import Grid
from tests.heads.boxes import random_objects

RANGE = (0.0, -8.0, -3.0, 16.0, 8.0, 1.0)


def least_radius(length: float, width: float, overlap: float = 0.1) -> float:
    """The three radii of CornerNet's code, each half of -b + sqrt(b^2 - 4 a c), in the signs used there."""
    radii = []
    for a, b, c, sign in (
        (1, length + width, length * width * (1 - overlap) / (1 + overlap), 1),
        (4, 2 * (length + width), (1 - overlap) * length * width, 1),
        (4 * overlap, -2 * overlap * (length + width), (overlap - 1) * length * width, 1),
    ):
        radii.append((b + sign * math.sqrt(b * b - 4 * a * c)) / 2)
    return min(radii)


def by_loops(grid: Grid, boxes: BoxBatch, num_classes: int) -> tuple[Tensor, list[int], list[list[float]]]:
    _, ny, nx = grid.shape
    heatmap = torch.zeros(len(boxes), num_classes, ny, nx)
    cells, codes = [], []
    for cloud, label, box in zip(boxes.batch_index.tolist(), boxes.labels.tolist(), boxes.boxes.tolist()):
        place = [(box[axis] - grid.low[axis]) / grid.voxel_size[axis] for axis in (0, 1)]
        x, y = math.floor(place[0]), math.floor(place[1])
        if label < 0 or not (0 <= x < nx and 0 <= y < ny):
            cells.append(-1)
            codes.append([0.0] * 8)
            continue
        cells.append((cloud * ny + y) * nx + x)
        codes.append([place[0] - x, place[1] - y, box[2], *map(math.log, box[3:6]), math.cos(box[6]), math.sin(box[6])])
        radius = max(2, math.floor(least_radius(box[3] / grid.voxel_size[0], box[4] / grid.voxel_size[1])))
        sigma = (2 * radius + 1) / 6
        for i in range(max(0, y - radius), min(ny, y + radius + 1)):
            for j in range(max(0, x - radius), min(nx, x + radius + 1)):
                value = math.exp(-((i - y) ** 2 + (j - x) ** 2) / (2 * sigma**2))
                heatmap[cloud, label, i, j] = max(heatmap[cloud, label, i, j].item(), value)
    return heatmap, cells, codes


@pytest.mark.parametrize("size", [0.25, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_heat_maps_are_what_the_rule_says(seed, size):
    grid = Grid.from_range(RANGE, (size, size / 2, 4.0))
    boxes = random_objects([9, 0, 25, 1], RANGE, seed, spread=1.2)
    boxes = boxes.replace(labels=torch.where(torch.arange(35) % 7 == 3, -1, boxes.labels))
    targets = draw_centers(grid, boxes, 3)
    heatmap, cells, codes = by_loops(grid, boxes, 3)
    torch.testing.assert_close(targets.heatmap, heatmap)
    assert targets.cell.tolist() == cells
    assert -1 in cells
    torch.testing.assert_close(targets.codes, torch.tensor(codes), rtol=1e-5, atol=2e-5)
    # peaks are exactly 1, and nothing else is
    peaks = {(cell, label) for cell, label in zip(cells, boxes.labels.tolist()) if cell >= 0}
    assert int((targets.heatmap == 1).sum()) == len(peaks)


def test_one_car_by_hand():
    """A car of 4 x 1.6 m in cells of 0.4 m: 10 by 4 cells, grown radius (-2.8 + sqrt(7.84 + 57.6)) / 2 = 2.64."""
    assert gaussian_radius(torch.tensor(10.0), torch.tensor(4.0)).item() == pytest.approx((-2.8 + 65.44**0.5) / 2)
    grid = Grid((0.0, 0.0, -3.0), (0.4, 0.4, 4.0), (1, 6, 8))
    boxes = BoxBatch.from_list([torch.tensor([[2.1, 0.5, -1, 4, 1.6, 1.5, math.pi / 2]])])
    targets = draw_centers(grid, boxes, 1)
    assert targets.cell.tolist() == [1 * 8 + 5]
    expected = [0.25, 0.25, -1, math.log(4), math.log(1.6), math.log(1.5), 0, 1]
    assert targets.codes[0].tolist() == pytest.approx(expected, abs=1e-5)
    near, far = math.exp(-1 / (2 * (5 / 6) ** 2)), math.exp(-4 / (2 * (5 / 6) ** 2))
    row = [0, 0, 0, far, near, 1, near, far]
    assert targets.heatmap[0, 0, 1].tolist() == pytest.approx([max(0, value) for value in row])
    assert targets.heatmap[0, 0, :, 5].tolist() == pytest.approx([near, 1, near, far, 0, 0])


GRID = Grid.from_range(RANGE, (0.5, 0.5, 4.0))


def test_order_of_boxes_does_not_matter():
    boxes = random_objects([15], RANGE)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(3))
    targets = draw_centers(GRID, boxes, 3)
    shuffled = draw_centers(GRID, boxes.replace(boxes=boxes.boxes[order], labels=boxes.labels[order]), 3)
    assert torch.equal(targets.heatmap, shuffled.heatmap)
    assert torch.equal(targets.codes[order], shuffled.codes)
    assert torch.equal(targets.cell[order], shuffled.cell)


def test_two_objects_in_one_cell_share_it():
    one, other = [3.1, 0.2, -1, 0.8, 0.6, 1.7, 0], [3.3, 0.3, -1, 0.8, 0.6, 1.7, 1]
    both = draw_centers(GRID, BoxBatch.from_list([torch.tensor([one, other])]), 1)
    alone = draw_centers(GRID, BoxBatch.from_list([torch.tensor([one])]), 1)
    assert both.cell.tolist() == [16 * 32 + 6] * 2
    assert torch.equal(both.heatmap, alone.heatmap)
    assert torch.equal(both.codes[:1], alone.codes)


def test_without_objects_the_map_is_empty():
    outside = torch.tensor([[500.0, 3, -1, 4, 2, 1.5, 0], [-0.01, 0, -1, 4, 2, 1.5, 0], [16, 0, -1, 4, 2, 1.5, 0]])
    for boxes in (torch.zeros(0, 7), outside):
        targets = draw_centers(GRID, BoxBatch.from_list([torch.zeros(0, 7), boxes]), 2)
        assert targets.heatmap.shape == (2, 2, 32, 32)
        assert not targets.heatmap.any()
        assert targets.cell.tolist() == [-1] * len(boxes)
    above = draw_centers(GRID, BoxBatch.from_list([torch.tensor([[3.0, 0, 50, 4, 2, 1.5, 0]])]), 2)
    assert above.heatmap.max() == 1


def test_the_largest_object_reaches_32_cells():
    boxes = BoxBatch.from_list([torch.tensor([[8.0, 0, 0, 1e25, 1e30, 1, 0]])])
    heatmap = draw_centers(Grid((0.0, -8.0, -3.0), (0.1, 0.1, 4.0), (1, 160, 160)), boxes, 1).heatmap[0, 0]
    assert (heatmap > 0).sum() == 65**2
    assert heatmap[80, 80 + 32].item() == pytest.approx(math.exp(-(32**2) / (2 * (65 / 6) ** 2)), rel=1e-4)


def test_boxes_that_are_refused():
    boxes = torch.tensor([[5.0, 0, -1, 4, 2, 0, 0]])
    with pytest.raises(ValueError, match="sizes above 0"):
        draw_centers(GRID, BoxBatch.from_list([boxes]), 1)
    with pytest.raises(ValueError, match="of class 1, but the head knows the classes 0 to 0"):
        draw_centers(GRID, BoxBatch.from_list([boxes], [torch.tensor([1])]), 1)


def test_what_cuda_does_without_looking(monkeypatch):
    """The same on the CPU, told that it must not look at values: boxes left out, and the largest reach for all."""
    boxes = random_objects([9, 0, 25], RANGE, spread=1.2)
    expected = draw_centers(GRID, boxes, 3)
    wrong = torch.tensor([[math.nan, 0, 0, 4, 2, 1.5, 0], [5, 0, -1, 4, 0, 1.5, 0], [5, 0, -1, 4, 2, 1.5, 0]])
    with_wrong = BoxBatch(
        torch.cat([boxes.boxes, wrong]), torch.tensor([0, 9, 9, 37]), torch.cat([boxes.labels, torch.tensor([0, 1, 3])])
    )
    monkeypatch.setattr(assignment, "_may_look", lambda values: False)
    for given in (boxes, with_wrong):
        targets = draw_centers(GRID, given, 3)
        assert torch.equal(targets.heatmap, expected.heatmap)
        assert targets.cell.tolist() == expected.cell.tolist() + [-1] * (len(given.boxes) - 34)
        assert torch.equal(targets.codes[:34], expected.codes)


@pytest.mark.cuda
def test_cuda_draws_what_the_cpu_draws():
    boxes = random_objects([9, 0, 25], RANGE, spread=1.2)
    for expected, found in zip(draw_centers(GRID, boxes, 3), draw_centers(GRID, boxes.to("cuda"), 3)):
        torch.testing.assert_close(found.cpu(), expected)
