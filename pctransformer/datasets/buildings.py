"""Generated flats to put furniture into: one to four rooms with walls, doors and windows. Metres, z up, floor at 0."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from pctransformer.datasets.shape_classes.draw import Draw
from pctransformer.datasets.shape_classes.solids import both, box, join, mirror, move, turn

_THICK = 0.12  # of walls
_CLEAR = 0.35  # between an opening and the end of a wall


@dataclass(frozen=True, eq=False)
class Solid:
    """Something of one class: triangles with a colour each.

    Attributes:
        name: of the class.
        triangles: (T, 3, 3) corners, metres, closed, normals outward.
        colors: (T, 3) red, green, blue in [0, 1].
    """

    name: str
    triangles: np.ndarray
    colors: np.ndarray


def solid(name: str, triangles: np.ndarray, color: np.ndarray) -> Solid:
    """A solid of one colour."""
    return Solid(name, triangles, np.tile(color, (len(triangles), 1)))


@dataclass(frozen=True)
class Opening:
    """A door or a window in a wall.

    Attributes:
        kind: "door" or "window".
        axis: 0 for a wall along x, 1 for one along y.
        across: where the middle of the wall is on the other axis.
        begin, end: along the wall.
        bottom, top: heights.
    """

    kind: str
    axis: int
    across: float
    begin: float
    end: float
    bottom: float
    top: float


@dataclass(eq=False)
class Room:
    """A free rectangle of floor between walls, which fills with furniture.

    Attributes:
        low, high: (2,) corners of the floor.
        height: of the ceiling.
        openings: in its walls.
        taken: rectangles (low, high) on which something stands, or through which a door swings.
    """

    low: np.ndarray
    high: np.ndarray
    height: float
    openings: list[Opening] = field(default_factory=list)
    taken: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    @property
    def area(self) -> float:
        return float(np.prod(self.high - self.low))

    def is_free(self, low: np.ndarray, high: np.ndarray, margin: float = 0.03) -> bool:
        """Whether a rectangle lies in the room and on nothing."""
        inside = (low >= self.low - 1e-6).all() and (high <= self.high + 1e-6).all()
        return bool(inside) and not any((low < h + margin).all() and (high > lo - margin).all() for lo, h in self.taken)

    def touches(self, opening: Opening) -> bool:
        """Whether an opening is in one of its walls."""
        along, across = opening.axis, 1 - opening.axis
        beside = min(abs(self.low[across] - opening.across), abs(self.high[across] - opening.across)) < _THICK
        return bool(beside and self.low[along] < (opening.begin + opening.end) / 2 < self.high[along])


@dataclass(frozen=True, eq=False)
class Building:
    """Rooms, and all that is fixed in them."""

    rooms: list[Room]
    solids: list[Solid]


@dataclass(frozen=True)
class _Wall:
    axis: int
    across: float
    begin: float
    end: float
    outer: bool


def make_building(draw: Draw) -> Building:
    """A rectangle of 3.2 to 8.5 metres, cut by inner walls, each with a door; windows in the outer walls."""
    size = np.array([draw.between(3.2, 8.5), draw.between(3.2, 7.5)])
    height = draw.between(2.3, 3.0)
    rooms: list[Room] = []
    walls: list[_Wall] = []
    _divide(draw, np.zeros(2), size, height, draw.pick([0, 0, 1, 2]), rooms, walls)
    half = _THICK / 2
    for axis in (0, 1):
        for across in (-half, size[1 - axis] + half):
            walls.append(_Wall(axis, across, -_THICK * axis, size[axis] + _THICK * axis, outer=True))

    plaster = np.array(draw.pick(_PLASTER)) * draw.between(0.8, 1)
    paint = np.array(draw.pick(_PAINT)) * draw.between(0.7, 1)
    solids = [
        solid("floor", box((*size / 2, -0.05), (*size + 2 * _THICK, 0.1)), np.array(draw.pick(_FLOORS))),
        solid("ceiling", box((*size / 2, height + 0.05), (*size + 2 * _THICK, 0.1)), np.array([0.85, 0.84, 0.8])),
    ]
    entry = draw.count(len(walls) - 4, len(walls) - 1)
    for number, wall in enumerate(walls):
        openings = _openings(draw, wall, rooms, height, door=not wall.outer or number == entry)
        solids.append(solid("wall", _wall(wall, openings, height), plaster))
        for opening in openings:
            beside = [room for room in rooms if room.touches(opening)]
            for room in beside:
                room.openings.append(opening)
            solids += _door(draw, opening, beside, paint) if opening.kind == "door" else _window(draw, opening, beside)
    return Building(rooms, solids)


_PLASTER = ((0.85, 0.83, 0.76), (0.8, 0.76, 0.66), (0.7, 0.7, 0.68), (0.72, 0.62, 0.5), (0.62, 0.66, 0.66))
_PAINT = ((0.8, 0.78, 0.74), (0.5, 0.34, 0.2), (0.35, 0.24, 0.16), (0.62, 0.5, 0.36), (0.4, 0.4, 0.42))
_FLOORS = (
    (0.52, 0.4, 0.28), (0.38, 0.27, 0.19), (0.62, 0.52, 0.4), (0.42, 0.41, 0.4), (0.55, 0.52, 0.48), (0.33, 0.31, 0.3),
)  # fmt: skip


def _divide(
    draw: Draw, low: np.ndarray, high: np.ndarray, height: float, cuts: int, rooms: list[Room], walls: list[_Wall]
) -> None:
    """Cut a rectangle across its longer side, and its parts again."""
    axis = int(high[1] - low[1] > high[0] - low[0])
    if not cuts or high[axis] - low[axis] < 4:
        rooms.append(Room(low, high, height))
        return
    at = low[axis] + (high[axis] - low[axis]) * draw.between(0.38, 0.62)
    walls.append(_Wall(1 - axis, at, low[1 - axis], high[1 - axis], outer=False))
    before, after = high.copy(), low.copy()
    before[axis], after[axis] = at - _THICK / 2, at + _THICK / 2
    _divide(draw, low, before, height, cuts - 1, rooms, walls)
    _divide(draw, after, high, height, cuts - 1, rooms, walls)


def _openings(draw: Draw, wall: _Wall, rooms: list[Room], height: float, *, door: bool) -> list[Opening]:
    """A door where one is wanted, and windows in outer walls; none ends at a wall that stands across."""
    wanted = ["door"] if door else []
    if wall.outer:
        wanted += ["window"] * draw.pick([0, 0, 1, 1])
    found: list[Opening] = []
    sill, lintel = draw.pick([0.1, 0.75, 0.9, 1.0]), min(height - 0.15, draw.between(1.95, 2.3))
    for kind in wanted:
        for _ in range(12):
            width = draw.between(0.72, 0.98) if kind == "door" else draw.between(0.7, 2.0)
            room_for = wall.end - wall.begin - width - 2 * _CLEAR
            if room_for < 0:
                continue
            begin = wall.begin + _CLEAR + room_for * draw.unit()
            bottom, top = (0.0, 2.05) if kind == "door" else (sill, lintel)
            opening = Opening(kind, wall.axis, wall.across, begin, begin + width, bottom, top)
            apart = all(opening.begin > o.end + 0.15 or opening.end < o.begin - 0.15 for o in found)
            if apart and _between_corners(opening, rooms):
                found.append(opening)
                break
    return sorted(found, key=lambda opening: opening.begin)


def _between_corners(opening: Opening, rooms: list[Room]) -> bool:
    """Whether an opening lies within one wall of each room that it touches, away from that room's corners."""
    beside = [room for room in rooms if room.touches(opening)]
    along = opening.axis
    return bool(beside) and all(
        room.low[along] + 0.12 < opening.begin and opening.end < room.high[along] - 0.12 for room in beside
    )


