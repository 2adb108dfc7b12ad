"""Furniture. Its front looks to -y, it stands on z = 0, lengths are metres.

Sizes within a family (things with a top, things with a seat, boxes) are drawn from overlapping ranges on purpose: it is
the parts that tell a desk from a table, not the bounding box.
"""

from __future__ import annotations

import numpy as np

from pctransformer.datasets.shape_classes.draw import Draw
from pctransformer.datasets.shape_classes.solids import (
    bar,
    both,
    box,
    circle,
    cushion,
    join,
    lathe,
    loft,
    mirror,
    move,
    prism,
    smooth,
    tube,
    turn,
)

Parts = list[tuple[str, np.ndarray]]
"""Named pieces of a shape; a name may come more than once."""


# ---- legs and tops, shared by the families ---------------------------------------------------------------------------
def _four_legs(draw: Draw, width: float, depth: float, height: float, splay: float = 0.0) -> np.ndarray:
    """Round, square or tapered legs under the corners of a seat or top."""
    thick = draw.between(0.012, 0.026) * (0.7 + height)
    x, y = width / 2 - 1.5 * thick, depth / 2 - 1.5 * thick
    if draw.chance(0.4) and splay == 0:
        leg = box((x, y, height / 2), (2 * thick, 2 * thick, height))
    else:
        leg = bar((x * (1 + splay), y * (1 + splay), 0), (x, y, height), thick * draw.between(0.5, 1), thick)
    return both(both(leg, "x"), "y")


def _pedestal(draw: Draw, width: float, depth: float, height: float) -> np.ndarray:
    """A column on a disc or on a star of feet."""
    column = bar((0, 0, 0.02), (0, 0, height), draw.between(0.02, 0.05) * (1 + width), draw.between(0.02, 0.05))
    reach = draw.between(0.3, 0.45)
    if draw.chance(0.5):
        base = lathe([(0, 0), (1, 0), (0.95, 0.02), (0.1, 0.05), (0, 0.05)], 20) * [reach * width, reach * depth, 1]
        return join(column, base)
    feet = draw.count(3, 6)
    foot = bar((0, 0, 0.1 * height), (reach, 0, 0.025), 0.025, 0.015)
    return join(column, *(turn(foot, "z", 360 * i / feet) * [width, depth, 1] for i in range(feet)))


def _sledge(width: float, depth: float, height: float, radius: float) -> np.ndarray:
    """Bent bars that run along the floor on both sides."""
    y = depth / 2 - radius
    path = [(0, -y, height), (0, -y, radius), (0, y, radius), (0, y, height)]
    return both(move(tube(smooth(path, 20), radius), x=width / 2 - 2 * radius))


def _top(draw: Draw, width: float, depth: float, height: float, thick: float) -> np.ndarray:
    """A board of some outline whose upper face is at `height`."""
    roundness = draw.pick([0.0, 0.0, 0.2, 1.0])
    if roundness == 0.0:
        return box((0, 0, height - thick / 2), (width, depth, thick))
    return move(prism(circle(28, roundness) * [width / 2, depth / 2], thick), z=height - thick)


def _rungs(draw: Draw, width: float, depth: float, z: float, radius: float) -> np.ndarray:
    """Stretchers between four legs."""
    x, y = width / 2, depth / 2
    along = both(bar((-x, y, z), (x, y, z), radius, segments=6), "y")
    if draw.chance(0.5):
        return join(along, both(bar((x, -y, z), (x, y, z), radius, segments=6)))
    return along


