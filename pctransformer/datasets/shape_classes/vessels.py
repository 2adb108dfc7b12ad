"""Turned and hollow things: bottle, vase, cup, lamp, bathtub, toilet. They stand on z = 0, lengths are metres.

The first four share one family of silhouettes, so that neck, opening, handle and shade are what tells them apart.
"""

from __future__ import annotations

import numpy as np

from pctransformer.datasets.shape_classes.draw import Draw
from pctransformer.datasets.shape_classes.furniture import Parts
from pctransformer.datasets.shape_classes.solids import (
    bar,
    both,
    box,
    circle,
    cushion,
    join,
    lathe,
    loft,
    move,
    prism,
    smooth,
    tube,
    turn,
)


def _belly(draw: Draw, radius: float, height: float) -> np.ndarray:
    """(k, 2) radius and height of a body from foot to shoulder: straight, bulging, waisted or conical."""
    kind = draw.pick(["straight", "bulge", "waist", "cone", "pear"])
    widths = {
        "straight": (0.95, 1.0, 1.0, 0.97),
        "bulge": (draw.between(0.5, 0.75), 0.95, 1.0, draw.between(0.6, 0.85)),
        "waist": (1.0, draw.between(0.7, 0.85), draw.between(0.7, 0.85), 0.95),
        "cone": (draw.between(0.55, 0.75), 0.8, 0.9, 1.0),
        "pear": (0.9, 1.0, draw.between(0.75, 0.9), draw.between(0.45, 0.6)),
    }[kind]
    return smooth([(radius * w, height * i / 3) for i, w in enumerate(widths)], 10)


def _hollow(outside: np.ndarray, wall: float, floor: float) -> np.ndarray:
    """The closed profile of a vessel with the given outside: up the outside, over the rim, down the inside."""
    inside = outside[outside[:, 1] >= floor][::-1] - [wall, 0]
    return np.concatenate([[(0, 0)], outside, inside.clip(0.001), [(0, max(floor, inside[-1, 1]))]])


def _handle(draw: Draw, x: float, low: float, high: float, reach: float, radius: float) -> np.ndarray:
    """A bow that leaves the wall at `high` and comes back to it at `low`."""
    middle = low + (high - low) * draw.between(0.4, 0.7)
    path = [
        (x, 0, high),
        (x + reach * 0.8, 0, high - 0.02),
        (x + reach, 0, middle),
        (x + reach * 0.6, 0, low),
        (x, 0, low),
    ]
    return tube(smooth(path, 20), radius)


def bottle(draw: Draw) -> Parts:
    """A closed body whose shoulder draws in to a narrow neck with a cap, a cork, or a bare lip."""
    radius, height = draw.between(0.05, 0.16), draw.between(0.14, 0.36)
    roundness = draw.pick([1.0, 1.0, 1.0, 0.4])
    body = _belly(draw, radius, height)
    neck = radius * draw.between(0.2, 0.42)
    shoulder = draw.between(0.25, 1.0) * radius
    rise = draw.between(0.05, 0.22)
    slope = smooth([body[-1], (0.6 * body[-1, 0] + 0.4 * neck, height + 0.6 * shoulder), (neck, height + shoulder)], 8)
    parts = [("body", lathe([(0, 0), *body, *slope[1:], (0, height + shoulder)], 24, roundness))]
    top = height + shoulder + rise
    parts.append(
        ("neck", lathe([(0, height + shoulder * 0.9), (neck, height + shoulder * 0.9), (neck, top), (0, top)]))
    )
    lip = neck * draw.between(1.1, 1.35)
    closing = draw.pick(["cap", "lip", "cork", "pump"])
    if closing == "lip":
        parts.append(("cap", lathe([(neck * 0.7, top - 0.02), (lip, top - 0.02), (lip, top), (neck * 0.7, top)])))
    elif closing == "cork":
        parts.append(("cap", lathe([(0, top), (neck * 0.8, top), (neck * 0.9, top + 0.03), (0, top + 0.03)])))
    else:
        tall = draw.between(0.025, 0.06)
        parts.append(("cap", lathe([(0, top - tall / 2), (lip, top - tall / 2), (lip, top + tall), (0, top + tall)])))
        if closing == "pump":
            head = box((radius * 0.4, 0, top + tall + 0.03), (radius * 1.2, 0.025, 0.02))
            parts.append(("cap", join(bar((0, 0, top + tall), (0, 0, top + tall + 0.03), 0.008), head)))
    return parts


