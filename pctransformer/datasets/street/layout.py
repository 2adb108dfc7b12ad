"""What stands where in a street: traffic in lanes and at kerbs, people, houses and what is between them."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from pctransformer.datasets.scans import boxes_collide
from pctransformer.datasets.shape_classes.draw import Draw
from pctransformer.datasets.street.ground import ALONG, Ground, make_ground
from pctransformer.datasets.street.people import cyclist_size, pedestrian_size
from pctransformer.datasets.street.vehicles import Size, car_size, truck_size, van_size

LABELLED = ("Car", "Van", "Truck", "Pedestrian", "Cyclist")
"""Kinds of things that get a box; the other kinds are scenery."""


class Style(NamedTuple):
    """What a kind of street has; numbers of people and drivers are means along the whole street."""

    chance: float  # of this kind of street
    lanes: tuple[int, ...]  # in one direction
    lane: tuple[float, float]  # width
    parking: str  # "along" the kerb, "across" it, or "none"
    parked: tuple[float, float]  # share of places that are taken
    pavement: tuple[float, float]
    driving: float
    walking: float
    cycling: float
    houses: tuple[float, float]  # gaps between them; none where the first is infinite
    setback: tuple[float, float]  # of houses, behind the pavement
    green: float  # trees and bushes, 1 is many
    hilly: float


_NEVER = (np.inf, np.inf)
STYLES = {
    "residential": Style(0.38, (1,), (2.2, 2.9), "along", (0.25, 0.8), (1.0, 2.2), 4, 7, 5, (1, 7), (0, 5), 1.2, 1.0),
    "city": Style(
        0.28, (1, 1, 1, 2), (2.7, 3.3), "along", (0.2, 0.8), (1.6, 3.8), 9, 13, 9, (0, 1.5), (0, 0.5), 0.4, 0.6
    ),
    "avenue": Style(0.14, (1, 2), (3.0, 3.5), "across", (0.2, 0.75), (1.8, 4), 8, 8, 7, (3, 15), (1, 8), 1.6, 0.7),
    "road": Style(0.10, (1, 2), (3.2, 3.7), "none", (0, 0), (0.8, 2.5), 16, 2, 4, _NEVER, (0, 0), 2.0, 1.6),
    "walk": Style(0.10, (1,), (2.2, 4.0), "none", (0, 0), (1, 3), 1, 18, 9, (0, 8), (0, 2), 1.2, 0.6),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Thing:
    """Something that stands on the ground.

    Attributes:
        kind: of `LABELLED`, or of scenery.
        box: (7,) x, y, height of the bottom above the road, length, width, height, heading.
        seed: of all that is drawn about its shape.
    """

    kind: str
    box: np.ndarray
    seed: int


class Plan:
    """A street that fills with things, none of which stands in another."""

    def __init__(self, draw: Draw, ground: Ground) -> None:
        self.ground = ground
        self.things: list[Thing] = []
        self._draw = draw
        self._taken = np.zeros((0, 7))

    def add(self, kind: str, s: float, t: float, size: Size, heading: float = 0.0, *, margin: float = 0.25) -> bool:
        """Put a thing at s, t, turned by `heading` against the road, if there is room for it and `margin` metres."""
        x, y, along = self.ground.place(np.float64(s), np.float64(t))
        raised = abs(t) > self.ground.half and not self.ground.on_side_road(s)
        box = np.array([x, y, self.ground.kerb if raised else 0.0, *size, along + heading])
        wide = box + np.array([0, 0, 0, 2 * margin, 2 * margin, 0, 0])
        reach = np.hypot(wide[3], wide[4]) + np.hypot(self._taken[:, 3], self._taken[:, 4])
        near = self._taken[np.hypot(*(self._taken[:, :2] - box[:2]).T) * 2 < reach]
        if boxes_collide(wide[None], near).any():
            return False
        self._taken = np.concatenate([self._taken, box[None]])
        self.things.append(Thing(kind, box, int(self._draw.unit() * 2**53)))
        return True


class Street(NamedTuple):
    """Where the car with the scanner is (t, heading against the road), and all around it."""

    ground: Ground
    things: list[Thing]
    own_t: float
    own_heading: float


def lay_out(draw: Draw) -> Street:
    """Draw a street of some style. The scanner's car is at s = 0."""
    style = _pick_style(draw)
    lane, lanes = draw.between(*style.lane), draw.pick(style.lanes)
    parking = {"along": 2.1, "across": 4.9, "none": 0.0}[style.parking]
    half = lane * lanes + parking
    sides = _side_roads(draw)
    ground = make_ground(draw, half=half, pavement=draw.between(*style.pavement), sides=sides, hilly=style.hilly)
    plan = Plan(draw, ground)
    own_t = -lane * (draw.count(1, lanes) - 0.5)
    own_heading = draw.pick([0.02, 0.02, 0.02, 0.02, 0.12, 0.4]) * draw.normal()
    plan.add("own car", 0, own_t, (4.6, 1.9, 1.7), own_heading, margin=0.6)
    _drivers(draw, plan, style, lane, lanes)
    _parked(draw, plan, style, lane * lanes)
    _side_traffic(draw, plan)
    _people(draw, plan, style)
    _houses(draw, plan, style)
    _pavement_things(draw, plan, style)
    _green(draw, plan, style)
    return Street(ground, [thing for thing in plan.things if thing.kind != "own car"], own_t, own_heading)


