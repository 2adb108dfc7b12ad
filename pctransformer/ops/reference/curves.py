from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _check_range(coordinates: Tensor, bits: int, op: str) -> None:
    bad = (coordinates < 0) | (coordinates >= 1 << bits)
    if bad.any():
        row = int(bad.any(1).nonzero()[0])
        raise ValueError(f"{op}: coordinates must be 0 <= c < 2^bits = {1 << bits}, but row {row} holds others")


def _interleave(axes: Sequence[Tensor], bits: int) -> Tensor:
    """Three bits per level, x y z, the highest level first."""
    code = torch.zeros_like(axes[0])
    for bit in reversed(range(bits)):
        for axis in axes:
            code = code << 1 | (axis >> bit & 1)
    return code


def morton_code(coordinates: Tensor, bits: int) -> Tensor:
    """The bits of x, y and z in turn."""
    _check_range(coordinates, bits, "morton_code")
    return _interleave(coordinates.long().unbind(1), bits)


def hilbert_code(coordinates: Tensor, bits: int) -> Tensor:
    """Skilling 2004: turn the axes back level by level, interleave them, and read the result as a Gray code."""
    _check_range(coordinates, bits, "hilbert_code")
    axes = list(coordinates.long().unbind(1))
    for bit in reversed(range(bits)):
        lower = (1 << bit) - 1
        for i in range(3):
            is_set = (axes[i] >> bit & 1).bool()
            exchange = (axes[0] ^ axes[i]) & lower
            axes[0] = axes[0] ^ torch.where(is_set, lower, exchange)
            if i > 0:
                axes[i] = axes[i] ^ torch.where(is_set, 0, exchange)
    gray = _interleave(axes, bits)
    code = gray
    for shift in range(1, 3 * bits):
        code = code ^ (gray >> shift)
    return code
