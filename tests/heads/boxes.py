"""Boxes for tests of detection heads."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pctransformer.boxes import BoxBatch
from pctransformer.heads.anchor_layout import KITTI_ANCHORS

SIZES = torch.tensor([one[:3] for one in KITTI_ANCHORS])


def random_objects(counts: list[int], limits: tuple[float, ...], seed: int = 0, spread: float = 1.0) -> BoxBatch:
    """Objects of KITTI's classes anywhere in a range, or beyond it with spread > 1."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    low, high = torch.tensor(limits[:3]), torch.tensor(limits[3:])
    boxes, labels = [], []
    for count in counts:
        label = torch.randint(0, 3, (count,), generator=generator)
        center = (low + high) / 2 + (random(count, 3) - 0.5) * (high - low) * spread
        size = SIZES[label] * (0.7 + 0.6 * random(count, 3))
        heading = (random(count, 1) - 0.5) * 4 * math.pi
        boxes.append(torch.cat([center, size, heading], 1))
        labels.append(label)
    return BoxBatch.from_list(boxes, labels)
