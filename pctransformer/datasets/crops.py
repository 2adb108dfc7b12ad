"""What a model is shown of a scene: columns of limited size, thinned by a grid, in a frame of their own.

A scene is too large for a model, and no two are alike in size. So a model sees the points nearest to a vertical line,
from floor to ceiling, as many as it can take; heights count from the lowest of them. Inference goes by the same rule
(`evaluation/tiles.py`).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Generator

from pctransformer.datasets.samples import Sample
from pctransformer.datasets.thinning import thin_randomly
from pctransformer.datasets.transforms import Compose, Jitter, RandomScale, RandomTurn


def column_rows(xyz: np.ndarray, centre: int, count: int) -> np.ndarray:
    """The `count` points nearest to the vertical line through one of them, which is always among them.

    Args:
        xyz: (m, 3) metres, z up.
        centre: row of the point.
        count: how many, at most m.

    Returns:
        rows (count,) int64, ascending.
    """
    squared = squared_distance(xyz, centre)
    return np.sort(np.argpartition(squared, count - 1)[:count])


def squared_distance(xyz: np.ndarray, centre: int) -> np.ndarray:
    """(m,) horizontal squared distances from one of the points; its own is -1, below that of points above it."""
    squared = ((xyz[:, :2] - xyz[centre, :2]) ** 2).sum(1)
    squared[centre] = -1
    return squared


def local_frame(xyz: np.ndarray) -> np.ndarray:
    """Coordinates (n, 3) float32 as a model sees them: from the middle of the extent, and from the lowest height up.

    In float64 coordinates of any size keep their precision.
    """
    if not len(xyz):
        return np.empty((0, 3), np.float32)
    xyz = np.asarray(xyz, np.float64)
    low, high = xyz.min(0), xyz.max(0)
    return (xyz - [*((low + high) / 2)[:2], low[2]]).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class RandomColumn:
    """Thin by a grid, one random point per cell, and keep those nearest to a random one of them.

    Args:
        cell_size: of the grid, metres.
        num_points: how many are kept, or fewer where there are fewer.
    """

    cell_size: float
    num_points: int

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        xyz = sample.xyz.double().numpy()
        rows = thin_randomly(xyz, self.cell_size, generator)
        if len(rows) > self.num_points:
            centre = int(torch.randint(len(rows), (), generator=generator))
            rows = rows[column_rows(xyz[rows], centre, self.num_points)]
        sample = sample.take(torch.from_numpy(rows))
        return dataclasses.replace(sample, xyz=torch.from_numpy(local_frame(sample.xyz.numpy())))


@dataclasses.dataclass(frozen=True)
class RandomMirror:
    """Mirror at the plane x = 0, every second time. Normals must not be there."""

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        if torch.rand(1, generator=generator) < 0.5:
            return sample
        return dataclasses.replace(sample, xyz=sample.xyz * torch.tensor([-1.0, 1.0, 1.0]))


@dataclasses.dataclass(frozen=True)
class RandomColor:
    """Other light on the first three features, red, green and blue in [0, 1]: brightness, contrast, tint, noise.

    Args:
        drop: chance that all colours become grey, so that shape has to do without them.
    """

    drop: float = 0.2

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        if sample.features is None:
            return sample
        color = sample.features[:, :3]
        if torch.rand(1, generator=generator) < self.drop:
            changed = torch.full_like(color, 0.5)
        else:
            contrast = 0.7 + 0.6 * torch.rand(1, generator=generator)
            shift = 0.2 * torch.rand(3, generator=generator) - 0.1 + 0.3 * torch.rand(1, generator=generator) - 0.15
            noise = 0.02 * torch.randn(color.shape, generator=generator)
            changed = ((color - 0.5) * contrast + 0.5 + shift + noise).clamp(0, 1)
        return dataclasses.replace(sample, features=torch.cat([changed, sample.features[:, 3:]], 1))


def training_crop(cell_size: float, num_points: int) -> Compose:
    """From a scene to what a model sees of it in one step."""
    return Compose(
        (
            RandomTurn("z"), RandomScale(0.9, 1.1), RandomMirror(), RandomColumn(cell_size, num_points),
            Jitter(0.003, 0.01), RandomColor(),
        )
    )  # fmt: skip
