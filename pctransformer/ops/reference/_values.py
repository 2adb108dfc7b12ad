"""What the reference operators check about values; the compiled CPU kernels check the same (csrc/cpu/values.h)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def check_offsets(offsets: Tensor, rows: int, op: str, name: str) -> None:
    values = offsets.tolist()
    if values[0] != 0:
        raise ValueError(f"{op}: {name} must start with 0, it starts with {values[0]}")
    for b, (begin, end) in enumerate(pairwise(values)):
        if end < begin:
            raise ValueError(f"{op}: {name} must not decrease, but {name}[{b}] = {begin} and {name}[{b + 1}] = {end}")
    if values[-1] != rows:
        raise ValueError(f"{op}: {name} must end with the number of rows, {rows}; it ends with {values[-1]}")


def check_finite(values: Tensor, op: str, name: str) -> None:
    bad = ~torch.isfinite(values)
    if bad.any():
        row = int(bad.flatten(1).any(1).nonzero()[0])
        raise ValueError(f"{op}: {name} holds NaN or infinity, first in row {row}")


def check_index(index: Tensor, low: int, rows: int, op: str, name: str) -> None:
    """Every index in [low, rows); on CUDA, where looking would stall the stream, as on CPU: this is the slow path."""
    if index.numel() == 0:
        return
    smallest, largest = int(index.min()), int(index.max())
    if smallest < low or largest >= rows:
        wrong = smallest if smallest < low else largest
        hint = "; -1 stands for no row" if low < 0 else ""
        raise ValueError(f"{op}: {name} must be in [{low}, {rows}), but holds {wrong}{hint}")


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """What sums of this type are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def squared_norm(difference: Tensor) -> Tensor:
    """Sum of squares over the last axis, in the order of csrc/common/geometry.h: (x x + y y) + z z."""
    x, y, z = difference.unbind(-1)
    return (x * x + y * y) + z * z


def spans(offsets: Tensor) -> list[tuple[int, int]]:
    """(begin, end) of every cloud."""
    values = offsets.tolist()
    return list(pairwise(values))