# ---- things with a top -----------------------------------------------------------------------------------------------
def table(draw: Draw) -> Parts:
    """A thin top that overhangs; legs, trestles or a pedestal below; nothing else."""
    width, depth, height = draw.between(0.5, 1.8), draw.between(0.45, 1.1), draw.between(0.35, 1.05)
    thick = draw.between(0.02, 0.05)
    parts = [("top", _top(draw, width, depth, height, thick))]
    under = height - thick
    inner = draw.between(0.75, 0.97)
    style = draw.pick(["legs", "legs", "legs", "pedestal", "trestle", "sledge"])
    if style == "legs":
        parts.append(("leg", _four_legs(draw, width * inner, depth * inner, under, draw.pick([0.0, 0.0, 0.08]))))
        if draw.chance(0.6):
            apron = draw.between(0.05, 0.1)
            z = under - apron / 2
            sides = both(box((0, depth * inner / 2 - 0.04, z), (width * inner - 0.08, 0.02, apron)), "y")
            ends = both(box((width * inner / 2 - 0.04, 0, z), (0.02, depth * inner - 0.08, apron)))
            parts.append(("apron", join(sides, ends)))
    elif style == "pedestal":
        parts.append(("leg", _pedestal(draw, width, depth, under)))
    elif style == "trestle":
        x, board = width * inner / 2 - 0.05, draw.between(0.03, 0.06)
        parts.append(("leg", both(box((x, 0, under / 2), (board, depth * 0.7, under)))))
        parts.append(("apron", box((0, 0, under * 0.4), (2 * x, 0.03, 0.08))))
    else:
        parts.append(("leg", _sledge(width * inner, depth * inner, under, draw.between(0.015, 0.03))))
    return parts


def desk(draw: Draw) -> Parts:
    """A top with drawers under one or both ends, a modesty panel, perhaps a hutch above."""
    width, depth, height = draw.between(0.8, 1.8), draw.between(0.45, 0.9), draw.between(0.6, 0.95)
    thick = draw.between(0.02, 0.05)
    parts = [("top", box((0, 0, height - thick / 2), (width, depth, thick)))]
    under = height - thick
    chest = width * draw.between(0.22, 0.34)
    floor = draw.pick([0.0, 0.05, 0.1, under * 0.45])
    twice = draw.chance(0.45)
    x = width / 2 - chest / 2 - 0.02
    count = draw.count(2, 4)
    step = (under - floor) / count
    drawers = [box((x, 0, (under + floor) / 2), (chest, depth * 0.9, under - floor))]
    handles = []
    for i in range(count):
        z = floor + (i + 0.5) * step
        drawers.append(box((x, -depth * 0.45 - 0.012, z), (chest * 0.92, 0.024, step * 0.85)))
        handles.append(box((x, -depth * 0.45 - 0.04, z), (chest * 0.35, 0.03, 0.02)))
    sides = draw.pick([1, -1])
    for name, solid in (("drawer", join(*drawers)), ("handle", join(*handles))):
        parts.append((name, both(solid) if twice else solid if sides > 0 else mirror(solid, "x")))
    if not twice:
        other = -sides * (width / 2 - 0.04)
        if draw.chance(0.5):
            parts.append(("leg", box((other, 0, under / 2), (0.04, depth * 0.9, under))))
        else:
            radius = draw.between(0.018, 0.03)
            parts.append(("leg", both(bar((other, depth * 0.4, 0), (other, depth * 0.4, under), radius), "y")))
    if floor > 0:
        leg = bar((x, depth * 0.38, 0), (x, depth * 0.38, floor), 0.02)
        feet = both(join(move(leg, x=chest * 0.4), move(leg, x=-chest * 0.4)), "y")
        parts.append(("leg", both(feet) if twice else feet if sides > 0 else mirror(feet, "x")))
    if draw.chance(0.7):
        drop = under * draw.between(0.3, 0.8)
        parts.append(("panel", box((0, depth * 0.42, under - drop / 2), (width * 0.9, 0.02, drop))))
    if draw.chance(0.3):
        rise, deep = draw.between(0.25, 0.5), depth * 0.35
        y = depth / 2 - deep / 2
        cheeks = both(box((width / 2 - 0.02, y, height + rise / 2), (0.03, deep, rise)))
        boards = [box((0, y, height + rise * f), (width - 0.04, deep, 0.025)) for f in (0.55, 1.0)]
        parts.append(
            ("hutch", join(cheeks, *boards, box((0, depth / 2 - 0.01, height + rise / 2), (width, 0.02, rise))))
        )
    return parts


