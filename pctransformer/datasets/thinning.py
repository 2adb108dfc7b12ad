"""Thinning by a grid: one point for each cell that holds any, so that a scan is equally dense near and far."""

from __future__ import annotations

import numpy as np
import torch


def cell_numbers(xyz: np.ndarray, cell_size: float) -> np.ndarray:
    """(n,) int64: the number of each point's cell. Cells are counted from the lowest corner of the cloud.

    Args:
        xyz: (n, 3) metres, n >= 1; in float64 of any size.
        cell_size: edge of a cell, metres.

    Raises:
        ValueError: the cell size is not positive, or so small that the cells cannot be counted.
    """
    if not cell_size > 0:
        raise ValueError(f"cell_size must be positive, got {cell_size}")
    cells = np.floor((xyz - xyz.min(0)) / cell_size)
    counts = cells.max(0) + 1
    if not np.prod(counts) < 2**62:
        raise ValueError(f"{counts.tolist()} cells of {cell_size} are too many to be counted; make cells larger")
    x, y, z = cells.astype(np.int64).T
    return (x * int(counts[1]) + y) * int(counts[2]) + z


def thin(xyz: np.ndarray, cell_size: float, features: np.ndarray | None = None) -> np.ndarray:
    """Keep of each cell the point nearest to its middle.

    What is kept, and in which order, does not depend on the order of the points.

    Args:
        xyz: (n, 3) metres.
        cell_size: edge of a cell, metres.
        features: (n, C) by which points in one place are told apart.

    Returns:
        rows (m,) int64: cell by cell.
    """
    if not len(xyz):
        return np.empty(0, np.int64)
    xyz = np.asarray(xyz, np.float64)
    numbers = cell_numbers(xyz, cell_size)
    place = (xyz - xyz.min(0)) / cell_size
    off = ((place - np.floor(place) - 0.5) ** 2).sum(1)
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    least = np.repeat(np.minimum.reduceat(off[order], starts), np.diff(starts, append=len(order)))
    best = order[off[order] == least]  # one point of a cell, seldom more
    values = xyz[best] if features is None else np.concatenate([xyz[best], features[best]], axis=1)
    best = best[np.lexsort((*values.T[::-1], numbers[best]))]
    return best[np.flatnonzero(np.diff(numbers[best], prepend=-1))]


def thin_randomly(xyz: np.ndarray, cell_size: float, generator: torch.Generator) -> np.ndarray:
    """Keep one point of each cell, any of them with the same chance.

    Returns:
        rows (m,) int64: cell by cell.
    """
    if not len(xyz):
        return np.empty(0, np.int64)
    order = torch.randperm(len(xyz), generator=generator).numpy()
    return order[np.unique(cell_numbers(np.asarray(xyz, np.float64), cell_size)[order], return_index=True)[1]]
