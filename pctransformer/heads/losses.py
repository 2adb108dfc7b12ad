"""Losses of detection heads: element by element, computed in float32 at least, whatever autocast says."""

from __future__ import annotations

import torch
from torch import Tensor

ALPHA = 0.25
BETA = 1 / 9


def full_precision(values: Tensor) -> Tensor:
    """Half precision as float32; others as they are."""
    return values if values.dtype == torch.float64 else values.float()


def sigmoid_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of a yes or no, in which what is easy counts little.

        -alpha (1 - p)^2 log(p)      where the target is True, p = sigmoid(logit), alpha = 0.25
        -(1 - alpha) p^2 log(1 - p)  where it is False

    Args:
        logits: any shape.
        target: bool, of the same shape.

    Returns:
        of the same shape, not reduced.

    Source: Lin et al., Focal loss for dense object detection, 2017, equation 5, with their gamma = 2 and alpha = 0.25.
    """
    return _focal(logits, target) * torch.where(target, ALPHA, 1 - ALPHA)


def heatmap_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Focal loss of a heat map: full at peaks, less for what is near a peak than for what is far.

        -(1 - p)^2 log(p)               where the target is 1, p = sigmoid(logit)
        -(1 - target)^4 p^2 log(1 - p)  elsewhere

    Public code clamps p to [1e-4, 1 - 1e-4], so that a peak below it is never learnt; logits need no clamp.

    Args:
        logits: any shape.
        target: of the same shape, in [0, 1].

    Returns:
        of the same shape, not reduced.

    Source: Law and Deng, CornerNet, 2018, equation 1; Zhou et al., Objects as points, 2019, equation 1.
    """
    peak = target == 1
    return _focal(logits, peak) * torch.where(peak, 1, (1 - target).square().square())


def box_code_loss(codes: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 of codes of `encode_boxes`, with the sine of the difference of headings: reversed boxes are as good.

        d^2 / (2 beta)    where |d| < beta = 1 / 9
        |d| - beta / 2    elsewhere

    Args:
        codes: (..., 7).
        target: (..., 7).

    Returns:
        (...,) the sum over the seven.

    Source: Yan et al., SECOND, 2018, equation 3; Girshick, Fast R-CNN, 2015, equation 3, with the beta of OpenPCDet.
    """
    difference = full_precision(codes) - target
    difference = torch.cat([difference[..., :6], difference[..., 6:].sin()], -1)
    zero = torch.zeros_like(difference)
    return torch.nn.functional.smooth_l1_loss(difference, zero, reduction="none", beta=BETA).sum(-1)


def turned_giou(boxes: Tensor, target: Tensor) -> Tensor:
    """Generalised intersection over union in space of boxes that are turned to the headings of their targets.

        GIoU = I / U - (H - U) / H    volumes of intersection, union, and the least box around both

    Where headings agree it is exact, and H stands along them. A box of another heading counts as if it were turned: how
    wrong its heading is, other losses say. So it is continuous, cheap, has a gradient however far boxes are apart, and
    does not depend on how the scene lies, which overlaps of boxes turned to the axes do.

    Args:
        boxes: (..., 7) as in `BoxBatch`.
        target: (..., 7), sizes above 0; of shapes that broadcast together.

    Returns:
        (...,) in (-1, 1].

    Source: Rezatofighi et al., Generalized intersection over union, 2019, algorithm 2.
    """
    x, y, z = (boxes[..., :3] - target[..., :3]).unbind(-1)
    cosine, sine = target[..., 6].cos(), target[..., 6].sin()
    center = torch.stack([x * cosine + y * sine, y * cosine - x * sine, z], -1)  # in the frame of the target
    half, target_half = boxes[..., 3:6] / 2, target[..., 3:6] / 2
    low, high = center - half, center + half
    common = (torch.minimum(high, target_half) - torch.maximum(low, -target_half)).clamp(min=0).prod(-1)
    hull = (torch.maximum(high, target_half) - torch.minimum(low, -target_half)).prod(-1)
    union = boxes[..., 3:6].prod(-1) + target[..., 3:6].prod(-1) - common
    return common / union - (hull - union) / hull


def _focal(logits: Tensor, target: Tensor) -> Tensor:
    """(1 - p)^2 times -log(p), p the probability of what the target (bool) says."""
    against = full_precision(logits)
    against = torch.where(target, -against, against)
    return against.sigmoid().square() * torch.nn.functional.softplus(against)
