"""What stands along a street, as triangles: houses, walls, trees, hedges, poles, signs, and small things.

A LiDAR on a car's roof looks up by two degrees only, so of a house the ground floor has the detail. Leaves are small
single triangles: pulses go in between them, as they do in trees.
"""

from __future__ import annotations

import numpy as np

from pctransformer.datasets.shape_classes.draw import Draw
from pctransformer.datasets.shape_classes.solids import bar, both, box, cushion, join, lathe, turn
from pctransformer.datasets.street.materials import (
    BARK,
    GLASS,
    LEAVES,
    PLATE,
    STEEL,
    Material,
    Parts,
    masonry,
    paint,
)
from pctransformer.datasets.street.rods import rods
from pctransformer.datasets.street.vehicles import Size


def house(draw: Draw, size: Size) -> Parts:
    """A front of windows between piers; it looks to +x.

    Size is depth, length of the front, height of the walls.
    """
    deep, wide, high = size
    wall, frame = masonry(draw), masonry(draw)
    storey, recess = draw.between(2.7, 3.4), draw.between(0.08, 0.3)
    core = box((0, 0, high / 2), (deep - 2 * recess, wide - 0.1, high))
    parts: Parts = [(wall, core)]
    count = max(int(wide / draw.between(2.2, 4.0)), 1)
    shop = draw.chance(0.25)
    share = draw.between(0.55, 0.8) if shop else draw.between(0.25, 0.5)  # of the front that is glass
    bay = wide / count
    front = deep / 2
    pier, sill = bay * (1 - share), 0.35 if shop else draw.between(0.8, 1.1)
    stones, panes = [], []
    for i in range(count + 1):
        y = i * bay - wide / 2
        thick = pier if 0 < i < count else pier / 2
        y += pier / 4 if i == 0 else (-pier / 4 if i == count else 0)
        stones.append(box((front - recess / 2, y, high / 2), (recess, thick, high)))
    for floor in range(2 if high > 2 * storey else 1):
        bottom = floor * storey
        top = bottom + storey - draw.between(0.4, 0.7)
        for z0, z1 in ((bottom, bottom + sill), (top, bottom + storey)):
            stones.append(box((front - recess / 2, 0, (z0 + z1) / 2), (recess, wide, z1 - z0)))
        panes.append(box((front - recess, 0, (bottom + sill + top) / 2), (0.02, wide - 0.2, top - bottom - sill)))
    if high > 2 * storey:
        stones.append(box((front - recess / 2, 0, (2 * storey + high) / 2), (recess, wide, high - 2 * storey)))
    door = (draw.count(0, count - 1) + 0.5) * bay - wide / 2
    leaf = box((front - recess + 0.03, door, 1.05), (0.06, min(1.1, 0.8 * bay), 2.1))
    steps = box((front + 0.25, door, 0.09), (0.5, 1.6, 0.18))
    parts += [(wall, join(*stones)), (GLASS, join(*panes)), (paint(draw), leaf), (frame, steps)]
    extras = []
    if draw.chance(0.35):  # a bay, a porch or a shed before the front
        y = draw.between(-0.35, 0.35) * wide
        extras.append(box((front + 0.5, y, 1.3), (1.0, draw.between(1.5, 3.0), 2.6)))
    for _ in range(draw.count(0, 3)):  # downpipes
        y = draw.between(-0.49, 0.49) * wide
        extras.append(bar((front + 0.06, y, 0), (front + 0.06, y, high), 0.05, segments=5))
    if shop and draw.chance(0.6):  # an awning
        extras.append(turn(box((front + 0.6, 0, 2.7), (1.3, 0.8 * wide, 0.06)), "y", 15, (front, 0, 2.7)))
    if extras:
        parts.append((frame, join(*extras)))
    ridge = draw.between(1.5, 3.5)
    corners = np.array([(-front - 0.3, 0), (front + 0.3, 0), (0, ridge)])
    roof = np.zeros((2, 3, 3))
    roof[:, :, 0], roof[:, :, 2] = corners[:, 0], corners[:, 1] + high
    roof[0, :, 1], roof[1, :, 1] = -wide / 2, wide / 2
    (a, b, c), (d, e, f) = roof
    parts.append((frame, np.array([(a, b, c), (d, f, e), (b, e, f), (b, f, c), (a, c, f), (a, f, d)])))
    return parts


