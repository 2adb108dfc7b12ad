"""The ground of a street: how the road bends and rises, where its kerbs are, and its surface as triangles.

A street is planned straight and flat, s metres along it and t to its left, and then laid on the ground: `place` bends
it, `height` lifts it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pctransformer.datasets.shape_classes.draw import Draw
from pctransformer.datasets.street.materials import ASPHALT, GRASS, PAVING, Parts

ALONG = -70.0, 95.0
"""How far a street reaches behind and ahead of the scanner's car, metres."""
_ASIDE = 75.0
_STEP = 2.5
_EDGE = 0.02  # a kerb's face is this far from upright


@dataclasses.dataclass(frozen=True, eq=False)
class Ground:
    """Metres.

    Attributes:
        half: the road reaches from t = -half to half.
        pavement: width of the pavement on either side.
        kerb: height of the pavement, and of all but the roads.
        sides: s of the middle and half the width of roads that cross.
        bend: curvature of the road, one over its radius.
        slope: (2,) rise along x and y.
        waves: (k, 4) height, the two wave numbers, phase.
    """

    half: float
    pavement: float
    kerb: float
    sides: tuple[tuple[float, float], ...]
    bend: float
    slope: np.ndarray
    waves: np.ndarray

    def place(self, s: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y and the heading of the road at s, t."""
        heading = np.arctan(self.bend * s)
        return s - t * np.sin(heading), self.bend * s * s / 2 + t * np.cos(heading), heading

    def height(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Of the road's surface or what continues it; pavements are a kerb higher."""
        high = self.slope[0] * x + self.slope[1] * y
        for size, kx, ky, phase in self.waves:
            high = high + size * np.sin(kx * x + ky * y + phase)
        return high

    def on_side_road(self, s: float, margin: float = 0.0) -> bool:
        return any(abs(s - middle) < half + margin for middle, half in self.sides)


def make_ground(
    draw: Draw, *, half: float, pavement: float, sides: tuple[tuple[float, float], ...], hilly: float
) -> Ground:
    """Draw bend, slope and waves; `hilly` 1 is a street in a town."""
    waves = []
    for _ in range(3):
        length, turned = draw.between(45, 140), draw.between(0, 2 * np.pi)
        number = 2 * np.pi / length
        size = hilly * abs(draw.normal()) * 0.0011 * length  # up to a few tens of centimetres
        waves.append((size, number * np.cos(turned), number * np.sin(turned), draw.between(0, 2 * np.pi)))
    return Ground(
        half=half,
        pavement=pavement,
        kerb=draw.between(0.06, 0.15),
        sides=sides,
        bend=draw.pick([0.0, draw.normal() / 400, draw.normal() / 200]),
        slope=hilly * np.array([0.012 * draw.normal(), 0.006 * draw.normal()]),
        waves=np.array(waves),
    )


def ground_parts(ground: Ground) -> Parts:
    """The surface in x, y and height above the road, not yet lifted by `height`."""
    kerbs = [side * (ground.half + edge) for side in (-1, 1) for edge in (-_EDGE / 2, _EDGE / 2)]
    ends = [side * (ground.half + ground.pavement) for side in (-1, 1)]
    near = np.arange(-30, 30.1, _STEP)
    t = np.unique(np.concatenate([near, np.arange(-_ASIDE, -30, 9), -np.arange(-_ASIDE, -30, 9), kerbs, ends]))
    crossings = [m + side * (h + edge) for m, h in ground.sides for side in (-1, 1) for edge in (-_EDGE / 2, _EDGE / 2)]
    s = np.unique(np.concatenate([np.arange(*ALONG, _STEP), crossings]))
    on_road = (np.abs(t) < ground.half)[None] | np.array([ground.on_side_road(value) for value in s])[:, None]
    grid_s, grid_t = np.meshgrid(s, t, indexing="ij")
    x, y, _ = ground.place(grid_s, grid_t)
    corners = np.stack([x, y, np.where(on_road, 0.0, ground.kerb)], axis=-1)  # (S, T, 3)
    a, b, c, d = corners[:-1, :-1], corners[1:, :-1], corners[1:, 1:], corners[:-1, 1:]
    quads = np.stack([np.stack([a, b, c], axis=2), np.stack([a, c, d], axis=2)], axis=2)  # (S - 1, T - 1, 2, 3, 3)
    road = on_road[:-1, :-1] & on_road[1:, :-1] & on_road[1:, 1:] & on_road[:-1, 1:]
    paved = ~road & (np.abs(t[1:] + t[:-1]) / 2 < ground.half + ground.pavement)[None]
    kinds = ((ASPHALT, road), (PAVING, paved), (GRASS, ~road & ~paved))
    return [(material, quads[mask].reshape(-1, 3, 3)) for material, mask in kinds]
