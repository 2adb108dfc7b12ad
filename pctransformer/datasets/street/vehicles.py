"""Cars, vans and trucks as triangles: hull, cabin with windows, wheels, lamps, number plates.

Each fills its size exactly, but for a car's mirrors, which labels leave out, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pctransformer.datasets.shape_classes.draw import Draw
from pctransformer.datasets.shape_classes.solids import bar, both, box, cushion, join, loft
from pctransformer.datasets.street.materials import (
    CHROME,
    GLASS,
    LAMP,
    PLATE,
    RUBBER,
    STEEL,
    Parts,
    masonry,
    paint,
    plastic,
)
from pctransformer.datasets.street.rods import rods

Size = tuple[float, float, float]
"""Length, width, height."""


class _Body(NamedTuple):
    """Shares of the length (from -0.5 at the rear to 0.5) and of the height that make the outline of a kind of car."""

    bonnet: float  # height of its front edge
    belt: float  # height where windows begin
    windscreen: tuple[float, float]  # where it begins and ends
    rear_window: tuple[float, float]  # where it begins and ends
    boot: float  # height of the rear edge of the body


_BODIES = {
    "hatchback": _Body(0.47, 0.60, (0.24, 0.07), (-0.46, -0.36), 0.58),
    "saloon": _Body(0.48, 0.62, (0.21, 0.05), (-0.33, -0.19), 0.61),
    "estate": _Body(0.48, 0.61, (0.22, 0.07), (-0.47, -0.41), 0.58),
    "suv": _Body(0.53, 0.62, (0.25, 0.11), (-0.47, -0.41), 0.58),
    "mpv": _Body(0.46, 0.58, (0.31, 0.10), (-0.47, -0.42), 0.55),
}


def car_size(draw: Draw) -> Size:
    """As KITTI's cars: medians 3.84, 1.63, 1.50, deviations 0.43, 0.11, 0.12 (101 labelled cars)."""
    length = float(np.clip(3.86 + 0.43 * draw.normal(), 2.6, 4.9))
    width = float(np.clip(1.63 + 0.10 * (length - 3.86) + 0.085 * draw.normal(), 1.40, 1.95))
    return length, width, float(np.clip(1.50 + 0.11 * draw.normal(), 1.28, 1.90))


def van_size(draw: Draw) -> Size:
    return draw.between(4.3, 6.2), draw.between(1.75, 2.05), draw.between(1.9, 2.6)


def truck_size(draw: Draw) -> Size:
    return draw.between(6.5, 13.0), draw.between(2.35, 2.7), draw.between(2.8, 3.7)


def car(draw: Draw, size: Size) -> Parts:
    """Hatchback, saloon, estate, SUV or minivan."""
    length, width, height = size
    if height > 1.62:
        kind = draw.pick(["suv", "mpv"])
    elif length < 3.8:
        kind = draw.pick(["hatchback", "hatchback", "hatchback", "mpv"])
    else:
        kind = draw.pick(["saloon", "saloon", "estate", "hatchback"])
    body = _BODIES[kind]
    wobble = [draw.between(-0.015, 0.015) for _ in range(6)]
    bonnet, belt = body.bonnet + wobble[0], body.belt + wobble[1]
    front_base, front_roof = body.windscreen[0] + wobble[2], body.windscreen[1] + wobble[3]
    rear_base, rear_roof = body.rear_window[0] + 0.5 * wobble[4], body.rear_window[1] + 0.5 * wobble[5]
    sill = draw.between(0.10, 0.15)
    outline = np.array([
        (0.485, sill), (0.50, sill + 0.08), (0.50, bonnet - 0.12), (0.475, bonnet), (front_base, belt),
        (rear_base, belt + 0.01), (-0.475, body.boot), (-0.50, body.boot - 0.10), (-0.50, sill + 0.08), (-0.48, sill),
    ]) * [length, height]  # fmt: skip
    coat = paint(draw)
    half = width / 2
    parts: Parts = [(coat, _slab(outline, half, rounding=0.10))]
    # the cabin: four corners at the belt and at the roof, and what is between them
    low = np.array([(rear_base, -0.45), (front_base, -0.45), (front_base, 0.45), (rear_base, 0.45)]) * [length, width]
    slope = draw.between(0.35, 0.39)
    high = np.array([(rear_roof, -slope), (front_roof, -slope), (front_roof, slope), (rear_roof, slope)])
    high = high * [length, width]
    bottom, top = belt * height, 0.965 * height

    def ring(share: float, shrink: float = 1.0) -> np.ndarray:
        corners = low + share * (high - low)
        centre = corners.mean(axis=0)
        return np.column_stack([centre + shrink * (corners - centre), np.full(4, bottom + share * (top - bottom))])

    roof = ring(1.0, 0.93)
    roof[:, 2] = height
    parts.append((coat, loft(np.stack([ring(-0.1), ring(0.09)]))))
    parts.append((GLASS, loft(np.stack([ring(0.09), ring(0.86)]))))
    parts.append((coat, loft(np.stack([ring(0.86), ring(1.0), roof]))))
    foot, head = ring(0.05), ring(0.9)
    shares = np.array([0.0, 0.5, 1.0] if kind in ("hatchback", "saloon") else [0.0, 0.38, 0.68, 1.0])[:, None]
    begin, end = (  # pillars on both sides
        np.concatenate([c[1] + shares * (c[0] - c[1]), c[2] + shares * (c[3] - c[2])]) for c in (foot, head)
    )
    parts.append((coat, rods(begin, end, draw.between(0.04, 0.055), segments=5)))
    mirror = cushion((front_base * length - 0.18, half + 0.06, bottom + 0.06), (0.12, 0.20, 0.13), segments=6)
    parts.append((coat, both(mirror, "y")))
    radius = draw.between(0.29, 0.33) * min(height / 1.5, 1.1)
    axles = (draw.between(0.30, 0.34) * length, -draw.between(0.28, 0.33) * length)
    parts += _wheels(axles, half, radius, 0.2)
    parts.append((PLATE, _plates(length + 0.01, (sill + 0.16) * height)))
    lamps = [
        box((side * (length / 2 - 0.03), 0.36 * width, z * height), (0.06, 0.18 * width, 0.11))
        for side, z in ((1, bonnet - 0.07), (-1, body.boot - 0.08))
    ]
    parts.append((LAMP, both(join(*lamps), "y")))
    bumper = box(
        (length / 2 - 0.01, 0, (sill + 0.13) * height), (0.02, 0.84 * width, draw.between(0.10, 0.22) * height)
    )
    parts.append((plastic(draw), both(bumper, "x")))
    if draw.chance(0.5):
        grille = box((length / 2 - 0.02, 0, (sill + 0.26) * height), (0.03, 0.3 * width, 0.08))
        parts.append((CHROME, grille))
    return parts