def vase(draw: Draw) -> Parts:
    """A hollow body that stays open: a wide mouth or a flared lip, at times a pair of handles or a foot."""
    radius, height = draw.between(0.07, 0.2), draw.between(0.16, 0.45)
    body = _belly(draw, radius, height)
    collar = body[-1, 0] * draw.between(0.6, 0.95)
    mouth = collar * draw.between(1.05, 1.6)
    rise = draw.between(0.04, 0.18)
    flare = smooth([body[-1], (collar, height + 0.45 * rise), (mouth, height + rise)], 8)
    outside = np.concatenate([body, flare[1:]])
    lift = 0.0
    parts: Parts = []
    if draw.chance(0.3):
        lift = draw.between(0.03, 0.08)
        foot = radius * draw.between(0.5, 0.9)
        stem = [(0, 0), (foot, 0), (foot, 0.012), (body[0, 0] * 0.6, lift), (0, lift)]
        parts.append(("foot", lathe(stem)))
    wall = 0.008
    roundness = draw.pick([1.0, 1.0, 1.0, 0.3])
    parts.insert(0, ("body", move(lathe(_hollow(outside, wall, 0.02), 24, roundness), z=lift)))
    if draw.chance(0.3):
        high, low = lift + height + rise * 0.3, lift + height * draw.between(0.45, 0.7)
        reach = radius * draw.between(0.45, 0.8)
        bow = _handle(draw, collar * 0.9, low, high, reach, draw.between(0.008, 0.014))
        parts.append(("handle", join(bow, turn(bow, "z", 180))))
    return parts


def cup(draw: Draw) -> Parts:
    """Hollow and open, with one handle; mugs, tea cups with saucer, cups on a foot."""
    radius, height = draw.between(0.035, 0.06), draw.between(0.05, 0.13)
    kind = draw.pick(["mug", "mug", "tea", "goblet"])
    lift = 0.0
    parts: Parts = []
    if kind == "mug":
        outside = _belly(draw, radius, height)
    else:
        outside = smooth([(radius * 0.4, 0), (radius * draw.between(0.75, 0.95), height * 0.3), (radius, height)], 12)
    if kind == "tea" and draw.chance(0.7):
        plate = radius * draw.between(1.5, 2.0)
        parts.append(("saucer", lathe([(0, 0), (plate * 0.6, 0), (plate, 0.014), (plate, 0.018), (0, 0.008)])))
        lift = 0.006
    elif kind == "goblet":
        lift = draw.between(0.01, 0.03)
        parts.append(("saucer", lathe([(0, 0), (radius * 0.7, 0), (radius * 0.3, lift), (0, lift)])))
    parts.insert(0, ("body", move(lathe(_hollow(outside, 0.004, 0.006), 24), z=lift)))
    high, low = lift + height * draw.between(0.75, 0.92), lift + height * draw.between(0.15, 0.4)
    level = np.interp([low, high], outside[:, 1] + lift, outside[:, 0]).min()
    bow = _handle(draw, level * 0.95, low, high, draw.between(0.022, 0.04), draw.between(0.004, 0.007))
    parts.append(("handle", turn(bow, "z", draw.pick([0, 180, 90, 270]))))
    return parts


def lamp(draw: Draw) -> Parts:
    """Foot, stem and an open shade: table lamps, floor lamps, jointed desk lamps."""
    kind = draw.pick(["table", "table", "floor", "jointed"])
    shade, tall = draw.between(0.1, 0.24), draw.between(0.12, 0.3)
    upper = shade * draw.between(0.35, 1.0)
    profile = [(upper, 0), (shade, -tall), (shade - 0.008, -tall), (upper - 0.008, 0), (upper, 0)]
    cover = lathe(profile, 24, draw.pick([1.0, 1.0, 0.2]))
    bulb = cushion((0, 0, -tall * 0.6), (0.06, 0.06, 0.09), 0.9, 10)
    if kind == "jointed":
        base = lathe([(0, 0), (0.1, 0), (0.1, 0.02), (0, 0.03)])
        elbow = np.array([draw.between(-0.12, 0.02), 0, draw.between(0.22, 0.35)])
        wrist = np.array([draw.between(0.15, 0.3), 0, elbow[2] + draw.between(0.05, 0.2)])
        stem = join(bar((0, 0, 0.02), elbow, 0.012), bar(elbow, wrist, 0.012))
        joint = join(*(cushion(p, (0.045, 0.045, 0.045), 1.0, 10) for p in (elbow, wrist)))
        small = turn(join(cover, bulb) * 0.6, "y", -draw.between(10, 50))
        head = small + wrist
        return [("foot", base), ("stem", join(stem, joint)), ("shade", head)]
    high = draw.between(0.3, 0.6) if kind == "table" else draw.between(0.8, 1.5)
    parts: Parts = [("shade", move(join(cover, bulb), z=high + tall * 0.85))]
    if kind == "table" and draw.chance(0.6):
        body = _belly(draw, draw.between(0.06, 0.13), high * 0.75)
        parts.append(("foot", lathe([(0, 0), *body, (0, high * 0.75)], 20, draw.pick([1.0, 0.3]))))
        low = high * 0.7
    else:
        reach = draw.between(0.08, 0.18)
        if draw.chance(0.3):
            leg = bar((0, 0, high * 0.4), (reach * 1.3, 0, 0), 0.012)
            parts.append(("foot", join(leg, turn(leg, "z", 120), turn(leg, "z", 240))))
        else:
            parts.append(("foot", lathe([(0, 0), (reach, 0), (reach, 0.02), (reach * 0.2, 0.04), (0, 0.04)])))
        low = 0.02
    parts.append(("stem", bar((0, 0, low), (0, 0, high + tall * 0.85), draw.between(0.008, 0.018))))
    return parts


