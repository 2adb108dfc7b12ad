"""Pedestrians and cyclists as triangles, in many poses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pctransformer.datasets.shape_classes.draw import Draw
from pctransformer.datasets.shape_classes.solids import Vector, both, box, cushion, join, move, turn
from pctransformer.datasets.street.materials import RUBBER, SKIN, STEEL, Parts, cloth
from pctransformer.datasets.street.rods import rods
from pctransformer.datasets.street.vehicles import Size


def pedestrian_size(draw: Draw) -> Size:
    """As KITTI's labels have it, whose boxes hold a walker in every pose of a walk: wider than any single one."""
    height = 1.74 + 0.10 * draw.normal() if draw.chance(0.93) else draw.between(1.1, 1.5)
    length = float(np.clip(0.88 + 0.18 * draw.normal(), 0.45, 1.35))
    width = float(np.clip(0.72 + 0.12 * draw.normal(), 0.48, 1.10))
    return length, width, float(np.clip(height, 1.1, 2.0))


def cyclist_size(draw: Draw) -> Size:
    """Medians 1.71, 0.60, 1.76 on KITTI's 7 labelled cyclists."""
    length, width, height = 1.72 + 0.11 * draw.normal(), 0.60 + 0.08 * draw.normal(), 1.75 + 0.08 * draw.normal()
    return (float(np.clip(length, 1.45, 1.95)), float(np.clip(width, 0.45, 0.85)), float(np.clip(height, 1.5, 1.95)))


def pedestrian(draw: Draw, size: Size) -> Parts:
    """Walking or standing; at times with a bag, a coat, a phone. The head touches the top of the box."""
    h = size[2]
    walking = draw.chance(0.75)
    stride = draw.between(12, 30) if walking else draw.between(0, 6)
    build = draw.between(0.9, 1.3)
    legs, shoes = [], []
    hip, knee = 0.52 * h, 0.27 * h
    for side, swing in ((1, stride), (-1, -stride)):
        bend = draw.between(5, 35) if swing < 0 and walking else draw.between(0, 6)
        joint = _swung((0, 0, 0), hip - knee, swing)
        foot = _swung(joint, knee - 0.05, swing - bend)
        y, z = side * 0.055 * h * build, hip
        leg = _limb([(0, 0, 0), joint, foot], np.array([0.062, 0.05, 0.038]) * h * build)
        legs.append(move(leg, y=y, z=z))
        shoes.append(move(box((foot[0] + 0.03 * h, 0, foot[2] - 0.01 * h), (0.15 * h, 0.055 * h, 0.045 * h)), y=y, z=z))
    lowest = min(shoe[..., 2].min() for shoe in shoes)
    jacket, trousers = cloth(draw), cloth(draw)
    chest = cushion((0, 0, 0.67 * h), (0.145 * h * build, 0.26 * h * build, 0.36 * h), 0.6, 8)
    torso = [turn(chest, "y", draw.between(-2, 8), (0, 0, hip))]
    if draw.chance(0.35):  # a coat or a skirt
        torso.append(cushion((0, 0, 0.46 * h), (0.2 * h, 0.25 * h * build, draw.between(0.2, 0.36) * h), 0.5, 8))
    hands = []
    for side, swing in ((1, -stride), (-1, stride)):
        forward = draw.between(10, 40)
        if draw.chance(0.15):  # holds something before the body
            swing, forward = draw.between(0, 25), draw.between(70, 110)
        elbow = _swung((0, 0, 0), 0.165 * h, 0.8 * swing)
        hand = _swung(elbow, 0.15 * h, 0.8 * swing + forward)
        arm = _limb([(0, 0, 0), elbow, hand], np.array([0.036, 0.031, 0.025]) * h * build)
        y, z = side * 0.135 * h * build, 0.80 * h
        torso.append(move(arm, y=y, z=z))
        hands.append(move(cushion(hand, (0.05 * h, 0.04 * h, 0.06 * h), 0.8, 6), y=y, z=z))
    head = cushion((0.01 * h, 0, 0.935 * h), (0.105 * h, 0.085 * h, 0.13 * h), 0.9, 8)
    neck = _limb([(0, 0, 0.8 * h), (0.005 * h, 0, 0.9 * h)], np.full(2, 0.035 * h))
    parts: Parts = [
        (trousers, join(*legs)), (jacket, join(*torso)), (RUBBER, join(*shoes)), (SKIN, join(head, neck, *hands)),
    ]  # fmt: skip
    if draw.chance(0.3):
        parts.append((cloth(draw), cushion((-0.12 * h, 0, 0.68 * h), (0.12 * h, 0.18 * h, 0.25 * h), 0.4, 8)))
    if draw.chance(0.2):
        side = draw.pick([-1, 1])
        parts.append((cloth(draw), box((0, side * 0.19 * h, 0.3 * h), (0.2 * h, 0.07 * h, 0.18 * h))))
    return _fitted(parts, size, lowest)


