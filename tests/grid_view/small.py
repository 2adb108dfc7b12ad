"""Clouds for tests of the grid view."""

from __future__ import annotations

import torch

from pctransformer.points import PointBatch


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
