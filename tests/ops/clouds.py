"""Clouds for operator tests: ragged, hostile, and drawn by hypothesis."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

RAGGED_SIZES = [40, 0, 1, 133, 2, 0, 17]
"""Empty clouds, clouds of one and two points, at the start, in the middle and before the end."""


def offsets_of(sizes: list[int]) -> Tensor:
    """(B + 1,) offsets with a leading 0."""
    return torch.tensor([0, *sizes]).cumsum(0)


def ragged(sizes: list[int] = RAGGED_SIZES, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random packed clouds: xyz (N, 3), offsets (B + 1,)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sum(sizes), 3, generator=generator), offsets_of(sizes)


def _lattice(n: int) -> Tensor:
    side = round(n ** (1 / 3)) + 1
    grid = torch.stack(torch.meshgrid(*[torch.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    return grid[:n].float()


def hostile(n: int = 60, seed: int = 0) -> dict[str, Tensor]:
    """Clouds (n, 3) on which careless operators go wrong, by name."""
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(n, 3, generator=generator)
    line = torch.zeros(n, 3)
    line[:, 0] = torch.arange(n)
    return {
        "all the same": torch.ones(n, 3),
        "duplicates": random[torch.randint(0, 5, (n,), generator=generator)],
        "collinear": line,
        "lattice (ties)": _lattice(n)[torch.randperm(n, generator=generator)],
        "coordinates of 1e6": random + 1e6,
        "spread over 1e6": random * 1e6,
        "tiny": random * 1e-6,
        "flat": random * torch.tensor([1.0, 1.0, 0.0]),
        "near the origin": random * 0.02,
    }


@st.composite
def packed_clouds(draw: st.DrawFn, max_clouds: int = 4, max_points: int = 80) -> tuple[Tensor, Tensor]:
    """Packed clouds with many ties: coordinates are random, from a coarse lattice, or drawn from a few points."""
    sizes = draw(st.lists(st.integers(0, max_points), min_size=1, max_size=max_clouds))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    total = sum(sizes)
    kind = draw(st.sampled_from(["random", "lattice", "duplicates", "line"]))
    xyz = generator.normal(size=(total, 3))
    if kind == "lattice":
        xyz = np.round(xyz * 2)
    elif kind == "duplicates" and total:
        xyz = xyz[generator.integers(0, min(total, 4), total)]
    elif kind == "line":
        xyz[:, 1:] = 0
    scale = draw(st.sampled_from([1.0, 1e-3, 1e6]))
    shift = draw(st.sampled_from([0.0, 1e6]))
    return torch.from_numpy((xyz * scale + shift).astype(np.float32)), offsets_of(sizes)