def cyclist(draw: Draw, size: Size) -> Parts:
    """A bicycle and its rider: wheels to the ends of the box, handlebar to its sides, helmet to its top."""
    length, width, h = size
    front, crank = length / 2 - _wheel_radius(length), np.array([-0.04, 0, 0.3])
    lean = draw.between(15, 45)
    hip = np.array([-0.2, 0, 0.96])
    back = 0.5 * (h - 1.0) / 0.75
    shoulder = hip + back * np.array([np.sin(np.radians(lean)), 0, np.cos(np.radians(lean))])
    shift = min(h - 0.29 - shoulder[2], 0.12)
    shoulder[2] += shift
    torso_middle, torso_long = (hip + shoulder) / 2, np.linalg.norm(shoulder - hip) + 0.12
    torso = cushion((0, 0, 0), (0.23, 0.4 * min(width / 0.6, 1.1), torso_long), 0.6, 8)
    angle = np.degrees(np.arctan2(shoulder[0] - hip[0], shoulder[2] - hip[2]))
    upper = [move(turn(torso, "y", angle), *torso_middle)]
    legs, shoes = [], []
    phase = draw.between(0, 2 * np.pi)
    for side in (-1, 1):
        pedal = crank + 0.17 * np.array([np.cos(phase), 0, np.sin(phase)]) + [0, side * 0.11, 0.06]
        phase += np.pi
        knee = (hip + pedal) / 2 + np.array([0.24, side * 0.03, 0.12])
        legs.append(_limb([hip + np.array([0, side * 0.09, 0]), knee, pedal], np.array([0.08, 0.062, 0.045])))
        shoes.append(box(pedal + np.array([0.05, 0, -0.04]), (0.26, 0.09, 0.08)))
        grip = np.array([front - 0.2, side * (width / 2 - 0.06), 1.04])
        elbow = (shoulder + grip) / 2 + np.array([-0.04, side * 0.04, -0.07])
        upper.append(
            _limb([shoulder + np.array([0, side * 0.17, -0.03]), elbow, grip], np.array([0.055, 0.045, 0.035]))
        )
    head = cushion((shoulder[0] + 0.09, 0, h - 0.125), (0.23, 0.17, 0.25), 0.85, 8)
    neck = _limb([shoulder, (shoulder[0] + 0.07, 0, h - 0.18)], np.full(2, 0.055))
    parts = _bicycle(length, width)
    parts += [
        (cloth(draw), join(*upper)), (cloth(draw), join(*legs)), (RUBBER, join(*shoes)), (SKIN, join(head, neck)),
    ]  # fmt: skip
    if draw.chance(0.3):
        parts.append((cloth(draw), cushion((-0.28, 0, 1.2), (0.18, 0.3, 0.4), 0.4, 8)))
    if draw.chance(0.25):
        parts.append((STEEL, both(box((-front, 0.12, 0.6), (0.3, 0.1, 0.28)), "y")))
    return _fitted(parts, size, 0.0)


def parked_bicycle(draw: Draw, size: Size) -> Parts:
    """A bicycle without its rider, which is not labelled."""
    lean = draw.between(-12, 12)
    return [(material, turn(triangles, "x", lean)) for material, triangles in _bicycle(size[0], size[1])]


def _wheel_radius(length: float) -> float:
    return min(0.34, 0.2 * length)


def _bicycle(length: float, width: float) -> Parts:
    """Wheels to both ends, handlebar to both sides."""
    radius = _wheel_radius(length)
    front, rear = length / 2 - radius, radius - length / 2
    crank, saddle, steer = (-0.04, 0, 0.3), (-0.22, 0, 0.92), (front - 0.14, 0, 0.9)
    hubs, stem = ((front, 0, radius), (rear, 0, radius)), (front - 0.16, 0, 1.02)
    bars = [
        (hubs[1], crank), (crank, steer), (steer, hubs[0]), (steer, stem), (steer, saddle), (saddle, crank),
        (hubs[1], saddle), ((front - 0.2, -width / 2, 1.02), (front - 0.2, width / 2, 1.02)),
    ]  # fmt: skip
    angle = np.linspace(0, 2 * np.pi, 11)
    begin, end = [], []
    for x in (front, rear):
        inner = radius - 0.02
        rim = np.column_stack([x + inner * np.cos(angle), np.zeros(len(angle)), radius + inner * np.sin(angle)])
        begin.append(rim[:-1])
        end.append(rim[1:])
        bars += [(tuple(rim[i]), tuple(rim[i + 5])) for i in (0, 2)]  # spokes, thicker and fewer than real ones
    frame = rods([b for b, _ in bars], [e for _, e in bars], [0.02] * 8 + [0.007] * 4, segments=5)
    return [(RUBBER, rods(np.concatenate(begin), np.concatenate(end), 0.02, segments=4)), (STEEL, frame)]


def _swung(start: tuple[float, ...] | np.ndarray, length: float, deg: float) -> np.ndarray:
    """The end of a limb that hangs from `start`, swung forward."""
    angle = np.radians(deg)
    return np.asarray(start) + length * np.array([np.sin(angle), 0, -np.cos(angle)])


def _limb(joints: Sequence[Vector], radii: np.ndarray) -> np.ndarray:
    """Bars from joint to joint."""
    return rods(joints[:-1], joints[1:], radii[:-1], radii[1:])


def _fitted(parts: Parts, size: Size, lowest: float) -> Parts:
    """Stand the parts on z = 0, reach the top of the box, and stay within its sides."""
    every = np.concatenate([triangles.reshape(-1, 3) for _, triangles in parts])
    reach = np.abs(every[:, :2]).max(axis=0)
    scale = np.append(np.minimum(np.array(size[:2]) / 2 / reach, 1), size[2] / (every[:, 2].max() - lowest))
    return [(material, (triangles - [0, 0, lowest]) * scale) for material, triangles in parts]
