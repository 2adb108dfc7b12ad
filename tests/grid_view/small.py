"""Clouds for tests of the grid view."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from pctransformer.points import PointBatch
from pctransformer.voxels import Grid, VoxelBatch

GRID = Grid((0, 0, 0), (1, 1, 1), (5, 9, 10))


def clouds(lengths: tuple[int, ...], low: tuple[float, ...], high: tuple[float, ...], channels: int = 1) -> PointBatch:
    """Random points in a range, a little beyond its sides too, with features; the same each time."""
    generator = torch.Generator().manual_seed(0)
    begin, end = torch.tensor(low), torch.tensor(high)
    size = end - begin
    made = []
    for length in lengths:
        xyz = begin - 0.05 * size + torch.rand(length, 3, generator=generator) * 1.1 * size
        made.append(torch.cat([xyz, torch.rand(length, channels, generator=generator)], 1))
    return PointBatch.from_list(made)


def cells(lengths: tuple[int, ...], grid: Grid = GRID, channels: int = 8) -> VoxelBatch:
    """Clouds of so many random cells, the same each time."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for b, length in enumerate(lengths):
        key = torch.randperm(math.prod(grid.shape), generator=generator)[:length]
        place = torch.stack(torch.unravel_index(key, grid.shape), 1)
        rows.append(functional.pad(place, (1, 0), value=b))
    coordinates = torch.cat(rows)
    features = torch.randn(len(coordinates), channels, generator=generator)
    return VoxelBatch.from_coordinates(coordinates, features, grid, len(lengths))