def stool(draw: Draw) -> Parts:
    """A thick or cushioned seat without a back, on splayed legs with rungs or on a column with a foot ring."""
    width, height = draw.between(0.32, 0.6), draw.between(0.35, 0.95)
    depth = width * draw.between(0.7, 1.0)
    thick = draw.between(0.05, 0.12)
    under = height - thick
    kind = draw.pick(["round", "cushion", "saddle"])
    if kind == "round":
        edge = draw.between(0.85, 0.97)
        seat = lathe([(0, 0), (edge, 0), (1, 0.3), (1, 0.7), (edge, 1), (0, 1)], 24) * [width / 2, depth / 2, thick]
        seat = move(seat, z=under)
    elif kind == "cushion":
        seat = cushion((0, 0, under + thick / 2), (width, depth, thick), draw.between(0.2, 0.5))
    else:
        arc = np.linspace(-1, 1, 9)
        rings = np.array(
            [
                [(x * width / 2, y * depth / 2, under + z * thick + 0.35 * thick * x * x) for y, z in _SADDLE]
                for x in arc
            ]
        )
        seat = loft(rings)
    parts = [("seat", seat)]
    if draw.chance(0.7):
        splay = draw.between(0.05, 0.35)
        parts.append(("leg", _four_legs(draw, width * 0.9, depth * 0.9, under + 0.2 * thick, splay)))
        for share in draw.pick([(0.3,), (0.25, 0.5), (0.4,)]):
            wide = (0.9 - 0.06) * (1 + splay * (1 - share))
            parts.append(("rung", _rungs(draw, width * wide, depth * wide, under * share, draw.between(0.01, 0.016))))
    else:
        parts.append(("leg", _pedestal(draw, width, depth, under + 0.2 * thick)))
        angle = np.linspace(0, 2 * np.pi, 21)
        ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(21)], axis=1) * [width * 0.36, depth * 0.36, 0]
        z = under * draw.between(0.3, 0.45)
        parts.append(("rung", move(tube(ring, 0.013), z=z)))
        spoke = bar((0, 0, z), (width * 0.36, 0, z), 0.009, segments=6)
        parts.append(("rung", join(spoke, turn(spoke, "z", 120), turn(spoke, "z", 240))))
    return parts


_SADDLE = np.array([(-1, 0.0), (1, 0.0), (1, 0.8), (0.7, 1.0), (-0.7, 1.0), (-1, 0.8)])


# ---- things with a seat ----------------------------------------------------------------------------------------------
def _back(draw: Draw, width: float, rise: float, thick: float, kind: str) -> np.ndarray:
    """An upright back of the given width and height, centred on x = 0, standing on z = 0."""
    if kind == "solid":
        return box((0, 0, rise / 2), (width, thick, rise))
    if kind == "rounded":
        return cushion((0, 0, rise / 2), (width, 1.5 * thick, rise), draw.between(0.15, 0.4))
    posts = both(bar((width / 2 - thick / 2, 0, 0), (width / 2 - thick / 2, 0, rise), thick / 2))
    count = draw.count(2, 5)
    if kind == "slats":
        step = rise / (count + 0.5)
        rails = [box((0, 0, rise - (i + 0.5) * step), (width, thick * 0.6, step * 0.5)) for i in range(count)]
    else:
        top = box((0, 0, rise - 0.03), (width, thick, 0.06))
        xs = np.linspace(-0.5, 0.5, count + 4)[1:-1] * width
        rails = [top, *(bar((x, 0, 0), (x, 0, rise), 0.35 * thick, segments=6) for x in xs)]
    return join(posts, *rails)


def chair(draw: Draw) -> Parts:
    """One seat with a back; four legs, a sledge or a swivel base; sometimes arms."""
    width, depth = draw.between(0.4, 0.65), draw.between(0.4, 0.6)
    seat_height, rise = draw.between(0.38, 0.55), draw.between(0.3, 0.75)
    thick = draw.between(0.03, 0.09)
    if draw.chance(0.5):
        seat = box((0, 0, seat_height - thick / 2), (width, depth, thick))
    else:
        seat = cushion((0, 0, seat_height - thick / 2), (width, depth, thick), draw.between(0.1, 0.4))
    tilt = draw.between(0, 14)
    kind = draw.pick(["solid", "rounded", "slats", "spindles"])
    gap = draw.pick([0.0, 0.0, 0.12]) if kind in ("solid", "rounded") else 0.0
    back = _back(draw, width * draw.between(0.8, 1.0), rise - gap, draw.between(0.025, 0.06), kind)
    y = depth / 2 - 0.03
    back = move(turn(move(back, z=gap), "x", -tilt), y=y, z=seat_height)
    if gap:
        brace = turn(both(bar((width * 0.25, 0, -0.02), (width * 0.25, 0, rise * 0.6), 0.012)), "x", -tilt)
        back = join(back, move(brace, y=y + 0.02, z=seat_height))
    parts = [("seat", seat), ("back", back)]
    under = seat_height - thick * 0.8
    base = draw.pick(["legs", "legs", "legs", "swivel", "sledge"])
    if base == "legs":
        parts.append(("leg", _four_legs(draw, width, depth, under, draw.pick([0.0, 0.0, 0.12, 0.2]))))
        if draw.chance(0.25):
            parts.append(("leg", _rungs(draw, width * 0.9, depth * 0.9, under * 0.4, 0.012)))
    elif base == "swivel":
        spread = 1.2 * max(width, depth)
        parts.append(("leg", _pedestal(draw, spread, spread, under)))
    else:
        parts.append(("leg", _sledge(width, depth, under, draw.between(0.012, 0.025))))
    if draw.chance(0.35):
        lift, radius = draw.between(0.16, 0.26), draw.between(0.015, 0.03)
        x = width / 2 - radius
        z = seat_height + lift
        post = bar((x, -depth * 0.35, seat_height - thick), (x, -depth * 0.35, z), radius)
        rest = box((x, 0.04, z), (2.2 * radius, depth * 0.9, 1.4 * radius))
        parts.append(("arm", both(join(post, rest))))
    return parts


