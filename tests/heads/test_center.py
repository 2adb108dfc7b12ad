"""The centre head: what its loss is, what it finds, and that the two belong together."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pctransformer.boxes import BoxBatch
from pctransformer.heads.assignment import draw_centers
from pctransformer.heads.center import CenterHead, CenterOutput
from pctransformer.voxels import BevMap, Grid
from tests.heads.boxes import FEW, FEW_GRID, FEW_RANGE, assert_found, fit, random_objects

GRID = Grid.from_range(FEW_RANGE, (1.0, 1.0, 4.0))


def output_of(heatmap: Tensor, codes: Tensor, grid: Grid = GRID) -> CenterOutput:
    return CenterOutput(heatmap, *codes.split([2, 1, 3, 2], 1), grid)


def random_output(clouds: int, seed: int = 0) -> CenterOutput:
    torch.manual_seed(seed)
    return output_of(torch.randn(clouds, 3, 16, 16) - 2, torch.randn(clouds, 8, 16, 16))


def silent(clouds: int = 1) -> CenterOutput:
    """An output that finds nothing, whose boxes are cubes of a metre on the corners of cells, all ahead."""
    codes = torch.zeros(clouds, 8, 16, 16)
    codes[:, 6] = 1
    return output_of(torch.full((clouds, 3, 16, 16), -9.0), codes)


HEAD = CenterHead(4, num_classes=3, channels=8)


def found(output: CenterOutput, **settings: float) -> list[tuple[int, int]]:
    """Cloud and class of each box found."""
    boxes = HEAD.predict(output, **settings)  # type: ignore[arg-type]
    return list(zip(boxes.batch_index.tolist(), boxes.labels.tolist()))


# ---- the layers ------------------------------------------------------------------------------------------------------
def test_a_fresh_head_believes_that_little_is_there():
    torch.manual_seed(0)
    head = CenterHead(32, num_classes=4)
    shared, branch = 32 * 64 * 9 + 128, 64 * 64 * 9 + 128
    assert sum(parameter.numel() for parameter in head.parameters()) == (
        shared + 5 * branch + (4 + 2 + 1 + 3 + 2) * (64 * 9 + 1)
    )
    output = head(BevMap(torch.randn(2, 32, 16, 16), GRID))
    assert [tuple(values.shape[1:]) for values in output[:5]] == [(c, 16, 16) for c in (4, 2, 1, 3, 2)]
    assert torch.equal(head.heatmap[-1].bias, torch.full((4,), -2.19))
    assert output.heatmap.sigmoid().mean().item() == pytest.approx(0.1, abs=0.03)
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        CenterHead(4, num_classes=0)


# ---- loss ------------------------------------------------------------------------------------------------------------
def loss_by_loops(output: CenterOutput, boxes: BoxBatch) -> dict[str, float]:
    targets = draw_centers(output.grid, boxes, 3)
    heat = 0.0
    pixels = list(zip(output.heatmap.flatten().tolist(), targets.heatmap.flatten().tolist()))
    for logit, target in pixels:
        p = 1 / (1 + math.exp(-logit))
        heat -= (1 - p) ** 2 * math.log(p) if target == 1 else (1 - target) ** 4 * p**2 * math.log(1 - p)
    codes = torch.cat(output[1:5], 1)
    box, objects = 0.0, 0
    for row, cell in enumerate(targets.cell.tolist()):
        if cell >= 0:
            objects += 1
            there = codes[cell // 256, :, cell % 256 // 16, cell % 16].tolist()
            box += sum(abs(one - other) for one, other in zip(there, targets.codes[row].tolist()))
    peaks = sum(target == 1 for _, target in pixels)
    return {"heatmap": heat / max(1, peaks), "box": 2 * box / max(1, objects)}


@pytest.mark.parametrize("seed", range(2))
def test_loss_is_the_sum_of_its_parts_as_published(seed):
    boxes = random_objects([6, 0, 21], FEW_RANGE, seed, spread=1.1)
    boxes = boxes.replace(labels=torch.where(torch.arange(27) == 4, -1, boxes.labels))
    output = random_output(3, seed)
    loss, expected = HEAD.loss(output, boxes), loss_by_loops(output, boxes)
    assert {name: value.item() for name, value in loss.items() if name != "loss"} == pytest.approx(expected, rel=1e-4)
    assert loss["loss"].item() == pytest.approx(sum(expected.values()), rel=1e-4)


def test_what_is_there_is_found_and_costs_almost_nothing():
    boxes = FEW
    targets = draw_centers(FEW_GRID, boxes, 3)
    codes = torch.zeros(3 * 32 * 32, 8)
    codes[targets.cell] = targets.codes
    heatmap = torch.where(targets.heatmap == 1, 20.0, -20.0)
    output = output_of(heatmap, codes.view(3, 32, 32, 8).permute(0, 3, 1, 2), FEW_GRID)
    assert HEAD.loss(output, boxes)["loss"].item() < 1e-5
    detections = HEAD.predict(output)
    order = detections.labels.argsort(stable=True)
    assert torch.equal(detections.offsets, boxes.offsets)
    expected = boxes.boxes[boxes.labels.argsort(stable=True)]
    for row in detections.boxes[order]:
        assert (expected - row).abs().amax(1).min() < 1e-5


def test_gradients_of_the_loss():
    grid = Grid.from_range(FEW_RANGE, (8.0, 4.0, 4.0))
    boxes = random_objects([5, 2], FEW_RANGE)
    torch.manual_seed(0)
    leaves = [torch.randn(2, channels, 4, 2).double().requires_grad_() for channels in (3, 8)]

    def loss(heatmap: Tensor, codes: Tensor) -> Tensor:
        return HEAD.loss(output_of(heatmap, codes, grid), boxes)["loss"]

    assert loss(*leaves).dtype == torch.float64
    assert torch.autograd.gradcheck(loss, leaves)


def test_two_objects_in_one_cell_both_pull():
    """The gradient of L1 at 0.3, between targets 0.1 and 0.6 of one cell, cancels; beyond both it is doubled."""
    boxes = BoxBatch.from_list(
        [torch.tensor([[3.1, -7.5, -1, 1, 1, 1, 0], [3.6, -7.5, -1, 1, 1, 1, 0]])], [torch.tensor([0, 1])]
    )
    for answer, gradient in ((0.3, 0.0), (0.9, 2 * 2 / 2)):
        codes = torch.full((1, 8, 16, 16), answer, requires_grad=True)
        HEAD.loss(output_of(torch.zeros(1, 3, 16, 16), codes), boxes)["box"].backward()
        assert codes.grad[0, 0, 0, 3].item() == gradient


def test_loss_without_objects_trains_the_heat_map_alone_but_reaches_every_parameter():
    head = CenterHead(4, num_classes=3, channels=8)
    loss = head.loss(head(BevMap(torch.randn(2, 4, 16, 16), GRID)), BoxBatch.from_list([torch.zeros(0, 7)] * 2))
    assert loss["box"] == 0 < loss["heatmap"]
    loss["loss"].backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert head.heatmap[0].weight.grad.abs().sum() > 0 == head.size[0].weight.grad.abs().sum()


def test_loss_repeats_and_does_not_depend_on_the_order_of_boxes():
    boxes = random_objects([20, 20], FEW_RANGE)
    order = torch.cat([torch.randperm(20), 20 + torch.randperm(20)])
    shuffled = boxes.replace(boxes=boxes.boxes[order], labels=boxes.labels[order])
    output = random_output(2)
    grads = []
    for given in (boxes, boxes, shuffled):
        leaves = [values.clone().requires_grad_() for values in output[:5]]
        HEAD.loss(CenterOutput(*leaves, GRID), given)["loss"].backward()
        grads.append([leaf.grad for leaf in leaves])
    for other in grads[1:]:
        assert all(torch.equal(a, b) for a, b in zip(grads[0], other))


def test_half_precision():
    boxes = random_objects([5, 3], FEW_RANGE)
    with torch.autocast("cpu", torch.bfloat16):
        output = HEAD(BevMap(torch.randn(2, 4, 16, 16), GRID))
        loss = HEAD.loss(output, boxes)
        detections = HEAD.predict(output, score_threshold=0)
    assert output.size.dtype == torch.bfloat16
    assert detections.boxes.dtype == detections.scores.dtype == torch.float32
    full = HEAD.loss(CenterOutput(*(values.float() for values in output[:5]), GRID), boxes)
    for name, value in loss.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, full[name])


def test_loss_wants_boxes_of_the_same_clouds():
    with pytest.raises(ValueError, match="the output is of 2 clouds, the boxes are of 3"):
        HEAD.loss(random_output(2), FEW)


def test_loss_needs_no_value_but_on_the_cpu():
    """Tensors without values, as a GPU that is not waited for."""
    leaves = [torch.zeros(3, channels, 16, 16, device="meta", requires_grad=True) for channels in (3, 2, 1, 3, 2)]
    HEAD.loss(CenterOutput(*leaves, GRID), FEW.to("meta"))["loss"].backward()
    assert all(leaf.grad.shape == leaf.shape for leaf in leaves)


# ---- predictions -----------------------------------------------------------------------------------------------------
def test_one_peak_by_hand():
    output = silent(2)
    output.heatmap[1, 2, 5, 10] = 2.0
    codes = [0.25, 0.75, -1.5, math.log(4), math.log(2), 0, -3, 3]
    for maps, values in zip(output[1:5], (codes[:2], codes[2:3], codes[3:6], codes[6:])):
        maps[1, :, 5, 10] = torch.tensor(values)
    boxes = HEAD.predict(output)
    assert boxes.offsets.tolist() == [0, 0, 1]
    assert boxes.labels.tolist() == [2]
    assert boxes.scores.tolist() == pytest.approx([1 / (1 + math.exp(-2))])
    assert boxes.boxes[0].tolist() == pytest.approx([10.25, -8 + 5.75, -1.5, 4, 2, 1, 3 * math.pi / 4])


def test_of_boxes_that_overlap_the_best_is_kept_whatever_the_classes():
    """Cubes of a metre, a metre apart: they touch."""
    output = silent()
    output.heatmap[0, 0, 5, 10] = 1.0
    output.heatmap[0, 1, 5, 10] = 2.0
    output.heatmap[0, 2, 5, 11] = 0.0
    output.heatmap[0, 2, 9, 3] = -3.0
    assert found(output) == [(0, 1), (0, 2)]
    assert found(output, nms_threshold=1) == [(0, 1), (0, 0), (0, 2)]
    assert found(output, nms_threshold=1, max_candidates=2) == [(0, 1), (0, 0)]
    assert found(output, max_outputs=1) == [(0, 1)]
    assert found(output, score_threshold=0.04) == [(0, 1), (0, 2), (0, 2)]
    output.size[0, 0] = math.log(1.5)
    assert found(output) == [(0, 1)]


def test_clouds_without_detections():
    boxes = HEAD.predict(silent(3))
    assert boxes.offsets.tolist() == [0, 0, 0, 0]
    assert boxes.boxes.shape == (0, 7)


def test_outputs_that_are_no_numbers_are_refused():
    output = silent(2)
    output.heatmap[1, 0, 3, 3] = math.nan
    with pytest.raises(ValueError, match=r"1 of 768 scores of cloud 1 are NaN: .* diverged in training"):
        HEAD.predict(output)
    output = silent(2)
    output.heatmap[1, 0, 3, 3] = 2.0
    output.size[1, 0, 3, 3] = 1e20
    assert found(output) == [(1, 0)]
    output.height[1, 0, 3, 3] = math.inf
    with pytest.raises(ValueError, match=r"1 of 1 boxes that score enough are NaN or infinite: .* diverged"):
        HEAD.predict(output)


# ---- together --------------------------------------------------------------------------------------------------------
def test_a_free_map_learns_a_handful_of_boxes():
    torch.manual_seed(0)
    head = CenterHead(8, num_classes=3, channels=16)
    features = fit(head, 8, steps=120, lr=0.02)
    assert_found(head.predict(head(BevMap(features, FEW_GRID)), score_threshold=0.5), FEW)