def _basin(length: float, width: float, height: float, wall: float, roundness: float, slope: float) -> np.ndarray:
    """A hollow tub with an open top; `slope` is how far the inside draws in towards the floor."""
    outline = circle(32, roundness) * [length / 2, width / 2]
    inner = 1 - 2 * wall / np.array([length, width])
    levels = [
        (outline * (1 - 0.5 * slope), 0.0),
        (outline, height),
        (outline * inner, height),
        (outline * inner * (1 - slope * 0.6), height * 0.45),
        (outline * inner * (1 - slope), height * 0.2),
    ]
    return loft(np.array([np.column_stack([ring, np.full(len(ring), z)]) for ring, z in levels]))


def bathtub(draw: Draw) -> Parts:
    """A long hollow basin with a rim; feet or a boxed apron; usually a tap."""
    length, width, height = draw.between(1.2, 1.9), draw.between(0.65, 1.0), draw.between(0.4, 0.7)
    boxed = draw.chance(0.4)
    lift = 0.0 if boxed else draw.pick([0.0, 0.06, 0.14])
    roundness = draw.between(0.2, 0.9)
    wall = draw.between(0.03, 0.08)
    tub = _basin(length, width, height, wall, roundness, draw.between(0.08, 0.3))
    parts: Parts = [("basin", move(tub, z=lift))]
    if boxed:
        panels = [both(box((0, width / 2 + 0.03, height / 2), (length + 0.1, 0.02, height)), "y")]
        panels.append(both(box((length / 2 + 0.04, 0, height / 2), (0.02, width + 0.06, height))))
        parts.append(("apron", join(*panels)))
    elif lift:
        foot = bar((length * 0.34, width * 0.27, 0), (length * 0.32, width * 0.25, lift + 0.08), 0.03, 0.05)
        parts.append(("foot", both(both(foot), "y")))
    ring = circle(32, roundness) * [length / 2, width / 2]
    rim = np.column_stack([ring, np.full(len(ring), lift + height)])
    parts.append(("rim", tube(np.concatenate([rim, rim[:2]]), draw.between(0.015, 0.035), 6)))
    if draw.chance(0.7):
        end, z = length / 2 - wall / 2, lift + height
        spout = tube(
            smooth([(end, 0, z), (end, 0, z + 0.15), (end - 0.08, 0, z + 0.18), (end - 0.16, 0, z + 0.12)], 14), 0.016
        )
        knobs = both(bar((end, 0.1, z), (end, 0.1, z + 0.06), 0.022), "y")
        parts.append(("tap", join(spout, knobs)))
    return parts


def toilet(draw: Draw) -> Parts:
    """A bowl with a seat, on a foot; cistern behind; the lid up, down or missing."""
    long, wide, seat_height = draw.between(0.42, 0.58), draw.between(0.34, 0.42), draw.between(0.36, 0.46)
    oval = circle(28, draw.pick([1.0, 0.8])) * [wide / 2, long / 2]
    foot = draw.between(0.4, 0.75)
    levels = [(foot, 0.0), (foot * 0.9, 0.35), (0.85, 0.75), (1.0, 1.0)]
    rings = [np.column_stack([oval * w + [0, (1 - w) * 0.12], np.full(len(oval), seat_height * z)]) for w, z in levels]
    inside = [(0.72, 1.0), (0.6, 0.75), (0.3, 0.5)]
    rings += [np.column_stack([oval * w, np.full(len(oval), seat_height * z)]) for w, z in inside]
    parts: Parts = [("bowl", loft(np.array(rings)))]
    outer, inner = oval * 1.04, oval * 0.7
    z = seat_height
    flat = [
        np.column_stack([r, np.full(len(r), h)])
        for r, h in ((inner, z), (outer, z), (outer, z + 0.025), (inner, z + 0.025), (inner, z))
    ]
    parts.append(("seat", loft(np.array(flat))))
    y = long / 2 + 0.01
    lid = prism(oval * 1.02, 0.025)
    state = draw.pick(["up", "up", "down", "none"])
    if state == "up":
        stood = turn(move(lid, y=long / 2), "x", draw.between(80, 100))
        parts.append(("lid", move(stood, y=long / 2 - 0.01, z=z + 0.03) - [0, 0.02, 0]))
    elif state == "down":
        parts.append(("lid", move(lid, z=z + 0.025)))
    deep, tall = draw.between(0.14, 0.22), draw.between(0.28, 0.45)
    low = draw.pick([z, z, z * 0.75])
    tank = cushion((0, y + deep / 2, low + tall / 2), (draw.between(0.34, 0.5), deep, tall), draw.between(0.05, 0.25))
    cover = box((0, y + deep / 2, low + tall + 0.015), (0.46, deep + 0.03, 0.03))
    parts.append(("tank", join(tank, cover)))
    parts.append(("tank", bar((0, y + deep / 2, low + tall + 0.03), (0, y + deep / 2, low + tall + 0.05), 0.03)))
    if draw.chance(0.6):
        parts.append(("bowl", box((0, y + deep * 0.3, low / 2), (0.2, deep * 1.2, low))))
    return parts
