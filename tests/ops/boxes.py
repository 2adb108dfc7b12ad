"""Boxes for operator tests: like cars on a road, and such on which careless operators go wrong."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def cars(n: int, seed: int = 0, span: float = 40.0) -> Tensor:
    """(n, 7) float32 boxes of the size of cars, about eight around each of some places, so that many overlap."""
    random = np.random.default_rng(seed)
    places = np.random.default_rng(7).uniform(-span, span, (max(1, n // 8), 2))
    boxes = np.empty((n, 7))
    boxes[:, :2] = places[random.integers(0, len(places), n)] + random.normal(0, 0.8, (n, 2))
    boxes[:, 2] = random.normal(-1, 0.3, n)
    boxes[:, 3:6] = np.array([3.9, 1.6, 1.56]) * random.uniform(0.7, 1.3, (n, 3))
    boxes[:, 6] = random.uniform(-math.pi, math.pi, n)
    return torch.from_numpy(boxes.astype(np.float32))


def hostile_boxes(n: int = 60, seed: int = 0) -> dict[str, Tensor]:
    """Boxes (n, 7) by name."""
    generator = torch.Generator().manual_seed(seed)
    random = cars(n, seed, span=4.0)
    whole = torch.cat(
        [torch.randint(0, 4, (n, 3), generator=generator), torch.randint(0, 3, (n, 3), generator=generator)], 1
    )
    quarters = torch.randint(-4, 5, (n, 1), generator=generator) * (math.pi / 2)
    lattice = torch.cat([whole, quarters], 1).float()
    turned = random.clone()
    turned[:, 6] = 10.0 ** torch.linspace(-40, 38, n)
    mixed = random.clone()
    mixed[:, 3:6] *= 10.0 ** torch.randint(-12, 12, (n, 3), generator=generator)
    flat = random.clone()
    flat[torch.arange(n), 3 + torch.arange(n) % 3] = 0
    return {
        "all the same": random[:1].expand(n, 7).clone(),
        "a few, often": random[torch.randint(0, 4, (n,), generator=generator)],
        "touching, no size, quarter turns": lattice,
        "headings up to 1e38": turned,
        "sizes from 1e-12 to 1e12": mixed,
        "one size is zero": flat,
        "around 1e4 m": random + torch.tensor([1e4, -1e4, 1e4, 0, 0, 0, 0]),
        "tiny": random * torch.tensor([1e-20] * 6 + [1.0]),
        "huge": random * torch.tensor([1e30] * 6 + [1.0]),
        "nested": torch.cat([torch.zeros(n, 3), torch.linspace(0, 5, n)[:, None].expand(n, 3), random[:, 6:]], 1),
    }
