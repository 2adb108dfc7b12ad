"""What surfaces of a street are made of, as an infrared laser sees it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pctransformer.datasets.shape_classes.draw import Draw


class Material(NamedTuple):
    """How a surface answers a laser.

    Attributes:
        reflectance: intensity that comes back from a surface met head-on, in [0, 1] as KITTI's files have it.
        gloss: intensity falls with the cosine of the angle of incidence to this power, and the share of pulses that
            come back with a fourteenth of it: 0 for a rough surface, high for one that mirrors the light away.
        lost: share of the pulses that do not come back, however near.
    """

    reflectance: float
    gloss: float
    lost: float


Parts = list[tuple[Material, np.ndarray]]
"""A thing: triangles (T, 3, 3) of each material, metres, standing on z = 0, front towards +x, around x = y = 0."""

ASPHALT = Material(0.25, 0.0, 0.01)
PAVING = Material(0.29, 0.0, 0.01)
GRASS = Material(0.38, 0.0, 0.01)
GLASS = Material(0.06, 4.0, 0.72)
RUBBER = Material(0.12, 0.4, 0.10)
STEEL = Material(0.30, 1.0, 0.05)
CHROME = Material(0.35, 2.0, 0.15)
PLATE = Material(0.95, 0.3, 0.02)
"""Number plates and traffic signs throw light back to where it came from."""
LAMP = Material(0.75, 0.7, 0.10)
SKIN = Material(0.45, 0.3, 0.03)
BARK = Material(0.30, 0.2, 0.03)
LEAVES = Material(0.38, 0.1, 0.02)


def paint(draw: Draw) -> Material:
    """Of a vehicle. Most is dark or mirrors light away: half of all points on KITTI's cars have intensity 0."""
    dark = draw.chance(0.55)
    reflectance = draw.between(0.04, 0.18) if dark else draw.between(0.25, 0.7)
    return Material(reflectance, draw.between(1.0, 3.5), draw.between(0.0, 0.08) if dark else draw.between(0.0, 0.06))


def plastic(draw: Draw) -> Material:
    """Of bumpers."""
    return Material(draw.between(0.08, 0.4), 0.8, draw.between(0.0, 0.1))


def cloth(draw: Draw) -> Material:
    return Material(draw.between(0.15, 0.55), 0.3, draw.between(0.0, 0.08))


def masonry(draw: Draw) -> Material:
    return Material(draw.between(0.2, 0.45), 0.2, draw.between(0.0, 0.02))