def _pick_style(draw: Draw) -> Style:
    value = draw.unit()
    for style in STYLES.values():
        value -= style.chance
        if value < 0:
            break
    return style


def _side_roads(draw: Draw) -> tuple[tuple[float, float], ...]:
    roads = []
    for middle in (draw.between(-45, -15), draw.between(9, 32), draw.between(42, 72)):
        if draw.chance(0.45):
            roads.append((middle, draw.between(2.8, 4.5)))
    return tuple(roads)


def _count(draw: Draw, mean: float) -> int:
    """A number around a mean, spread wider than a Poisson's: streets are busy or not."""
    return int(mean * draw.between(0.3, 1.7) + draw.unit())


def _vehicle(draw: Draw, vans: float = 0.09, trucks: float = 0.03) -> tuple[str, Size]:
    value = draw.unit()
    if value < trucks:
        return "Truck", truck_size(draw)
    if value < trucks + vans:
        return "Van", van_size(draw)
    return "Car", car_size(draw)


# ---- traffic ---------------------------------------------------------------------------------------------------------
def _drivers(draw: Draw, plan: Plan, style: Style, lane: float, lanes: int) -> None:
    for _ in range(_count(draw, style.driving)):
        side = draw.pick([-1, 1])  # -1 is the right-hand side, where the scanner's car drives, too
        t = side * lane * (draw.count(1, lanes) - 0.5) + 0.2 * draw.normal()
        kind, size = _vehicle(draw, trucks=0.06)
        heading = (0 if side < 0 else np.pi) + 0.03 * draw.normal()
        plan.add(kind, draw.between(*ALONG), t, size, heading, margin=0.8)


def _parked(draw: Draw, plan: Plan, style: Style, inner: float) -> None:
    """Rows at the kerbs; `inner` is where lanes end."""
    if style.parking == "none":
        return
    for side in (-1, 1):
        taken = draw.between(*style.parked)
        across = style.parking == "across" and draw.chance(0.8)
        s = ALONG[0] + draw.between(0, 5)
        while s < ALONG[1] - 3:
            kind, size = _vehicle(draw, trucks=0.0 if across else 0.012)
            room = draw.between(2.3, 2.8) if across else size[0] + draw.between(0.5, 1.6)
            s += room / 2
            if draw.chance(taken) and not plan.ground.on_side_road(s, 5.0):
                if across:
                    t = side * (inner + 0.3 + size[0] / 2 + draw.between(0, 0.4))
                    heading = draw.pick([-1, 1]) * np.pi / 2
                else:
                    t = side * (inner + 0.15 + size[1] / 2 + draw.between(0, 0.25))
                    heading = 0.0 if (side < 0) == draw.chance(0.85) else np.pi
                plan.add(kind, s, t, size, heading + 0.03 * draw.normal(), margin=0.1)
            s += room / 2
            if draw.chance(0.06):  # an exit, a crossing
                s += draw.between(4, 12)


