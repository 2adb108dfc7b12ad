"""From values of points to colours: which value gets which place on one perceptual colour map, the same everywhere; and
three values of each point as its red, green and blue."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal, get_args

import numpy as np

Scaling = Literal["percentile", "sigmoid", "linear"]
SCALINGS: tuple[Scaling, ...] = get_args(Scaling)

_MAP, _PALEST, _DARKEST = "magma", 235, 20
"""Matplotlib's map of 256 colours, evenly apart to the eye; from pale to dark, since pages and viewers are mostly
white. Its ends are left out: the palest would be lost on white, and the darkest could not be told from black."""
SPREADS = 4.0
"""Standard deviations from the mean to either end of a sigmoid's colour bar; places there are 0.018 and 0.982."""


@dataclasses.dataclass(frozen=True)
class ColorScale:
    """Which value gets which colour.

    Attributes:
        scaling: "linear": places on the colour map grow evenly from the lowest value to the highest. "percentile": the
            same between bounds that one value in a hundred exceeds, so that single points do not leave all others
            pale. "sigmoid": 1 / (1 + exp(-z)), z in standard deviations from the mean, for values that have no bounds.
        low, high: values at the ends of a colour bar. Beyond them colours stay those of the ends; a sigmoid's go on to
            the ends of the colour map.
    """

    scaling: Scaling
    low: float
    high: float

    def places(self, values: np.ndarray) -> np.ndarray:
        """Places in [0, 1] on the colour map, float64, for values of any shape; 0 for all where low is high."""
        values = np.asarray(values, np.float64)
        if not self.high > self.low:
            return np.zeros_like(values)
        share = (values - self.low) / (self.high - self.low)
        if self.scaling == "sigmoid":
            return 1 / (1 + np.exp(-np.clip(SPREADS * (2 * share - 1), -40, 40)))
        return np.clip(share, 0, 1)

    def colors(self, values: np.ndarray) -> np.ndarray:
        """(..., 3) float32 red, green, blue in [0, 1] for values (...)."""
        return place_colors(self.places(values))


def color_scale(values: np.ndarray, scaling: Scaling = "percentile") -> ColorScale:
    """The scale that shows these values.

    Where most values are the lowest, as if only a few neighbours were looked at, the upper bound of "percentile" is
    that of the values above it. Values that are all the same, or none, have no range, and get the palest colour.

    Args:
        values: (N,) finite.
        scaling: see `ColorScale`.

    Raises:
        ValueError: there is no such scaling.
    """
    values = np.asarray(values, np.float64)
    if scaling not in SCALINGS:
        raise ValueError(f"scaling must be one of {', '.join(SCALINGS)}, got {scaling!r}")
    if not len(values):
        return ColorScale(scaling, 0.0, 0.0)
    if scaling == "linear":
        return ColorScale(scaling, float(values.min()), float(values.max()))
    if scaling == "sigmoid":
        mean, reach = float(values.mean()), SPREADS * float(values.std())
        return ColorScale(scaling, mean - reach, mean + reach)
    low = float(np.quantile(values, 0.01))
    above = values[values > low]
    return ColorScale(scaling, low, float(np.quantile(above, 0.99)) if len(above) else low)


def channel_colors(values: np.ndarray, scaling: Scaling = "percentile") -> np.ndarray:
    """(N, 3) float32 red, green, blue in [0, 1] for three values (N, 3) of each point, each by a scale of its own.

    Brighter is more. A column whose values are all the same is half bright everywhere, so that it neither darkens the
    others nor stands out.
    """
    scales = [color_scale(column, scaling) for column in values.T]
    places = [
        scale.places(column) if scale.high > scale.low else np.full(len(column), 0.5)
        for scale, column in zip(scales, values.T)
    ]
    return np.stack(places, 1).astype(np.float32)


def bar_colors(scale: ColorScale | None) -> np.ndarray:
    """(256, 3) what a colour bar shows from left to right; None: the red, the green and the blue that are three values.

    Between these are white gaps.
    """
    if scale is not None:
        return scale.colors(np.linspace(scale.low, scale.high, 256))
    bar = np.eye(3, dtype=np.float32)[np.arange(256) * 3 // 256]
    bar[[*range(82, 89), *range(167, 174)]] = 1
    return bar


def place_colors(places: np.ndarray) -> np.ndarray:
    """(..., 3) float32 red, green, blue in [0, 1] for places (...) on the colour map, 0 pale and 1 dark."""
    table = color_table()
    return table[np.rint(np.clip(places, 0, 1) * (len(table) - 1)).astype(np.int64)]


@functools.cache
def color_table() -> np.ndarray:
    """(216, 3) float32 red, green, blue in [0, 1], read-only: the colour map from pale to dark."""
    from matplotlib import colormaps

    table = colormaps[_MAP](np.arange(_PALEST, _DARKEST - 1, -1))[:, :3].astype(np.float32)
    table.setflags(write=False)
    return table