def _slab(
    opening: Opening | _Wall, begin: float, end: float, bottom: float, top: float, thick: float, off: float = 0.0
) -> np.ndarray:
    """A box in the plane of a wall, moved `off` across it."""
    centre = [(begin + end) / 2, opening.across + off, (bottom + top) / 2]
    size = [end - begin, thick, top - bottom]
    if opening.axis:
        centre[:2], size[:2] = centre[1::-1], size[1::-1]
    return box(centre, size)


def _wall(wall: _Wall, openings: list[Opening], height: float) -> np.ndarray:
    pieces, begin = [], wall.begin
    for opening in openings:
        pieces.append(_slab(wall, begin, opening.begin, 0, height, _THICK))
        pieces.append(_slab(wall, opening.begin, opening.end, opening.top, height, _THICK))
        if opening.bottom > 0:
            pieces.append(_slab(wall, opening.begin, opening.end, 0, opening.bottom, _THICK))
        begin = opening.end
    return join(*pieces, _slab(wall, begin, wall.end, 0, height, _THICK))


def _inward(opening: Opening, room: Room) -> float:
    """1 or -1: on which side of its wall the room is."""
    across = 1 - opening.axis
    return 1.0 if (room.low[across] + room.high[across]) / 2 > opening.across else -1.0