def van(draw: Draw, size: Size) -> Parts:
    """A transporter or minibus: short bonnet, tall box, windows all around or in front only."""
    length, width, height = size
    nose, base = draw.between(0.44, 0.48), draw.between(0.33, 0.40)
    roof, belt = base - draw.between(0.10, 0.16), draw.between(0.46, 0.52)
    outline = np.array([
        (0.49, 0.12), (0.50, 0.18), (0.50, 0.30), (nose, 0.40), (base, belt), (roof, 0.95), (roof - 0.06, 1.0),
        (-0.47, 1.0), (-0.50, 0.93), (-0.50, 0.15), (-0.48, 0.11),
    ]) * [length, height]  # fmt: skip
    coat, half = paint(draw), width / 2 - 0.012
    parts: Parts = [(coat, _slab(outline, half, rounding=0.06))]
    slant = np.array([(base - 0.012, belt + 0.03), (roof + 0.012, 0.90)]) * [length, height]
    parts.append((GLASS, _windscreen(slant, 0.84 * width)))
    ends = [(base - 0.1, roof - 0.16)]
    if draw.chance(0.5):  # a minibus
        ends += [(roof - 0.20, roof - 0.38), (roof - 0.42, -0.46)]
    for begin, end in ends:
        x, wide = (begin + end) / 2 * length, (begin - end) * length
        pane = box((x, half + 0.001, (belt + 0.88) / 2 * height), (wide, 0.02, (0.88 - belt) * height))
        parts.append((GLASS, both(pane, "y")))
    if draw.chance(0.7):
        pane = box((-length / 2 + 0.012, 0.21 * width, (belt + 0.86) / 2 * height), (0.02, 0.36 * width, 0.3 * height))
        parts.append((GLASS, both(pane, "y")))
    parts += _wheels((0.31 * length, -0.29 * length), width / 2, draw.between(0.31, 0.36), 0.22)
    parts.append((PLATE, _plates(length, 0.24 * height)))
    lamps = [
        box((x * length, 0.40 * width, z * height), (0.04, 0.12 * width, dz))
        for x, z, dz in ((0.493, 0.34, 0.12), (-0.494, 0.38, 0.3))
    ]
    parts.append((LAMP, both(join(*lamps), "y")))
    return parts