def tree(draw: Draw, size: Size) -> Parts:
    """Trunk, boughs and leaves. Size is that of the trunk's place, and the height."""
    high, wide = size[2], draw.between(2.5, 6.0)
    radius = draw.between(0.09, 0.28)
    fork = draw.between(1.8, 3.2)
    lean = (draw.between(-0.2, 0.2), draw.between(-0.2, 0.2), fork)
    boughs = np.array([(draw.normal(), draw.normal(), draw.between(0.6, 0.95)) for _ in range(4)])
    boughs *= [0.3 * wide, 0.3 * wide, high]
    wood = rods(
        [(0, 0, -0.2), *[lean] * 4], [lean, *boughs], radius * np.array([1.15, 0.5, 0.5, 0.5, 0.5]),
        np.array([0.8 * radius, 0.03, 0.03, 0.03, 0.03]), segments=7,
    )  # fmt: skip
    crown = _leaves(draw, (0, 0, (fork + high) / 2), (wide, wide, high - fork + 1.0), 500, 0.45)
    parts: Parts = [(BARK, wood), (LEAVES, crown)]
    if draw.chance(0.2):  # with shrubs around
        parts.append((LEAVES, _leaves(draw, (0, 0, 0.4), (1.6, 1.6, 0.9), 90, 0.2)))
    return parts


def bush(draw: Draw, size: Size) -> Parts:
    deep, wide, high = size
    inner = cushion((0, 0, 0.42 * high), (0.55 * deep, 0.7 * wide, 0.8 * high), 0.8, 8)
    count = int(np.clip(45 * (deep * wide + wide * high + deep * high), 80, 420))
    return [(LEAVES, inner), (LEAVES, _leaves(draw, (0, 0, high / 2), size, count, 0.28))]


def hedge(draw: Draw, size: Size) -> Parts:
    """A cut hedge along y."""
    deep, wide, high = size
    core = box((0, 0, high / 2 - 0.05), (deep - 0.25, wide, high - 0.1))
    count = int(min(25 * wide * high, 500))
    u, v, w = draw.units(3, count)
    places = np.column_stack([(np.round(u) - 0.5) * (deep - 0.2), (v - 0.5) * wide, w * high])
    return [(LEAVES, core), (LEAVES, _cards(draw, places, 0.22))]


def wall(draw: Draw, size: Size) -> Parts:
    """A garden wall along y, with pillars and a cope."""
    deep, wide, high = size
    count = max(int(wide / 3), 1)
    pillars = [box((0, (i / count - 0.5) * wide, high / 2 + 0.06), (0.4, 0.4, high + 0.12)) for i in range(count + 1)]
    stone = masonry(draw)
    return [(stone, join(box((0, 0, high / 2), (deep, wide, high)), box((0, 0, high), (0.3, wide, 0.08)), *pillars))]


def fence(draw: Draw, size: Size) -> Parts:
    """Posts and rails along y, at times with pales, or a crash barrier."""
    _, wide, high = size
    posts = max(int(wide / 2.2), 1)
    pieces = [box((0, (i / posts - 0.5) * wide, high / 2), (0.09, 0.09, high)) for i in range(posts + 1)]
    if draw.chance(0.4):  # a crash barrier
        pieces.append(box((0.06, 0, 0.6), (0.08, wide, 0.32)))
        return [(STEEL, join(*pieces))]
    pieces += [box((0, 0, share * high), (0.04, wide, 0.08)) for share in (0.25, 0.85)]
    pales = int(wide / 0.25) if draw.chance(0.7) else 0
    pieces += [box((0.03, (i / max(pales, 1) - 0.5) * wide, high / 2), (0.025, 0.1, high)) for i in range(pales)]
    return [(BARK if pales else STEEL, join(*pieces))]