def _door(draw: Draw, opening: Opening, beside: list[Room], paint: np.ndarray) -> list[Solid]:
    """Frame and leaf: shut, ajar into one of the rooms, or taken out. Where it swings nothing can stand."""
    o, out, width = opening, _THICK + 0.03, opening.end - opening.begin
    frame = [
        _slab(o, o.begin - 0.06, o.begin + 0.02, 0, o.top + 0.06, out),
        _slab(o, o.end - 0.02, o.end + 0.06, 0, o.top + 0.06, out),
        _slab(o, o.begin, o.end, o.top - 0.02, o.top + 0.06, out),
    ]
    for room in beside:
        room.taken.append(_area_before(o, room, width))
    inner = len(beside) > 1
    state = draw.pick(["shut", "ajar", "ajar", "gone"] if inner else ["shut", "shut", "ajar"])
    if state == "gone":
        return [solid("door", join(*frame), paint)]
    side = _inward(o, draw.pick(beside))
    leaf = box((width / 2, 0, (o.top + 0.01) / 2), (width - 0.05, 0.04, o.top - 0.03))
    handle = both(box((width - 0.12, 0.045, 1.02), (0.12, 0.03, 0.02)), "y")
    leaf = join(leaf, handle)
    if state == "ajar":
        leaf = turn(leaf, "z", draw.between(35, 100))
    leaf = move(leaf if side > 0 else mirror(leaf, "y"), y=side * (_THICK / 2 - 0.03))
    leaf = move(leaf, x=o.begin, y=o.across)
    if o.axis:  # x and y change places, which is a mirror, too
        leaf = leaf[:, ::-1][:, :, [1, 0, 2]]
    return [solid("door", join(*frame, leaf), paint)]


def _area_before(opening: Opening, room: Room, deep: float) -> tuple[np.ndarray, np.ndarray]:
    side = _inward(opening, room)
    along, across = (opening.begin, opening.end), sorted((opening.across, opening.across + side * (deep + _THICK / 2)))
    bounds = np.array([along, across] if opening.axis == 0 else [across, along])
    return bounds[:, 0], bounds[:, 1]


def _window(draw: Draw, opening: Opening, beside: list[Room]) -> list[Solid]:
    """Frame, mullions, panes that a camera sees at times only, sill; perhaps curtains and a radiator."""
    o, room = opening, beside[0]
    side = _inward(o, room)
    off = side * draw.between(-0.02, 0.05)
    bar = draw.between(0.04, 0.08)
    pieces = [
        _slab(o, o.begin, o.begin + bar, o.bottom, o.top, 0.07, off),
        _slab(o, o.end - bar, o.end, o.bottom, o.top, 0.07, off),
        _slab(o, o.begin, o.end, o.bottom, o.bottom + bar, 0.07, off),
        _slab(o, o.begin, o.end, o.top - bar, o.top, 0.07, off),
    ]
    if o.end - o.begin > 0.9:
        middle = (o.begin + o.end) / 2
        pieces.append(_slab(o, middle - bar / 2, middle + bar / 2, o.bottom, o.top, 0.07, off))
    white = np.array(draw.pick([(0.85, 0.85, 0.83), (0.8, 0.78, 0.74), (0.42, 0.3, 0.2), (0.3, 0.3, 0.3)]))
    pieces.append(_slab(o, o.begin - 0.05, o.end + 0.05, o.bottom - 0.03, o.bottom, 0.16, side * 0.08))
    solids = [solid("window", join(*pieces), white)]
    if draw.chance(0.7):
        glass = np.array(draw.pick([(0.95, 0.96, 0.97), (0.75, 0.82, 0.88), (0.2, 0.22, 0.25), (0.55, 0.6, 0.6)]))
        solids.append(solid("window", _slab(o, o.begin, o.end, o.bottom, o.top, 0.02, off), glass))
    if draw.chance(0.35):
        cloth = np.array([draw.between(0.2, 0.85) for _ in range(3)])
        wide, low = draw.between(0.2, 0.45) * (o.end - o.begin), draw.pick([0.03, max(o.bottom - 0.1, 0.03)])
        folds = []
        for begin in (o.begin - 0.15, o.end + 0.15 - wide):
            count = max(int(wide / 0.1), 2)
            for i in range(count):
                at = begin + wide * i / count
                away = side * (_THICK / 2 + 0.06 + 0.035 * (i % 2))
                folds.append(_slab(o, at, at + wide / count, low, min(o.top + 0.15, room.height - 0.05), 0.05, away))
        solids.append(solid("other", join(*folds), cloth))
    if o.bottom > 0.6 and draw.chance(0.3):
        ribs = max(int((o.end - o.begin) / 0.1), 3)
        ends = np.linspace(o.begin, o.end, ribs + 1).tolist()
        away = side * (_THICK / 2 + 0.09)
        radiator = join(*(_slab(o, a + 0.01, b - 0.01, 0.12, o.bottom - 0.12, 0.1, away) for a, b in pairwise(ends)))
        solids.append(solid("other", radiator, np.array([0.85, 0.85, 0.82])))
        room.taken.append(_area_before(o, room, 0.16))
    return solids