def truck(draw: Draw, size: Size) -> Parts:
    """A cab, a frame on wheels, and on it a closed box, a tank, or an open bed."""
    length, width, height = size
    half, front = width / 2, length / 2
    cab_length = draw.between(1.9, 2.4)
    cab_top = min(height, draw.between(2.6, 3.2))
    coat = paint(draw)
    outline = np.array([
        (front - 0.08, 0.35), (front, 0.5), (front, 1.35), (front - 0.18, cab_top - 0.12),
        (front - 0.35, cab_top), (front - cab_length, cab_top), (front - cab_length, 0.35),
    ])  # fmt: skip
    parts: Parts = [(coat, _slab(outline, half - 0.02, rounding=0.05))]
    slant = np.array([(front + 0.01, 1.45), (front - 0.14, cab_top - 0.3)])
    parts.append((GLASS, _windscreen(slant, 0.88 * width)))
    pane = box((front - 0.9, half - 0.02, 0.66 * cab_top), (0.8, 0.03, 0.24 * cab_top))
    parts.append((GLASS, both(pane, "y")))
    rear = -length / 2
    behind = front - cab_length - 0.25
    middle, deck = (behind + rear) / 2, draw.between(0.95, 1.2)
    parts.append((STEEL, box(((front + rear) / 2 - 0.2, 0, 0.75), (length - 0.6, 0.9, 0.25))))
    parts.append((STEEL, box((rear + 0.05, 0, 0.6), (0.1, 0.9 * width, 0.15))))
    load = draw.pick(["box", "box", "box", "tank", "bed"])
    if load == "box":
        skin = paint(draw) if draw.chance(0.4) else masonry(draw)  # tarpaulin is as dull as plaster
        parts.append((skin, box((middle, 0, (deck + height) / 2), (behind - rear, width, height - deck))))
    elif load == "tank":
        radius = min((height - deck) / 2, half)
        tank = bar((rear, 0, 0), (behind, 0, 0), 1.0, segments=14) * [1, half, (height - deck) / 2]
        parts.append((STEEL, tank + np.array([0, 0, (deck + height) / 2])))
        parts.append((STEEL, box((middle, 0, deck), (behind - rear, radius, 0.2))))
    else:
        floor = box((middle, 0, deck), (behind - rear, width, 0.15))
        sides = both(box((middle, half - 0.02, deck + 0.3), (behind - rear, 0.04, 0.5)), "y")
        board = box((behind - 0.03, 0, (deck + height) / 2), (0.06, width, height - deck))
        parts.append((coat, join(floor, sides, board)))
        heap = cushion((middle, 0, deck + 0.3), (0.8 * (behind - rear), 0.8 * width, 1.0), 0.8, 8)
        parts.append((masonry(draw), heap))
    axles = [front - 1.3, rear + 1.0] + ([rear + 2.3] if length > 9 else [])
    parts += _wheels(axles, half, draw.between(0.44, 0.52), 0.3)
    parts.append((PLATE, _plates(length, 0.55)))
    parts.append((LAMP, both(box((front - 0.01, 0.38 * width, 0.75), (0.03, 0.3, 0.2)), "y")))
    return parts


def _slab(outline: np.ndarray, half: float, *, rounding: float) -> np.ndarray:
    """An outline (s, 2) of x and z between y = -half and half, with rounded edges."""
    centre = outline.mean(axis=0)
    inner = centre + (outline - centre) * [0.975, 0.94]
    rings = np.zeros((4, len(outline), 3))
    rings[..., 0], rings[..., 2] = outline[:, 0], outline[:, 1]
    rings[[0, 3], :, 0], rings[[0, 3], :, 2] = inner[:, 0], inner[:, 1]
    rings[..., 1] = np.array([-half, rounding - half, half - rounding, half])[:, None]
    return loft(rings)


def _windscreen(slant: np.ndarray, width: float) -> np.ndarray:
    """A pane between two points (2, 2) of x and z, two centimetres thick."""
    corners = np.zeros((2, 4, 3))
    corners[:, :, 0] = slant[[0, 0, 1, 1], 0]
    corners[:, :, 2] = slant[[0, 0, 1, 1], 1]
    corners[:, :, 1] = np.array([-0.5, 0.5, 0.46, -0.46]) * width
    corners[0, :, 0] -= 0.02
    return loft(corners)


def _wheels(axles: Sequence[float], half: float, radius: float, wide: float) -> Parts:
    inner = np.array([(x, half - wide, radius) for x in axles])
    outer, rim = inner + np.array([0, wide - 0.015, 0]), inner + np.array([0, wide, 0])
    tyres = rods(inner, outer, radius, segments=12)
    rims = rods(inner, rim, 0.6 * radius, segments=8)  # a touch in front of the tyre's flank
    return [(RUBBER, both(tyres, "y")), (CHROME, both(rims, "y"))]


def _plates(length: float, z: float) -> np.ndarray:
    plate = box((length / 2 - 0.01, 0, z), (0.02, 0.5, 0.11))
    return both(plate, "x")
