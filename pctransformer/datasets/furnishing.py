"""Puts generated furniture into generated rooms: at walls, around tables, on tops, where nothing else stands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pctransformer.datasets.buildings import Room, Solid
from pctransformer.datasets.shape_classes import furniture, machines, vessels
from pctransformer.datasets.shape_classes.draw import Draw
from pctransformer.datasets.shape_classes.furniture import Parts
from pctransformer.datasets.shape_classes.solids import box, cushion, join, lathe, move, turn

Footprint = tuple[np.ndarray, np.ndarray]
Thing = tuple[str, Parts]
"""Name of a class, and the parts of an object: its front looks to -y, it stands on z = 0."""


def furnish(draw: Draw, room: Room) -> list[Solid]:
    """Fill a room by what it is used for; its `taken` rectangles grow."""
    small = room.area < 7
    uses = [_bathroom, _office, _kitchen] if small else [_bedroom, _living, _living, _office, _kitchen, _dining]
    placed = draw.pick(uses)(draw, room)
    for _ in range(int(room.area > 12) + int(room.area > 20) + int(room.area > 30)):  # large rooms have several uses
        placed += draw.pick([_living, _living, _office, _dining, _dining, _bedroom])(draw, room)
    for _ in range(draw.count(0, 3)):
        placed += _anywhere(draw, room, ("other", _box(draw)))
    placed += _pictures(draw, room)
    return placed


# ---- what rooms are used for -----------------------------------------------------------------------------------------
def _bedroom(draw: Draw, room: Room) -> list[Solid]:
    placed = _at_wall(draw, room, ("bed", furniture.bed(draw)))
    for _ in range(draw.count(1, 3)):
        placed += _at_wall(draw, room, _cabinet(draw), with_top=0.6)
    if draw.chance(0.5):
        placed += _workplace(draw, room)
    if draw.chance(0.4):
        placed += _at_wall(draw, room, ("bookshelf", furniture.bookshelf(draw)))
    return placed + _floor_lamp(draw, room)


def _living(draw: Draw, room: Room) -> list[Solid]:
    placed = _at_wall(draw, room, _sofa(draw))
    for _ in range(draw.count(0, 2)):
        sofa = _sofa(draw)
        placed += _at_wall(draw, room, sofa) if draw.chance(0.4) else _anywhere(draw, room, sofa)
    low = _scaled(furniture.table(draw), (1, 1, draw.between(0.5, 0.8)))
    placed += _anywhere(draw, room, ("table", low), with_top=0.6)
    for _ in range(draw.count(1, 2)):
        placed += _at_wall(draw, room, ("bookshelf", furniture.bookshelf(draw)))
    placed += _at_wall(draw, room, _cabinet(draw), with_top=0.8)
    return placed + _floor_lamp(draw, room)


def _office(draw: Draw, room: Room) -> list[Solid]:
    placed: list[Solid] = []
    for _ in range(draw.count(1, 3)):
        placed += _workplace(draw, room)
    for _ in range(draw.count(0, 2)):
        placed += _at_wall(draw, room, ("bookshelf", furniture.bookshelf(draw)))
    return placed + _at_wall(draw, room, _cabinet(draw), with_top=0.5)


def _dining(draw: Draw, room: Room) -> list[Solid]:
    table = _scaled(furniture.table(draw), (1.15, 1.1, 1))
    table = _scaled(table, (1, 1, draw.between(0.7, 0.8) / _height(table)))
    placed = _anywhere(draw, room, ("table", table), with_top=0.5, chairs=draw.count(2, 6))
    for _ in range(draw.count(0, 2)):
        placed += _at_wall(draw, room, _cabinet(draw), with_top=0.5)
    return placed


def _kitchen(draw: Draw, room: Room) -> list[Solid]:
    placed = _at_wall(draw, room, ("cabinet", _counter(draw)), with_top=0.8)
    if draw.chance(0.6):
        placed += _at_wall(draw, room, ("cabinet", _counter(draw)), with_top=0.5)
    if draw.chance(0.7):
        fridge: Parts = [
            ("body", box((0, 0, 0.85), (0.62, 0.65, 1.7))),
            ("handle", box((0.25, -0.35, 1), (0.03, 0.05, 0.6))),
        ]
        placed += _at_wall(draw, room, ("other", fridge))
    if draw.chance(0.7):
        table = furniture.table(draw)
        table = _scaled(table, (0.9, 0.9, draw.between(0.7, 0.8) / _height(table)))
        placed += _anywhere(draw, room, ("table", table), with_top=0.5, chairs=draw.count(1, 4))
    return placed


def _bathroom(draw: Draw, room: Room) -> list[Solid]:
    placed = _at_wall(draw, room, ("other", vessels.toilet(draw)))
    if draw.chance(0.6):
        placed += _at_wall(draw, room, ("other", vessels.bathtub(draw)))
    return placed + _at_wall(draw, room, _cabinet(draw), with_top=0.5)


def _workplace(draw: Draw, room: Room) -> list[Solid]:
    """A desk at the wall, a chair in front of it, a monitor on it."""
    desk = furniture.desk(draw)
    desk = _scaled(desk, (1, 1, draw.between(0.7, 0.78) / _top_of(desk)[2]))
    return _at_wall(draw, room, ("desk", desk), with_top=0.9, chairs=1)


def _floor_lamp(draw: Draw, room: Room) -> list[Solid]:
    for _ in range(6 if draw.chance(0.5) else 0):
        lamp = vessels.lamp(draw)
        if _height(lamp) > 1:
            return _anywhere(draw, room, ("other", lamp))
    return []


# ---- objects that are made here, or chosen ---------------------------------------------------------------------------
def _sofa(draw: Draw) -> Thing:
    parts = furniture.sofa(draw)
    low, high = _bounds(parts)
    if high[0] - low[0] < 1.25:
        return "chair", parts  # for one person it is an armchair
    if draw.chance(0.25):  # round a corner: the same once more, with its back to the other wall
        deep = high[1] - low[1]
        parts = parts + [
            (name, move(turn(piece, "z", 90), x=low[0] - low[1] - deep, y=high[1] - high[0])) for name, piece in parts
        ]
    return "sofa", parts


def _cabinet(draw: Draw) -> Thing:
    if draw.chance(0.65):
        parts = [(name, piece) for name, piece in furniture.dresser(draw) if name != "mirror"]
        return "cabinet", _scaled(parts, (1, 1, draw.between(0.6, 1.1)))
    doors = draw.count(2, 3)
    width, depth, height = doors * draw.between(0.4, 0.55), draw.between(0.45, 0.65), draw.between(1.6, 2.2)
    return "cabinet", _with_doors(width, depth, height, doors)


def _with_doors(width: float, depth: float, height: float, doors: int, bottom: float = 0.0) -> Parts:
    """A closed box with doors in front."""
    step = width / doors
    z = bottom + height / 2
    parts: Parts = [("frame", box((0, 0, z), (width, depth, height)))]
    for i in range(doors):
        x = (i + 0.5) * step - width / 2
        parts.append(("drawer", box((x, -depth / 2 - 0.01, z), (step - 0.02, 0.02, height - 0.06))))
        parts.append(("handle", box((x + step * 0.38, -depth / 2 - 0.04, z), (0.02, 0.03, 0.15))))
    return parts


def _counter(draw: Draw) -> Parts:
    """Kitchen units in a row with a worktop; often more of them above."""
    units, depth, height = draw.count(2, 5), draw.between(0.55, 0.65), draw.between(0.84, 0.95)
    width = units * draw.between(0.45, 0.6)
    parts = _with_doors(width, depth - 0.05, height - 0.04, units)
    parts.append(("top", box((0, -0.01, height - 0.02), (width + 0.02, depth, 0.04))))
    if draw.chance(0.65):
        above = _with_doors(width, 0.34, draw.between(0.55, 0.75), units, draw.between(1.35, 1.5))
        parts += [(name, move(piece, y=(depth - 0.05 - 0.34) / 2)) for name, piece in above]
    return parts


def _box(draw: Draw) -> Parts:
    """What lies about: a carton, a bag, a bin, a plant."""
    kind = draw.pick(["carton", "bag", "bin", "plant"])
    size = np.array([draw.between(0.2, 0.5) for _ in range(3)])
    if kind == "carton":
        return [("body", box((0, 0, size[2] / 2), size))]
    if kind == "bag":
        return [("body", cushion((0, 0, 0.6 * size[2]), size * [1, 0.7, 1.2], 0.6, 12))]
    wide, tall = size[0] * 0.4, size[2]
    body = lathe([(0, 0), (wide * 0.8, 0), (wide, tall), (wide - 0.02, tall), (wide * 0.8 - 0.02, 0.02), (0, 0.02)], 14)
    if kind == "bin":
        return [("body", body)]
    leaves = [
        turn(cushion((draw.between(0.05, 0.25), 0, 0), (0.3, 0.1, 0.05), 0.8, 8), "y", -draw.between(0, 70))
        for _ in range(10)
    ]
    crown = [move(turn(leaf, "z", 360 * draw.unit()), z=tall + draw.between(0, 0.4)) for leaf in leaves]
    return [("body", body), ("leaf", join(*crown))]


def _small(draw: Draw) -> Parts:
    """What stands on tops."""
    kind = draw.pick(["monitor", "vase", "cup", "bottle", "lamp", "box", "books"])
    if kind in ("box", "books"):
        size = [draw.between(0.12, 0.32), draw.between(0.12, 0.3), draw.between(0.02, 0.25)]
        return [("body", box((0, 0, size[2] / 2), size))]
    if kind == "monitor":
        return machines.monitor(draw)
    make: dict[str, Callable[[Draw], Parts]] = {"vase": vessels.vase, "cup": vessels.cup, "bottle": vessels.bottle}
    parts = make.get(kind, vessels.lamp)(draw)
    return parts if _height(parts) < 0.8 else _scaled(parts, (0.4, 0.4, 0.4))


def _pictures(draw: Draw, room: Room) -> list[Solid]:
    """Flat things on the walls between openings."""
    placed = []
    for _ in range(draw.pick([0, 1, 2, 3])):
        wide, tall = draw.between(0.3, 1.2), draw.between(0.3, 0.9)
        parts: Parts = [("body", box((0, 0, 0), (wide, 0.03, tall)))]
        side = draw.count(0, 3)
        found = _along_side(draw, room, parts, side, gap=0.005)
        if found is None:
            continue
        low, high = found[0][:, :, :2].min((0, 1)), found[0][:, :, :2].max((0, 1))
        axis = 0 if side < 2 else 1
        if any(low[axis] < o.end + 0.1 and high[axis] > o.begin - 0.1 for o in _openings_of(room, side)):
            continue
        z = draw.between(1.3, min(1.7, room.height - 0.2 - tall / 2))
        placed.append(Solid("other", move(found[0], z=z - tall / 2), _colors(draw, parts)))
    return placed


# ---- where it goes ---------------------------------------------------------------------------------------------------
_YAW = (180.0, 0.0, 90.0, 270.0)  # of what stands at the walls of low y, high y, low x, high x


def _openings_of(room: Room, side: int) -> list:
    axis, across = (0, 1) if side < 2 else (1, 0)
    at = (room.low, room.high)[side % 2][across]
    return [o for o in room.openings if o.axis == axis and abs(o.across - at) < 0.2]


def _along_side(draw: Draw, room: Room, parts: Parts, side: int, gap: float) -> list[np.ndarray] | None:
    """The pieces with their back to a wall, somewhere along it; None where it is too short."""
    turned = _turned(parts, _YAW[side])
    everything = join(*turned)
    low, high = everything[:, :, :2].min((0, 1)), everything[:, :, :2].max((0, 1))
    axis = 0 if side < 2 else 1
    space = room.high[axis] - room.low[axis] - (high[axis] - low[axis]) - 0.02
    if space < 0:
        return None
    shift = np.zeros(3)
    # corners are where furniture goes first
    shift[axis] = room.low[axis] + 0.01 + space * draw.pick([0.0, 1.0, draw.unit(), draw.unit()]) - low[axis]
    shift[1 - axis] = (
        room.low[1 - axis] + gap - low[1 - axis] if side % 2 == 0 else room.high[1 - axis] - gap - high[1 - axis]
    )
    return [piece + shift for piece in turned]


def _at_wall(draw: Draw, room: Room, thing: Thing, *, with_top: float = 0.0, chairs: int = 0) -> list[Solid]:
    """The thing with its back to a wall, not before a window that it would hide; nothing where there is no place."""
    name, parts = thing
    for _ in range(20):
        side = draw.count(0, 3)
        pieces = _along_side(draw, room, parts, side, gap=draw.between(0.01, 0.06))
        if pieces is None:
            continue
        low, high = _footprint(pieces)
        axis = 0 if side < 2 else 1
        top = max(piece[:, :, 2].max() for piece in pieces)
        hidden = any(
            o.bottom < top - 0.2 and low[axis] < o.end and high[axis] > o.begin for o in _openings_of(room, side)
        )
        if not room.is_free(low, high) or (hidden and draw.chance(0.8)):
            continue
        return _put(draw, room, name, parts, pieces, _YAW[side], with_top, chairs)
    return []


def _anywhere(draw: Draw, room: Room, thing: Thing, *, with_top: float = 0.0, chairs: int = 0) -> list[Solid]:
    """The thing anywhere on the floor, turned at will, mostly along the walls."""
    name, parts = thing
    for _ in range(20):
        yaw = draw.pick([0.0, 90.0, 180.0, 270.0]) + (
            draw.between(-8, 8) if draw.chance(0.8) else draw.between(-45, 45)
        )
        turned = _turned(parts, yaw)
        low, high = _footprint(turned)
        space = room.high - room.low - (high - low) - 0.1
        if (space < 0).any():
            continue
        shift = np.array([*(room.low + 0.05 + space * [draw.unit(), draw.unit()] - low), 0])
        if room.is_free(low + shift[:2], high + shift[:2], margin=0.15):
            return _put(draw, room, name, parts, [piece + shift for piece in turned], yaw, with_top, chairs)
    return []


def _put(
    draw: Draw,
    room: Room,
    name: str,
    parts: Parts,
    pieces: list[np.ndarray],
    yaw: float,
    with_top: float,
    chairs: int,
) -> list[Solid]:
    """Let pieces stand where they are, with things on their top and chairs around them."""
    placed = [Solid(name, join(*pieces), _colors(draw, parts))]
    low, high = _footprint(pieces)
    room.taken.append((low, high))
    if draw.chance(with_top):
        placed += _on_top(draw, parts, pieces, yaw)
    sides = [0, 1, 2, 3, 0, 1] if chairs > 1 else [0]
    for side in sides[:chairs]:
        placed += _chair(draw, room, low, high, yaw + 90 * side)
    return placed


def _on_top(draw: Draw, parts: Parts, pieces: list[np.ndarray], yaw: float) -> list[Solid]:
    """Small things on the board called top, or on the whole, where the highest face is one."""
    index = next((i for i, (name, _) in enumerate(parts) if name == "top"), None)
    top = join(*pieces) if index is None else pieces[index]
    height = top[:, :, 2].max()
    if height > 1.4:
        return []
    low, high = _footprint([top])
    placed, taken = [], list[Footprint]()
    for _ in range(draw.count(1, 4)):
        small = _small(draw)
        turned = _turned(small, yaw + draw.between(-40, 40))
        begin, end = _footprint(turned)
        space = high - low - (end - begin) - 0.06
        if (space < 0).any():
            continue
        shift = low + 0.03 + space * [draw.unit(), draw.unit()] - begin
        here = begin + shift, end + shift
        if any((here[0] < other[1]).all() and (here[1] > other[0]).all() for other in taken):
            continue
        taken.append(here)
        placed.append(Solid("other", move(join(*turned), shift[0], shift[1], height), _colors(draw, small)))
    return placed


def _chair(draw: Draw, room: Room, low: np.ndarray, high: np.ndarray, yaw: float) -> list[Solid]:
    """A chair beside a rectangle, on the side to which something with that yaw looks, and looking back at it."""
    parts = furniture.chair(draw) if draw.chance(0.9) else furniture.stool(draw)
    away = np.array([np.sin(np.radians(yaw)), -np.cos(np.radians(yaw))])  # where -y goes
    for _ in range(4):
        turned = _turned(parts, yaw + 180 + draw.between(-25, 25))
        begin, end = _footprint(turned)
        along = np.array([-away[1], away[0]]) * draw.between(-0.3, 0.3)
        reach = (np.abs(away) * (high - low)).sum() / 2 + (np.abs(away) * (end - begin)).sum() / 2
        middle = (low + high) / 2 + away * (reach + draw.between(0.02, 0.25)) + along * (high - low)
        shift = middle - (begin + end) / 2
        if room.is_free(begin + shift, end + shift, margin=0.0):
            room.taken.append((begin + shift, end + shift))
            return [Solid("chair", move(join(*turned), shift[0], shift[1]), _colors(draw, parts))]
    return []


# ---- sizes and colours -----------------------------------------------------------------------------------------------
def _footprint(pieces: list[np.ndarray]) -> Footprint:
    corners = join(*pieces)[:, :, :2]
    return corners.min((0, 1)), corners.max((0, 1))


def _turned(parts: Parts, yaw: float) -> list[np.ndarray]:
    """The pieces, turned about z, on the floor: bent legs of generated shapes reach a little below it."""
    lowest = min(piece[:, :, 2].min() for _, piece in parts)
    return [move(turn(piece, "z", yaw), z=-lowest) for _, piece in parts]


def _bounds(parts: Parts) -> Footprint:
    corners = join(*(piece for _, piece in parts))
    return corners.min((0, 1)), corners.max((0, 1))


def _height(parts: Parts) -> float:
    return float(_bounds(parts)[1][2])


def _top_of(parts: Parts) -> np.ndarray:
    """(3,) the highest corner of the board called top."""
    return next(piece for name, piece in parts if name == "top").max((0, 1))


def _scaled(parts: Parts, factors: tuple[float, float, float]) -> Parts:
    return [(name, piece * np.array(factors)) for name, piece in parts]


_MATERIALS = (
    (0.55, 0.38, 0.24), (0.4, 0.27, 0.17), (0.68, 0.53, 0.36), (0.3, 0.21, 0.15), (0.75, 0.66, 0.52),  # wood
    (0.88, 0.87, 0.84), (0.6, 0.6, 0.6), (0.35, 0.35, 0.37), (0.14, 0.14, 0.15), (0.08, 0.08, 0.09),  # paint, metal
)  # fmt: skip
_SECOND = {"leg", "handle", "stem", "foot", "frame", "arm", "apron", "rung", "case", "cap", "saucer", "pillow"}
_OWN = {"book"}  # each of its boxes has a colour of its own


def _color(draw: Draw) -> np.ndarray:
    """Of a material, or any: cloth and plastic."""
    if draw.chance(0.6):
        return np.clip(np.array(draw.pick(_MATERIALS)) * draw.between(0.75, 1.25), 0, 1)
    grey, tint = draw.between(0.1, 0.8), draw.between(0, 0.35)
    return np.clip(grey + tint * (np.array([draw.unit(), draw.unit(), draw.unit()]) - 0.4), 0, 1)


def _colors(draw: Draw, parts: Parts) -> np.ndarray:
    """(T, 3) one or two colours for an object; which parts take the second depends on their names."""
    first = _color(draw)
    second = _color(draw) if draw.chance(0.6) else first
    colors = []
    for name, piece in parts:
        if name in _OWN:
            boxes = np.array([[draw.unit(), draw.unit(), draw.unit()] for _ in range(len(piece) // 12)])
            colors.append(np.repeat(0.15 + 0.6 * boxes, 12, axis=0))
        elif name == "leaf":
            colors.append(np.tile([0.2, 0.4, 0.15], (len(piece), 1)))
        elif name == "screen":
            colors.append(np.tile([0.05, 0.05, 0.06], (len(piece), 1)))
        else:
            colors.append(np.tile(second if name in _SECOND else first, (len(piece), 1)))
    return np.concatenate(colors)