def sofa(draw: Draw) -> Parts:
    """Upholstered: base, arms and back are solid down to the floor; loose cushions for one to four people."""
    seats = draw.count(1, 4)
    place = draw.between(0.5, 0.75)
    arm = draw.between(0.1, 0.25)
    width, depth = seats * place + 2 * arm, draw.between(0.7, 1.05)
    seat_height, back_height = draw.between(0.36, 0.48), draw.between(0.65, 1.0)
    foot, thick = draw.pick([0.02, 0.06, 0.12]), draw.between(0.15, 0.28)
    pad = draw.between(0.1, 0.18)
    base = box((0, 0, (seat_height - pad + foot) / 2), (width - arm, depth, seat_height - pad - foot))
    parts = [("seat", base)]
    soft = draw.between(0.15, 0.4)
    for i in range(seats):
        x = (i - (seats - 1) / 2) * place
        y = -thick * 0.4
        parts.append(("seat", cushion((x, y, seat_height - pad / 2), (place, depth - thick, pad), soft)))
        if draw.chance(0.8):
            rise = back_height - seat_height
            pillow = cushion((x, 0, rise * 0.45), (place * 0.97, thick * 0.8, rise), soft)
            parts.append(("back", move(turn(pillow, "x", -10), y=depth / 2 - thick, z=seat_height)))
    back = box((0, depth / 2 - thick / 2, (back_height * 0.92 + foot) / 2), (width, thick, back_height * 0.92 - foot))
    parts.append(("back", back))
    arm_height = seat_height + draw.between(0.1, 0.25)
    x = width / 2 - arm / 2
    if draw.chance(0.5):
        arms = box((x, 0, (arm_height + foot) / 2), (arm, depth, arm_height - foot))
    else:
        roll = bar((x, -depth / 2, arm_height - arm / 2), (x, depth / 2, arm_height - arm / 2), arm * 0.6, segments=14)
        arms = join(box((x, 0, (arm_height - arm / 2 + foot) / 2), (arm, depth, arm_height - arm / 2 - foot)), roll)
    parts.append(("arm", both(arms)))
    if foot > 0.02:
        leg = bar((width / 2 - 0.08, depth / 2 - 0.08, 0), (width / 2 - 0.08, depth / 2 - 0.08, foot), 0.02, 0.03)
        parts.append(("leg", both(both(leg), "y")))
    return parts