def _side_traffic(draw: Draw, plan: Plan) -> None:
    """Roads that cross: cars that wait or turn, and parked ones."""
    for middle, half in plan.ground.sides:
        for _ in range(_count(draw, 3.0)):
            kind, size = _vehicle(draw)
            right = draw.pick([-1, 1])
            t = draw.pick([-1, 1]) * draw.between(plan.ground.half + 2.5, plan.ground.half + 35)
            if draw.chance(0.2):
                t = draw.between(-plan.ground.half, plan.ground.half)
            heading = right * np.pi / 2 + 0.06 * draw.normal()
            plan.add(kind, middle + right * (half / 2), t, size, heading, margin=0.4)


# ---- people ----------------------------------------------------------------------------------------------------------
def _people(draw: Draw, plan: Plan, style: Style) -> None:
    half, pavement = plan.ground.half, plan.ground.pavement
    walkers = _count(draw, style.walking)
    while walkers > 0:
        s, heading = draw.between(-40, 75), draw.pick([0.0, np.pi]) + 0.15 * draw.normal()
        side = draw.pick([-1, 1])
        t = side * (half + draw.between(0.4, max(pavement - 0.3, 0.6)))
        if draw.chance(0.2):  # crosses the road, often where roads cross
            t, heading = draw.between(-half, half), draw.pick([-1, 1]) * np.pi / 2 + 0.3 * draw.normal()
        elif draw.chance(0.15):
            heading = draw.between(0, 2 * np.pi)
        group = draw.pick([1, 1, 1, 2, 2, 3])
        for i in range(group):
            plan.add(
                "Pedestrian", s + 0.3 * draw.normal(), t + 0.85 * i, pedestrian_size(draw),
                heading + 0.1 * draw.normal(), margin=0.02,
            )  # fmt: skip
        walkers -= group
    for _ in range(_count(draw, style.cycling)):
        side = draw.pick([-1, 1])
        t = side * (half + draw.pick([draw.between(-1.2, -0.5), draw.between(0.4, max(pavement - 0.4, 0.6)), -2.6]))
        heading = (0.0 if (side < 0) == draw.chance(0.85) else np.pi) + 0.06 * draw.normal()
        s = draw.between(-40, 75)
        if draw.chance(0.12):
            t, heading = draw.between(-half, half), draw.pick([-1, 1]) * np.pi / 2 + 0.4 * draw.normal()
        plan.add("Cyclist", s, t, cyclist_size(draw), heading, margin=0.1)


# ---- scenery ---------------------------------------------------------------------------------------------------------
def _houses(draw: Draw, plan: Plan, style: Style) -> None:
    """Rows of houses, their front gardens' hedges and fences, and what closes the view at the end of the street."""
    edge = plan.ground.half + plan.ground.pavement
    for side in (-1, 1):
        s = ALONG[0] + draw.between(0, 8)
        setback = draw.between(*style.setback)
        while s < ALONG[1] and np.isfinite(style.houses[0]):
            wide, deep = draw.between(8, 24), draw.between(7, 12)
            gap = draw.between(*style.houses)
            middle = s + wide / 2
            if not any(abs(middle - m) < wide / 2 + h + 1.5 for m, h in plan.ground.sides):
                back = setback + draw.between(0, 1.0)
                t = side * (edge + back + deep / 2)
                plan.add("house", middle, t, (deep, wide, draw.between(3.5, 14)), -side * np.pi / 2, margin=0.0)
                if back > 1.5 and draw.chance(0.7):
                    kind = draw.pick(["hedge", "hedge", "wall", "fence"])
                    high = draw.between(0.7, 1.9)
                    plan.add(kind, middle, side * (edge + 0.4), (0.5, 0.85 * wide, high), -side * np.pi / 2, margin=0)
                s += wide + gap
            else:
                s += 4.0
        s = ALONG[0]
        while s < ALONG[1]:  # what stands behind, for gaps to show
            wide = draw.between(8, 22)
            kind = draw.pick(["house", "house", "bush"])
            t = side * draw.between(34, 55)
            plan.add(kind, s, t, (draw.between(4, 9), wide, draw.between(3, 7)), -side * np.pi / 2, margin=0)
            s += wide + draw.between(0, 8)
    if draw.chance(0.6):
        s = draw.between(60, 92)
        t = -edge - 25.0
        while t < edge + 25:
            wide = draw.between(8, 18)
            plan.add(
                draw.pick(["house", "house", "bush"]), s, t + wide / 2, (8, wide, draw.between(4, 9)), np.pi, margin=0
            )
            t += wide + draw.between(0, 3)


