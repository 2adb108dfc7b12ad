"""Airplane, car, monitor, guitar: z is up, the nose of what moves and the face of what is looked at point to -y.

Lengths are metres.
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


# ---- airplane --------------------------------------------------------------------------------------------------------
def _wing(root: float, tip: float, span: float, sweep: float, rise: float, thick: float) -> np.ndarray:
    """One half of a wing: from x = 0 to `span`, its leading edge swept back by `sweep`; chords along y."""
    foil = np.array([(0.0, 0.0), (0.15, 0.5), (0.45, 0.45), (1.0, 0.0), (0.45, -0.3), (0.15, -0.35)])

    def ring(x: float, chord: float, y: float, z: float) -> np.ndarray:
        return np.column_stack([np.full(6, x), y + foil[:, 0] * chord, z + foil[:, 1] * thick * chord])

    return loft(np.stack([ring(0, root, 0, 0), ring(span, tip, sweep, rise)]))


def airplane(draw: Draw) -> Parts:
    """Fuselage, wings, tail; airliners, propeller planes and jets with swept or delta wings."""
    kind = draw.pick(["airliner", "airliner", "propeller", "jet"])
    length = draw.between(8, 14)
    radius = length * draw.between(0.045, 0.075)
    along = np.linspace(0, 1, 14)
    nose, taper = draw.between(0.08, 0.25), draw.between(0.3, 0.5)
    swell = np.minimum(np.sqrt((along / nose).clip(0, 1)), ((1.02 - along) / taper).clip(0, 1) ** 0.6)
    rings = np.empty((14, 16, 3))
    outline = circle(16)
    rings[..., 0] = outline[:, 0] * radius * swell[:, None]
    rings[..., 1] = (along * length - length / 2)[:, None]
    rings[..., 2] = outline[:, 1] * radius * swell[:, None] + 0.6 * radius * ((along - 0.7).clip(0)[:, None] / 0.3)
    parts: Parts = [("fuselage", loft(rings))]

    swept = {"airliner": (0.2, 0.5), "propeller": (0.0, 0.1), "jet": (0.5, 1.1)}[kind]
    span = length * (draw.between(0.25, 0.4) if kind == "jet" else draw.between(0.38, 0.62))
    root = length * (draw.between(0.25, 0.4) if kind == "jet" else draw.between(0.12, 0.2))
    tip = root * draw.between(0.2, 0.6 if kind != "propeller" else 0.95)
    sweep = span * draw.between(*swept)
    low = draw.pick([-0.6, -0.3, 0.9]) * radius
    station = -length * draw.between(0.02, 0.15)
    wing = move(_wing(root, tip, span, sweep, span * draw.between(-0.03, 0.12), 0.1), y=station, z=low)
    parts.append(("wing", both(wing)))

    back = length * 0.36
    fin = length * draw.between(0.12, 0.2)
    chord = length * draw.between(0.1, 0.15)
    upright = turn(_wing(chord, chord * 0.5, fin, fin * draw.between(0.2, 0.8), 0, 0.1), "y", -90)
    tail_z = radius * 0.6
    parts.append(("tail", move(upright, y=back, z=tail_z)))
    half = _wing(chord * 0.9, chord * 0.45, span * draw.between(0.3, 0.45), chord * draw.between(0.1, 0.7), 0, 0.1)
    high = tail_z + (fin * 0.95 if draw.chance(0.25) else 0.0)
    parts.append(("tail", both(move(half, y=back + (chord * 0.3 if high > tail_z else 0), z=high))))

    if kind == "propeller":
        hub = -length / 2
        blade = box((0, hub - 0.05, length * 0.07), (length * 0.02, 0.04, length * 0.14))
        blades = draw.count(2, 4)
        parts.append(("engine", join(*(turn(blade, "y", 360 * i / blades) for i in range(blades)))))
        spinner = turn(lathe([(0, 0), (0.5, 0), (0.4, 0.5), (0, 0.9)], 12) * radius, "x", 90)
        parts.append(("engine", move(spinner, y=hub + 0.1)))
        wheel = turn(lathe([(0, -0.1), (0.3, -0.1), (0.3, 0.1), (0, 0.1)], 12), "y", 90) * (length / 14)
        strut = bar((0, 0, 0), (0, 0, radius * 1.3), 0.05)
        gear = move(join(wheel, strut), x=radius * 1.4, y=-length * 0.1, z=-radius * 2)
        parts.append(("gear", both(gear)))
    elif kind == "airliner":
        pod = turn(lathe([(0, 0), (0.8, 0), (1, 0.6), (0.9, 2.2), (0.55, 3.0), (0, 3.0)], 14), "x", -90)
        pod = pod * (radius * draw.between(0.4, 0.6))
        if draw.chance(0.75):
            spots = draw.pick([(0.35,), (0.3, 0.6)])
            for share in spots:
                y = station + sweep * share - root * 0.2
                parts.append(("engine", both(move(pod, x=span * share, y=y, z=low - radius * 0.55))))
        else:
            parts.append(("engine", both(move(pod, x=radius * 1.5, y=length * 0.2, z=radius * 0.4))))
    else:
        canopy = cushion((0, -length * 0.22, radius * 0.8), (radius, length * 0.2, radius), 0.9, 12)
        parts.append(("fuselage", canopy))
        intake = box((radius * 1.1, -length * 0.02, 0), (radius * 0.9, length * 0.3, radius * 1.1))
        parts.append(("engine", both(intake)))
    return parts


# ---- car -------------------------------------------------------------------------------------------------------------
def car(draw: Draw) -> Parts:
    """Body, cabin and four wheels; saloons, hatchbacks, vans, pick-ups and sports cars."""
    length, width = draw.between(3.4, 5.2), draw.between(1.55, 1.95)
    kind = draw.pick(["saloon", "hatchback", "van", "pickup", "sports"])
    wheel = draw.between(0.28, 0.38) * (1.15 if kind == "pickup" else 1.0)
    floor = wheel * draw.between(0.6, 0.9)
    belt = floor + draw.between(0.5, 0.65)
    roof = belt + {"van": 0.85, "sports": 0.36}.get(kind, 0.52) * draw.between(0.9, 1.15)
    bonnet = belt - draw.between(0.02, 0.18)
    tail = belt - (draw.between(0.0, 0.15) if kind in ("saloon", "sports") else 0.0)
    # from the nose (0) to the tail (1): the lower edge of the windscreen, the roof's two ends, the rear screen's edge
    screen, front, rear, edge = {
        "saloon": (0.28, 0.42, 0.68, 0.83),
        "hatchback": (0.26, 0.4, 0.85, 0.97),
        "van": (0.14, 0.26, 0.96, 0.99),
        "pickup": (0.26, 0.38, 0.55, 0.59),
        "sports": (0.36, 0.5, 0.62, 0.86),
    }[kind]
    shift = draw.between(-0.03, 0.03)

    def cross_sections(stations: list[tuple[float, float, float, float]], narrow: float) -> np.ndarray:
        """Boxes with rounded corners around (y, bottom, top) of the given width share."""
        rings = []
        for y, bottom, top, share in stations:
            side = circle(20, 0.35) * [width / 2 * share, (top - bottom) / 2]
            side[:, 0] *= 1 - narrow * (side[:, 1] > 0)
            rings.append(
                np.column_stack([side[:, 0], np.full(20, (y - 0.5) * length), side[:, 1] + (top + bottom) / 2])
            )
        return loft(np.array(rings))

    nose = draw.between(0.6, 0.9)
    body = [
        (0.0, floor + 0.08, floor + (bonnet - floor) * nose, 0.88),
        (0.04, floor, bonnet - 0.04, 0.97),
        (screen + shift, floor, belt, 1.0),
        (edge, floor, belt, 1.0),
        (0.97, floor, tail, 0.97),
        (1.0, floor + 0.1, tail - 0.08, 0.9),
    ]
    body.sort(key=lambda station: station[0])
    parts: Parts = [("body", cross_sections(body, 0.0))]
    low = belt - 0.12
    cabin = [
        (screen + shift, low, belt + 0.02, 0.9),
        (front + shift, low, roof - 0.02, 0.86),
        ((front + rear) / 2, low, roof, 0.86),
        (rear, low, roof - 0.03, 0.86),
        (edge, low, belt + 0.02, 0.9),
    ]
    parts.append(("cabin", cross_sections(cabin, 0.1)))
    if kind == "pickup":
        walls = both(box((width / 2 - 0.05, length * 0.29, belt + 0.1), (0.08, length * 0.36, 0.25)))
        parts.append(("body", join(walls, box((0, length * 0.47, belt + 0.1), (width, 0.08, 0.25)))))
    thick = draw.between(0.18, 0.26)
    tyre = [
        (0, -thick / 2),
        (0.6, -thick / 2),
        (0.65, -thick * 0.6),
        (0.95, -thick * 0.6),
        (1, -thick / 2),
        (1, thick / 2),
    ]
    tyre += [(0.95, thick * 0.6), (0.65, thick * 0.6), (0.6, thick / 2), (0, thick / 2)]
    rim = turn(lathe(np.array(tyre) * [wheel, 1], 18), "y", 90)
    base = draw.between(0.29, 0.34) * length
    for y in (-base, base * 0.95):
        parts.append(("wheel", both(move(rim, x=width / 2 - thick * 0.35, y=y, z=wheel))))
    if draw.chance(0.7):
        mirror = cushion(
            (width / 2 + 0.1, (screen + shift + 0.06 - 0.5) * length, belt + 0.08), (0.2, 0.1, 0.14), 0.4, 10
        )
        parts.append(("mirror", both(mirror)))
    if kind == "sports" and draw.chance(0.5):
        parts.append(("body", box((0, length * 0.46, tail + 0.18), (width * 0.85, 0.25, 0.03))))
        parts.append(("body", both(box((width * 0.3, length * 0.46, tail + 0.08), (0.04, 0.12, 0.2)))))
    return parts


# ---- monitor ---------------------------------------------------------------------------------------------------------
def monitor(draw: Draw) -> Parts:
    """A screen in a frame: flat on a foot, or the deep box of a tube."""
    width = draw.between(0.35, 0.75)
    height = width * draw.between(0.5, 0.85)
    lift = draw.between(0.04, 0.2)
    z = lift + height / 2
    bezel = draw.between(0.015, 0.04)
    thick = draw.between(0.02, 0.06)
    tube_screen = draw.chance(0.3)
    horizontal = both(box((width / 2 - bezel / 2, 0, z), (bezel, thick, height)))
    vertical = [box((0, 0, z + s * (height / 2 - bezel / 2)), (width, thick, bezel)) for s in (-1, 1)]
    parts: Parts = [
        ("frame", join(horizontal, *vertical)),
        ("screen", box((0, thick * 0.1, z), (width - bezel, thick * 0.6, height - bezel))),
    ]
    if tube_screen:
        deep = width * draw.between(0.5, 0.9)
        shares = [(0.0, 1.0), (0.35, 0.95), (0.45, 0.75), (1.0, 0.5)]
        outline = circle(20, 0.2) * [width / 2, height / 2]
        rings = [
            np.column_stack([outline[:, 0] * w, np.full(20, thick / 2 + deep * y), outline[:, 1] * w + z])
            for y, w in shares
        ]
        parts.append(("case", loft(np.array(rings))))
        parts.append(("foot", lathe([(0, 0), (0.3, 0), (0.2, 1), (0, 1)]) * [width, deep, lift] + [0, deep * 0.4, 0]))
        return parts
    if draw.chance(0.6):
        parts.append(("case", box((0, thick * 0.8, z), (width * 0.6, thick, height * 0.6))))
    deep = draw.between(0.14, 0.26)
    kind = draw.pick(["disc", "plate", "legs", "bow"])
    back = thick * 1.2
    post = box((0, back, (lift + height * 0.3) / 2 + 0.005), (draw.between(0.03, 0.1), 0.03, lift + height * 0.3))
    if kind == "disc":
        foot = lathe([(0, 0), (1, 0), (0.95, 0.015), (0, 0.02)], 24) * [width * draw.between(0.2, 0.35), deep / 2, 1]
    elif kind == "plate":
        foot = box((0, 0, 0.0075), (width * draw.between(0.3, 0.6), deep, 0.015))
    elif kind == "legs":
        foot = both(bar((0, back, 0.05), (width * 0.25, -deep * 0.5, 0.01), 0.012))
        foot = join(foot, both(bar((0, back, 0.05), (width * 0.25, deep * 0.5 + back, 0.01), 0.012)))
    else:
        foot = tube(
            smooth([(-width * 0.25, -deep / 2, 0.01), (0, deep / 2, 0.01), (width * 0.25, -deep / 2, 0.01)], 14), 0.014
        )
    parts.append(("foot", join(post, foot)))
    return parts


# ---- guitar ----------------------------------------------------------------------------------------------------------
def guitar(draw: Draw) -> Parts:
    """A waisted body, a long neck with strings, a head with pegs; acoustic or electric; upright."""
    acoustic = draw.chance(0.55)
    body = draw.between(0.4, 0.52)
    lower = body * draw.between(0.34, 0.44)
    upper, waist = lower * draw.between(0.65, 0.85), lower * draw.between(0.5, 0.7)
    thick = draw.between(0.08, 0.13) if acoustic else draw.between(0.035, 0.055)
    half = smooth(
        [
            *[(0, 0), (lower * 0.75, 0.04 * body), (lower, 0.28 * body), (waist, 0.6 * body)],
            *[(upper, 0.82 * body), (upper * 0.7, 0.97 * body), (0, body)],
        ],
        26,
    )[1:-1]
    outline = np.concatenate([[(0, 0)], half, [(0, body)], (half * [-1, 1])[::-1]])
    if not acoustic and draw.chance(0.7):  # horns beside the neck
        reach = body * draw.between(0.06, 0.16)
        side = draw.pick([(1.0, 1.0), (1.0, 0.4)])
        horn = np.exp(-(((np.abs(outline[:, 0]) - upper * 0.8) / (0.25 * upper)) ** 2)) * (outline[:, 1] > 0.7 * body)
        outline[:, 1] += reach * horn * np.where(outline[:, 0] > 0, side[0], side[1])
    slab = move(turn(prism(outline, thick), "x", 90), y=thick / 2)
    parts: Parts = [("body", slab)]
    front = -thick / 2
    neck, head = draw.between(0.36, 0.5), draw.between(0.14, 0.2)
    wide = draw.between(0.045, 0.06)
    top = body * 0.85 + neck
    start = body * 0.62
    parts.append(("neck", box((0, front - 0.008, (start + top) / 2), (wide, 0.022, top - start))))
    flare = wide * draw.between(1.3, 1.9)
    headstock = np.array(
        [
            (-wide / 2, 0),
            (wide / 2, 0),
            (flare / 2, head * 0.3),
            (flare / 2, head),
            (-flare / 2, head),
            (-flare / 2, head * 0.3),
        ]
    )
    plate = turn(prism(headstock, 0.018), "x", 90 + draw.between(0, 12))
    parts.append(("head", move(plate, y=front, z=top)))
    pegs = []
    one_side = draw.chance(0.4)
    for i in range(6 if one_side else 3):
        z = top + head * ((0.2 + 0.13 * i) if one_side else (0.35 + 0.25 * i))
        peg = join(bar((flare / 2, front, z), (flare / 2 + 0.03, front, z), 0.005, segments=6))
        knob = cushion((flare / 2 + 0.035, front, z), (0.025, 0.012, 0.02), 0.6, 8)
        pegs.append(join(peg, knob) if one_side else both(join(peg, knob)))
    parts.append(("head", join(*pegs)))
    low = body * draw.between(0.18, 0.28)
    parts.append(("bridge", box((0, front - 0.008, low), (lower * 0.6, 0.016, 0.03))))
    if acoustic:
        hole = lower * draw.between(0.22, 0.3)
        angle = np.linspace(0, 2 * np.pi, 25)
        ring = np.stack([hole * np.cos(angle), np.full(25, front), body * 0.55 + hole * np.sin(angle)], axis=1)
        parts.append(("bridge", tube(ring, 0.007, 6)))
    else:
        pickups = [box((0, front - 0.006, body * share), (wide * 1.5, 0.012, 0.035)) for share in (0.36, 0.5)]
        parts.append(("bridge", join(*pickups)))
        knobs = [move(bar((0, front, 0), (0, front - 0.02, 0), 0.014), x=lower * 0.6, z=body * s) for s in (0.2, 0.3)]
        parts.append(("bridge", join(*knobs)))
    strings = [
        bar((x, front - 0.022, low), (x, front - 0.022, top), 0.0025, segments=3)
        for x in np.linspace(-0.4, 0.4, 4) * wide
    ]
    parts.append(("string", join(*strings)))
    return parts