def pole(draw: Draw, size: Size) -> Parts:
    """A street lamp, a traffic light, or a pole for wires."""
    high = size[2]
    radius = draw.between(0.05, 0.13)
    shaft = [bar((0, 0, 0), (0, 0, high), radius, 0.7 * radius, segments=8)]
    kind = draw.pick(["lamp", "lamp", "light", "wires"])
    if kind == "lamp":
        shaft.append(bar((0, 0, high), (1.5, 0, high + 0.3), 0.05, segments=5))
    if kind == "light":
        shaft.append(box((0.15, 0, min(high - 0.3, 2.8)), (0.2, 0.3, 0.9)))
    return [(STEEL if kind != "wires" else BARK, join(*shaft))]


def sign(draw: Draw, size: Size) -> Parts:
    """A traffic sign that looks to -x, towards those who come, or a board with the names of places."""
    high = size[2]
    shaft = [bar((0, 0, 0), (0, 0, high), 0.035, segments=6)]
    if draw.chance(0.75):
        disc = bar(
            (-0.05, 0, high - 0.35), (-0.08, 0, high - 0.35), draw.between(0.28, 0.4), segments=draw.pick([3, 8, 12])
        )
        return [(STEEL, join(*shaft)), (PLATE, disc)]
    shaft = [bar((0, y, 0), (0, y, high), 0.045, segments=6) for y in (-0.7, 0.7)]
    return [(STEEL, join(*shaft)), (PLATE, box((-0.06, 0, high - 0.5), (0.03, 1.8, 0.9)))]


def furniture(draw: Draw, size: Size) -> Parts:
    """A thing on a pavement: bin, bollard, cabinet, letter box, column for posters, bench, shelter."""
    kind = draw.pick(["bin", "bin", "bollard", "bollard", "cabinet", "column", "bench", "shelter"])
    shade = Material(draw.between(0.1, 0.5), 0.6, draw.between(0.02, 0.15))
    if kind == "bin":
        return [(shade, lathe([(0, 0), (0.25, 0), (0.29, 1.0), (0, 1.08)], 8, 0.4))]
    if kind == "bollard":
        return [(shade, bar((0, 0, 0), (0, 0, draw.between(0.7, 1.1)), 0.07, segments=8))]
    if kind == "cabinet":
        tall = draw.between(0.9, 1.7)
        return [(shade, box((0, 0, tall / 2), (0.4, draw.between(0.6, 1.6), tall)))]
    if kind == "column":
        return [(shade, bar((0, 0, 0), (0, 0, 2.8), 0.6, segments=14))]
    if kind == "bench":
        seat, back = box((0, 0, 0.45), (0.45, 1.7, 0.06)), box((-0.22, 0, 0.7), (0.05, 1.7, 0.4))
        return [(shade, join(seat, back, both(box((0, 0.7, 0.22), (0.4, 0.06, 0.44)), "y")))]
    frame = join(*(bar((x, y, 0), (x, y, 2.4), 0.04, segments=5) for x in (-0.7, 0.7) for y in (-1.9, 1.9)))
    roof = box((0, 0, 2.45), (1.7, 4.0, 0.1))
    return [(STEEL, join(frame, roof)), (GLASS, box((-0.7, 0, 1.3), (0.03, 3.8, 1.9)))]


# ---- leaves ----------------------------------------------------------------------------------------------------------
def _leaves(draw: Draw, centre: tuple[float, ...], size: tuple[float, ...], count: int, large: float) -> np.ndarray:
    """Leaves spread through an ellipsoid, more of them near its surface."""
    u, v, w = draw.units(3, count)
    up = 2 * u - 1
    flat, turned = np.sqrt(1 - up * up), 2 * np.pi * v
    direction = np.column_stack([flat * np.cos(turned), flat * np.sin(turned), up])
    places = np.asarray(centre) + direction * (w ** (1 / 5))[:, None] * np.asarray(size) / 2
    return _cards(draw, places, large)


def _cards(draw: Draw, places: np.ndarray, large: float) -> np.ndarray:
    """One triangle at each place, turned at random."""
    corners = draw.units(len(places), 3, 3) * 2 - 1
    corners -= corners.mean(axis=1, keepdims=True)
    return places[:, None] + corners * large
