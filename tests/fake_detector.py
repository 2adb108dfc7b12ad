"""A detector whose every answer is known: each bright point is the centre of a box that points straight ahead."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pctransformer.boxes import BoxBatch
from pctransformer.points import PointBatch
from pctransformer.voxels import Grid

AHEAD = (0.0, -25.6, -3.0, 51.2, 25.6, 1.0)
ALL_ROUND = (-51.2, -51.2, -3.0, 51.2, 51.2, 1.0)


class Output(NamedTuple):
    points: PointBatch


class BrightPoints(nn.Module):
    """Points of reflectance above a half are boxes of 4 x 2 x 1.5 m, of that score; class 1 below z = -1.5, else 0.

    Points outside of its range are an error: whoever calls it leaves them out.
    """

    in_channels = 4
    num_classes = 2

    def __init__(self, limits=AHEAD) -> None:
        super().__init__()
        self.grid = Grid.from_range(limits, (0.4, 0.4, 4.0))
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[PointBatch] = []

    def forward(self, points: PointBatch) -> Output:
        assert self.grid.cells(points.xyz)[1].all()
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen.append(points)
        return Output(points)

    def predict(self, output: Output, *, score_threshold: float = 0.5) -> BoxBatch:
        (xyz,), (values,) = [[output.points.xyz], [output.points.features[:, 0]]]
        bright = (values > max(score_threshold, 0.5)).nonzero()[:, 0]
        centres = xyz[bright]
        size = torch.tensor([4.0, 2.0, 1.5, 0.0]).expand(len(bright), 4)
        labels = (centres[:, 2] < -1.5).long()
        boxes = torch.cat([centres, size], 1) * self.weight
        return BoxBatch(boxes, torch.tensor([0, len(bright)]), labels, values[bright])


def scan_with(markers: Tensor | list[list[float]], others: int = 500, seed: int = 0) -> Tensor:
    """(n, 4) float32 dim points around the sensor and these bright ones (x, y, z, reflectance)."""
    generator = torch.Generator().manual_seed(seed)
    dim = torch.rand(others, 4, generator=generator) * torch.tensor([100.0, 100, 3, 0.4])
    return torch.cat([dim - torch.tensor([50.0, 50, 2.5, 0]), torch.as_tensor(markers).reshape(-1, 4)])
