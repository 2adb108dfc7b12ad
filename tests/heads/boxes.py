"""Boxes for tests of detection heads."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pctransformer.boxes import BoxBatch
from pctransformer.heads.anchor_layout import KITTI_ANCHORS
from pctransformer.ops import box_iou
from pctransformer.voxels import BevMap, Grid

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


FEW_RANGE = (0.0, -8.0, -3.0, 16.0, 8.0, 1.0)
FEW_GRID = Grid.from_range(FEW_RANGE, (0.5, 0.5, 4.0))
FEW = BoxBatch.from_list(
    [
        torch.tensor(
            [
                [4.0, 3, -1, 3.9, 1.6, 1.5, 0.3],
                [10.3, -4.2, -0.9, 4.2, 1.7, 1.6, -2.0],
                [12, 5, 0.3, 0.8, 0.6, 1.7, 3.0],
            ]
        ),
        torch.zeros(0, 7),
        torch.tensor([[3.1, -1, 0.2, 1.7, 0.6, 1.8, 1.5]]),
    ],
    [torch.tensor([0, 0, 1]), torch.zeros(0).long(), torch.tensor([2])],
)
"""Four objects in three clouds, the second of which is empty."""


def assert_found(found: BoxBatch, expected: BoxBatch) -> None:
    """Each object, and nothing else, is found nearly where it is, with its class, and not reversed."""
    assert found.lengths.tolist() == expected.lengths.tolist()
    for cloud, true in zip(found.split(), expected.split()):
        if not len(true.boxes):
            continue
        overlap, index = box_iou(true.boxes, cloud.boxes).max(1)
        assert (overlap > 0.9).all()
        assert cloud.labels[index].tolist() == true.labels.tolist()
        assert ((cloud.boxes[index, 6] - true.boxes[:, 6]).cos() > 0.99).all()


def fit(head: torch.nn.Module, channels: int, *, steps: int, lr: float) -> torch.Tensor:
    """Train a head and the map that it reads, nothing else, until it should say FEW; the map, (3, channels, 32, 32)."""
    features = torch.randn(3, channels, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = torch.optim.Adam([features, *head.parameters()], lr)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, steps)  # L1 does not settle otherwise
    for _ in range(steps):
        loss = head.loss(head(BevMap(features, FEW_GRID)), FEW)["loss"]  # type: ignore[operator]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return features.detach()
