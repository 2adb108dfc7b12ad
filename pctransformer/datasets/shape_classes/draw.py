"""Random choices of a designer: lengths, counts and styles, all from one `torch.Generator`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")


class Draw:
    """Scalars from a generator, fetched in blocks because a single `torch.rand` costs more than the shape's part."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._values: list[float] = []

    def unit(self) -> float:
        """Uniform in [0, 1)."""
        if not self._values:
            self._values = torch.rand(128, generator=self._generator, dtype=torch.float64).tolist()
        return self._values.pop()

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.unit()

    def units(self, *shape: int) -> np.ndarray:
        """An array of uniform numbers in [0, 1)."""
        return torch.rand(shape, generator=self._generator, dtype=torch.float64).numpy()

    def normal(self) -> float:
        """Standard normal, from two uniform numbers (Box and Muller, 1958)."""
        radius = math.sqrt(-2 * math.log(1 - self.unit()))
        return radius * math.cos(2 * math.pi * self.unit())

    def count(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return low + int(self.unit() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return self.unit() < probability

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.unit() * len(options))]