def bench(draw: Draw) -> Parts:
    """A long seat of slats or one plank on end frames; often with a slatted back."""
    width, depth, height = draw.between(0.8, 2.0), draw.between(0.3, 0.55), draw.between(0.38, 0.52)
    thick = draw.between(0.02, 0.05)
    slats = draw.count(3, 6)
    step = depth / slats
    ys = (np.arange(slats) + 0.5) * step - depth / 2
    parts = [("seat", join(*(box((0, y, height - thick / 2), (width, step * 0.62, thick)) for y in ys)))]
    x, under = width / 2 - draw.between(0.05, 0.2), height - thick
    style = draw.pick(["frame", "plank", "cast"])
    if style == "frame":
        post = draw.between(0.04, 0.07)
        legs = both(box((x, depth / 2 - post / 2, under / 2), (post, post, under)), "y")
        legs = join(legs, box((x, 0, under - post / 2), (post, depth, post)), box((x, 0, 0.12), (post, depth, post)))
    elif style == "plank":
        legs = box((x, 0, under / 2), (draw.between(0.04, 0.12), depth * 0.85, under))
    else:
        arch = [(x, -depth / 2, 0), (x, -depth * 0.2, under * 0.8), (x, depth * 0.2, under * 0.8), (x, depth / 2, 0)]
        legs = join(tube(smooth(arch, 14), 0.025), box((x, 0, under - 0.02), (0.05, depth, 0.04)))
    parts.append(("leg", both(legs)))
    if draw.chance(0.65):
        rise, count, tilt = draw.between(0.3, 0.5), draw.count(2, 4), draw.between(5, 15)
        pitch = rise / count
        rails = [box((0, 0, (i + 0.6) * pitch), (width, 0.025, pitch * 0.6)) for i in range(count)]
        posts = both(box((x, 0.025, rise / 2 - 0.05), (0.05, 0.03, rise + 0.1)))
        parts.append(("back", move(turn(join(posts, *rails), "x", -tilt), y=depth / 2, z=height)))
        if draw.chance(0.6):
            lift = draw.between(0.16, 0.24)
            stand = bar((x, -depth * 0.42, under * 0.8), (x, -depth * 0.42, height + lift), 0.022)
            parts.append(("arm", both(join(stand, box((x, 0, height + lift), (0.06, depth, 0.03))))))
    return parts


def bed(draw: Draw) -> Parts:
    """Mattress and pillows on a frame; a headboard always, a footboard or posts sometimes."""
    width, depth = draw.between(0.85, 2.0), draw.between(1.8, 2.2)
    floor, frame, thick = draw.between(0.08, 0.3), draw.between(0.08, 0.2), draw.between(0.14, 0.3)
    top = floor + frame + thick
    parts: Parts = [
        ("frame", box((0, 0, floor + frame / 2), (width + 0.06, depth + 0.06, frame))),
        ("mattress", cushion((0, 0, floor + frame + thick / 2), (width, depth, thick), 0.12)),
    ]
    head = top + draw.between(0.25, 0.75)
    kind = draw.pick(["solid", "rounded", "slats", "spindles"])
    board = _back(draw, width + 0.06, head, draw.between(0.04, 0.09), kind)
    parts.append(("headboard", move(board, y=depth / 2 + 0.05)))
    if draw.chance(0.5):
        foot = _back(draw, width + 0.06, top + draw.between(0.0, 0.25), 0.05, kind)
        parts.append(("headboard", move(foot, y=-depth / 2 - 0.05)))
    leg = box((width / 2 - 0.05, depth / 2 - 0.05, floor / 2), (0.08, 0.08, floor))
    parts.append(("leg", both(both(leg), "y")))
    pillows = 1 if width < 1.2 else 2
    size = (draw.between(0.5, 0.7) * min(1.0, width / pillows), draw.between(0.3, 0.45), draw.between(0.12, 0.2))
    for i in range(pillows):
        x = (i - (pillows - 1) / 2) * width / pillows
        pillow = turn(cushion((0, 0, size[2] / 2), size, 0.5), "x", draw.between(0, 25))
        parts.append(("pillow", move(pillow, x=x, y=depth / 2 - size[1] * 0.65, z=top)))
    if draw.chance(0.15):
        post = bar((width / 2, depth / 2, 0), (width / 2, depth / 2, head + draw.between(0.5, 1.2)), 0.035, 0.02)
        parts.append(("headboard", both(both(post), "y")))
    return parts


# ---- boxes -----------------------------------------------------------------------------------------------------------
def _carcass(width: float, depth: float, height: float, floor: float, board: float) -> np.ndarray:
    """An open box: cheeks, top, bottom and a thin back."""
    z = (height + floor) / 2
    cheeks = both(box((width / 2 - board / 2, 0, z), (board, depth, height - floor)))
    caps = [box((0, 0, level), (width, depth, board)) for level in (floor + board / 2, height - board / 2)]
    return join(cheeks, *caps, box((0, depth / 2 - 0.005, z), (width, 0.01, height - floor)))


