"""Which of several maps is shown, and what keys and clicks make of it: the rules of the page and of the window."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from pctransformer.visualization.point_maps import PointMap

Field = Literal["method", "layer", "head", "query", "box"]
FIELDS: tuple[Field, ...] = ("method", "layer", "head", "query", "box")
KEYS: dict[str, Field] = {"M": "method", "L": "layer", "H": "head", "Q": "query", "B": "box"}


@dataclasses.dataclass(frozen=True, eq=False)
class MapChoice:
    """One of several maps.

    Attributes:
        maps: all of them, at least one.
        shown: row of the one that is shown.
    """

    maps: tuple[PointMap, ...]
    shown: int = 0

    @property
    def map(self) -> PointMap:
        return self.maps[self.shown]

    def values(self, field: Field) -> list[str | int | None]:
        """All that a field of the maps is: names in the order of the maps, numbers sorted, none first."""
        values = list(dict.fromkeys(getattr(found, field) for found in self.maps))
        if field in ("method", "layer"):
            return values
        return sorted(values, key=lambda value: -1 if value is None else value)

    def choose(self, field: Field, value: str | int | None) -> MapChoice:
        """Of the maps that have this value, the one that has most else in common with the map shown now.

        The first of several such; the same choice where no map has the value.
        """

        def common(row: int) -> int:
            return sum(getattr(self.maps[row], other) == getattr(self.map, other) for other in FIELDS)

        rows = [row for row, found in enumerate(self.maps) if getattr(found, field) == value]
        return dataclasses.replace(self, shown=max(rows, key=common)) if rows else self

    def also(self, maps: tuple[PointMap, ...]) -> MapChoice:
        """The same choice among more maps."""
        return dataclasses.replace(self, maps=self.maps + maps)

    def step(self, field: Field) -> MapChoice:
        """The next of all values of a field, the first one after the last."""
        values = self.values(field)
        return self.choose(field, values[(values.index(getattr(self.map, field)) + 1) % len(values)])


def point_under(
    xyz: np.ndarray,
    projection: np.ndarray,
    size: tuple[float, float],
    at: tuple[float, float],
    *,
    pixels: float = 8.0,
) -> int | None:
    """Row of the foremost point within some pixels of a place on the screen.

    Args:
        xyz: (N, 3).
        projection: (4, 4) from homogeneous coordinates to clip coordinates, which a camera without or with perspective
            has; the fourth of them is positive in front of the camera.
        size: width and height of the view.
        at: pixels from its upper left corner.
        pixels: how far off a point may be.
    """
    clip = np.concatenate([xyz, np.ones((len(xyz), 1))], axis=1) @ projection.T  # (N, 4)
    front = np.flatnonzero(clip[:, 3] > 0)
    shares = clip[front, :3] / clip[front, 3:]
    across, down = (shares[:, 0] + 1) / 2 * size[0], (1 - shares[:, 1]) / 2 * size[1]
    off = np.hypot(across - at[0], down - at[1])
    near = np.flatnonzero(off <= pixels)
    if not len(near):
        return None
    # among points on one surface the nearest to the pointer
    cost = clip[front[near], 3] * (1 + 0.02 * off[near] / pixels)
    return int(front[near[cost.argmin()]])