def _pavement_things(draw: Draw, plan: Plan, style: Style) -> None:
    half, pavement = plan.ground.half, plan.ground.pavement
    for side in (-1, 1):
        for kind, count in (("pole", draw.count(3, 7)), ("sign", draw.count(1, 5)), ("furniture", draw.count(1, 6))):
            for _ in range(count):
                high = {"pole": draw.between(4, 8), "sign": draw.between(2.2, 3.2), "furniture": 1.0}[kind]
                t = half + draw.pick([0.4, 0.5, max(pavement - 0.4, 0.5)])
                heading = -side * np.pi / 2 if kind == "furniture" else draw.pick([0.0, 0.0, np.pi])
                plan.add(kind, draw.between(-40, 80), side * t, (0.5, 0.5, high), heading, margin=0.05)
        for _ in range(_count(draw, 0.35 * style.cycling)):
            heading = draw.pick([0.0, np.pi / 2, np.pi]) + 0.2 * draw.normal()
            t = side * (half + draw.between(0.5, pavement))
            plan.add("bicycle", draw.between(-30, 60), t, (1.72, 0.6, 1.1), heading, margin=0.0)


def _green(draw: Draw, plan: Plan, style: Style) -> None:
    half, pavement = plan.ground.half, plan.ground.pavement
    for side in (-1, 1):
        if draw.chance(0.5 * style.green):  # a row of trees at the kerb
            s, step = ALONG[0] + draw.between(0, 10), draw.between(7, 15)
            while s < ALONG[1]:
                _tree(draw, plan, s, side * (half + 0.7))
                s += step
        for _ in range(_count(draw, 16 * style.green)):
            t = side * (half + pavement + 0.8 + 18 * draw.unit() ** 2)
            s = draw.between(*ALONG)
            if draw.chance(0.5):
                _tree(draw, plan, s, t)
            else:
                size = draw.between(0.8, 2.5), draw.between(0.8, 6.0), draw.between(0.6, 2.8)
                plan.add("bush", s, t, size, draw.between(-0.3, 0.3) + np.pi / 2, margin=0)
        if not np.isfinite(style.houses[0]):  # the edge of a wood, a hedge or a barrier beside the road
            s, kind = ALONG[0], draw.pick(["bush", "bush", "hedge", "fence", "wall"])
            away = half + pavement + (draw.between(0.3, 2) if kind == "fence" else draw.between(1, 9))
            while s < ALONG[1]:
                wide = draw.between(5, 14)
                size = {"bush": (draw.between(2, 4), wide, draw.between(2, 4.5)), "fence": (0.4, wide, 0.8)}.get(
                    kind, (0.7, wide, draw.between(1, 2.2))
                )
                if draw.chance(0.85):
                    plan.add(kind, s + wide / 2, side * away, size, -side * np.pi / 2, margin=0)
                s += wide + draw.between(0, 2)


def _tree(draw: Draw, plan: Plan, s: float, t: float) -> None:
    """Its crown may be above other things, its trunk not in them: the box is that of the trunk, as high as the tree."""
    plan.add("tree", s, t, (0.5, 0.5, draw.between(5, 9)), draw.between(0, 6), margin=0.05)