def bookshelf(draw: Draw) -> Parts:
    """Open in front: shelves, perhaps a divider, usually books."""
    width, depth, height = draw.between(0.5, 1.6), draw.between(0.25, 0.5), draw.between(0.7, 2.1)
    board, floor = draw.between(0.02, 0.04), draw.pick([0.0, 0.06, 0.12])
    parts = [("frame", _carcass(width, depth, height, floor, board))]
    count = draw.count(2, 5)
    step = (height - floor) / count
    levels = [floor + i * step for i in range(1, count)]
    parts.append(("shelf", join(*(box((0, 0, z), (width - board, depth * 0.96, board)) for z in levels))))
    columns = draw.pick([1, 1, 2, 3]) if width > 0.7 else 1
    for i in range(1, columns):
        x = (i / columns - 0.5) * width
        parts.append(("shelf", box((x, 0, (height + floor) / 2), (board, depth * 0.96, height - floor))))
    books = []
    fullness = draw.between(0.0, 0.8)
    for z in [floor, *levels]:
        if not draw.chance(fullness):
            continue
        x, end = -width / 2 + board + 0.01, width / 2 - board
        end -= draw.between(0, 0.6) * width
        while x < end:
            thick, tall = draw.between(0.03, 0.07), draw.between(0.5, 0.85) * step
            books.append(box((x + thick / 2, 0.02, z + board / 2 + tall / 2), (thick * 0.9, depth * 0.6, tall)))
            x += thick
    if books:
        parts.append(("book", join(*books)))
    if floor > 0:
        foot = box((width / 2 - 0.04, depth / 2 - 0.04, floor / 2), (0.05, 0.05, floor))
        parts.append(("leg", both(both(foot), "y")))
    return parts


def dresser(draw: Draw) -> Parts:
    """A closed box of drawers or doors with handles, on plinth or legs, perhaps with a mirror."""
    width, depth, height = draw.between(0.5, 1.6), draw.between(0.35, 0.6), draw.between(0.6, 1.5)
    floor = draw.pick([0.03, 0.08, 0.15])
    parts = [("frame", box((0, 0, (height + floor) / 2), (width, depth, height - floor)))]
    overhang = draw.pick([0.0, 0.03])
    parts.append(("frame", box((0, 0, height + 0.015), (width + 2 * overhang, depth + overhang, 0.03))))
    rows, columns = draw.count(2, 5), draw.pick([1, 1, 2, 3]) if width > 0.8 else 1
    step, pitch = (height - floor) / rows, width / columns
    relief, knob = draw.between(0.02, 0.035), draw.pick(["knob", "bar", "bow"])
    drawers, handles = [], []
    for row in range(rows):
        for column in range(columns):
            x, z = (column + 0.5) * pitch - width / 2, floor + (row + 0.5) * step
            y = -depth / 2 - relief / 2
            drawers.append(box((x, y, z), (pitch * 0.9, relief, step * 0.86)))
            y -= relief / 2
            if knob == "knob":
                ball = cushion((0, y - 0.02, z), (0.045, 0.04, 0.045), 1.0, 10)
                spots = (x - pitch * 0.25, x + pitch * 0.25) if pitch > 0.5 else (x,)
                handles += [move(ball, x=spot) for spot in spots]
            elif knob == "bar":
                handles.append(box((x, y - 0.015, z + step * 0.2), (pitch * 0.4, 0.03, 0.025)))
            else:
                half = pitch * 0.15
                bow = [(x - half, y, z), (x - half * 0.7, y - 0.04, z), (x + half * 0.7, y - 0.04, z), (x + half, y, z)]
                handles.append(tube(smooth(bow, 10), 0.009, 6))
    parts += [("drawer", join(*drawers)), ("handle", join(*handles))]
    leg = bar((width / 2 - 0.05, depth / 2 - 0.05, 0), (width / 2 - 0.05, depth / 2 - 0.05, floor), 0.02, 0.03)
    parts.append(("leg", both(both(leg), "y")))
    if draw.chance(0.2):
        tall = draw.between(0.3, 0.7)
        glass = prism(circle(24, draw.pick([0.05, 0.3, 1.0])) * [width * 0.35, tall / 2], 0.03)
        parts.append(("mirror", move(turn(glass, "x", 90), y=depth / 2, z=height + tall / 2)))
    return parts
