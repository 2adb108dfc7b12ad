from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pctransformer.heads.losses import box_code_loss, heatmap_focal_loss, sigmoid_focal_loss, turned_giou
from pctransformer.ops import box_iou
from tests.heads.boxes import FEW_RANGE, random_objects

LOGITS = torch.tensor([-9.0, -2.19, -0.5, 0.0, 0.3, 4.0, 12.0], dtype=torch.float64)


def probability(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def test_focal_loss_is_the_equation():
    for target in (True, False):
        found = sigmoid_focal_loss(LOGITS, torch.full(LOGITS.shape, target))
        for logit, value in zip(LOGITS.tolist(), found.tolist()):
            p = probability(logit)
            of_yes, of_no = -0.25 * (1 - p) ** 2 * math.log(p), -0.75 * p**2 * math.log(1 - p)
            assert value == pytest.approx(of_yes if target else of_no, rel=1e-9)


def test_heatmap_loss_is_the_equation():
    for target in (0.0, 0.3, 0.99, 1.0):
        found = heatmap_focal_loss(LOGITS, torch.full_like(LOGITS, target))
        for logit, value in zip(LOGITS.tolist(), found.tolist()):
            p = probability(logit)
            far, peak = -((1 - target) ** 4) * p**2 * math.log(1 - p), -((1 - p) ** 2) * math.log(p)
            assert value == pytest.approx(peak if target == 1 else far, rel=1e-9)


def test_box_loss_by_hand():
    """Quadratic below 1/9, linear beyond; headings by the sine of their difference."""
    target = torch.tensor([0.0, 1, 2, 3, 4, 5, 0.25], dtype=torch.float64)
    for step, expected in ((0.1, 0.1**2 / 2 * 9), (-1 / 9, 1 / 18), (2.0, 2 - 1 / 18), (-0.5, 0.5 - 1 / 18)):
        for column in range(6):
            codes = target.clone()
            codes[column] += step
            assert box_code_loss(codes, target).item() == pytest.approx(expected)
    for turn, sine in ((0.1, math.sin(0.1)), (math.pi / 2, 1.0), (math.pi, 0.0), (-0.8 - 2 * math.pi, math.sin(0.8))):
        codes = target + torch.tensor([0, 0, 0, 0, 0, 0, turn], dtype=torch.float64)
        expected = sine**2 / 2 * 9 if sine < 1 / 9 else sine - 1 / 18
        assert box_code_loss(codes, target).item() == pytest.approx(expected)
    assert box_code_loss(torch.zeros(4, 3, 7), torch.ones(4, 3, 7)).shape == (4, 3)


def test_gradients():
    torch.manual_seed(0)
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    heat = torch.rand(3, 5, dtype=torch.float64)
    heat[0, 2] = 1
    codes = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x, heat > 0.5), logits)
    assert torch.autograd.gradcheck(lambda x: heatmap_focal_loss(x, heat), logits)
    assert torch.autograd.gradcheck(lambda x: box_code_loss(x, torch.zeros(4, 7, dtype=torch.float64)), codes)


def losses(logits: Tensor) -> list[Tensor]:
    target = torch.arange(len(logits)) % 2
    codes = logits[:, None].expand(-1, 7)
    return [
        sigmoid_focal_loss(logits, target == 1),
        heatmap_focal_loss(logits, target.to(logits.dtype)),
        box_code_loss(codes, torch.zeros_like(codes)),
    ]


def test_half_precision_is_computed_as_float32():
    half = LOGITS.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(half)
    for value, expected in zip(found, losses(half.float())):
        assert value.dtype == torch.float32
        assert torch.equal(value, expected)


def test_no_logit_is_too_large():
    logits = torch.tensor([-1e4, -1e4, 1e4, 1e4]).requires_grad_()
    for values in losses(logits)[:2]:
        assert values.isfinite().all()
        (grad,) = torch.autograd.grad(values.sum(), logits, retain_graph=True)
        assert grad.isfinite().all()
        assert grad[1] < 0 < grad[2]  # the wrong ones still learn
        assert grad[0] == grad[3] == 0


# ---- overlap ---------------------------------------------------------------------------------------------------------
def test_overlap_by_hand():
    """Cubes of a metre: the same, half in each other, apart by one, one of eight times the volume around the other."""
    cube = torch.tensor([5.0, 5, 0, 1, 1, 1, 0])
    others = cube + torch.tensor([[0.0] * 7, [0.5, *[0] * 6], [0, 2, *[0] * 5], [0, 0, 0, 1, 1, 1, 0]])
    assert turned_giou(others, cube).tolist() == pytest.approx([1, 0.5 / 1.5, -1 / 3, 1 / 8])
    assert turned_giou(cube[None], others).tolist() == pytest.approx([1, 0.5 / 1.5, -1 / 3, 1 / 8])


def test_overlap_is_exact_where_headings_agree():
    boxes, others = (random_objects([40], (0, 0, 0, 1, 1, 0.5), seed).boxes for seed in (0, 1))
    others[:, 6] = boxes[:, 6]
    x, y, z = (others[:, :3] - boxes[:, :3]).unbind(1)
    c, s = boxes[:, 6].cos(), boxes[:, 6].sin()
    between = torch.stack([x * c + y * s, y * c - x * s, z], 1).abs() + (boxes[:, 3:6] + others[:, 3:6]) / 2
    hull = torch.maximum(between, torch.maximum(boxes[:, 3:6], others[:, 3:6])).prod(1)
    iou = box_iou(boxes, others, aligned=True)
    volume = boxes[:, 3:6].prod(1) + others[:, 3:6].prod(1)
    union = volume / (1 + iou)
    assert (iou > 0).sum() > 20
    torch.testing.assert_close(turned_giou(others, boxes), iou - 1 + union / hull, rtol=1e-4, atol=1e-4)


def test_overlap_does_not_depend_on_how_the_scene_lies_nor_on_the_heading_of_the_box():
    boxes, others = (random_objects([20], FEW_RANGE, seed).boxes for seed in (0, 1))
    expected = turned_giou(others, boxes)
    angle = torch.tensor(0.7)
    turn = torch.tensor([[angle.cos(), angle.sin()], [-angle.sin(), angle.cos()]])
    turned = [torch.cat([b[:, :2] @ turn, b[:, 2:6], b[:, 6:] + angle], 1) for b in (others, boxes)]
    torch.testing.assert_close(turned_giou(*turned), expected, rtol=1e-4, atol=1e-5)
    reversed_ = torch.cat([others[:, :6], others[:, 6:] + 1], 1)
    assert torch.equal(turned_giou(reversed_, boxes), expected)
    assert (expected > -1).all()


def test_gradients_of_the_overlap_pull_boxes_together():
    boxes = random_objects([6], FEW_RANGE, 0).boxes.double().requires_grad_()
    target = random_objects([6], FEW_RANGE, 1).boxes.double()
    assert torch.autograd.gradcheck(lambda rows: turned_giou(rows, target), [boxes])
    turned_giou(boxes, target).sum().backward()
    apart = target[:, :2] - boxes[:, :2].detach()
    assert ((boxes.grad[:, :2] * apart).sum(1) > 0).all()
