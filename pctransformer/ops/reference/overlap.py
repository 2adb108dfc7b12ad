from __future__ import annotations

import math

import torch
from torch import Tensor

from pctransformer.ops.reference._values import check_finite, check_offsets, spans

_PAIRS = 1 << 18  # pairs held at once
_HALF_PI, _HALF_PI_LOW = 1.5707963267948966, 6.123233995736766e-17


def _check_boxes(boxes: Tensor, op: str, name: str) -> None:
    check_finite(boxes, op, name)
    negative = (boxes[:, 3:6] < 0).any(1)
    if negative.any():
        row = int(negative.nonzero()[0])
        size = " x ".join(f"{value:g}" for value in boxes[row, 3:6].tolist())
        raise ValueError(f"{op}: sizes must not be negative, but row {row} of {name} is {size}")


def _cosine_and_sine(heading: Tensor) -> tuple[Tensor, Tensor]:
    """By Taylor series of what a quarter turn leaves over, in the order of csrc/common/boxes.h, so to the last bit."""
    turn = torch.fmod(heading.double(), 2 * math.pi)
    quarters = (turn * 0.6366197723675814).round()
    r = (turn - quarters * _HALF_PI) - quarters * _HALF_PI_LOW
    z = r * r
    sine, cosine = torch.full_like(z, 1 / math.factorial(17)), torch.full_like(z, 1 / math.factorial(16))
    for n in (15, 13, 11, 9, 7, 5, 3):
        sign = (-1) ** (n // 2)
        sine = sine * z + sign / math.factorial(n)
        cosine = cosine * z + sign / math.factorial(n - 1)
    sine, cosine = (sine * z) * r + r, cosine * z + 1.0
    quarter = quarters.long() & 3
    along, across = torch.where(quarter % 2 == 1, sine, cosine), torch.where(quarter % 2 == 1, cosine, sine)
    return torch.where((quarter == 1) | (quarter == 2), -along, along), torch.where(quarter >= 2, -across, across)


class _Boxes:
    """Boxes in double: centre, half sizes, cosine and sine of the heading, radius seen from above; each (...)."""

    def __init__(self, boxes: Tensor) -> None:
        self.x, self.y, self.z = boxes[..., :3].double().unbind(-1)
        self.half_x, self.half_y, self.half_z = (0.5 * boxes[..., 3:6].double()).unbind(-1)
        self.cosine, self.sine = _cosine_and_sine(boxes[..., 6])
        self.radius = (self.half_x * self.half_x + self.half_y * self.half_y).sqrt()

    def base(self) -> Tensor:
        return (2 * self.half_x) * (2 * self.half_y)


def _clamp(value: Tensor, limit: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(value, limit), -limit)


def _area_under_edge(px: Tensor, py: Tensor, qx: Tensor, qy: Tensor, limit_x: Tensor, limit_y: Tensor) -> Tensor:
    """The integral of clamp(y, -limit_y, limit_y) dx along the edge from p to q, where -limit_x <= x <= limit_x."""
    along_x = qx - px
    slope_of_t = torch.where(along_x != 0, 1 / along_x, 0.0)
    from_x, to_x = _clamp(px, limit_x), _clamp(qx, limit_x)
    from_y = py + ((from_x - px) * slope_of_t) * (qy - py)
    to_y = py + ((to_x - px) * slope_of_t) * (qy - py)
    begin, end = _clamp(from_y, limit_y), _clamp(to_y, limit_y)
    rise = to_y - from_y
    before = 0.5 * ((begin - from_y) + (end - from_y)) / torch.where(rise != 0, rise, 1.0)
    return (to_x - from_x) * (begin + (end - begin) * (1 - before))


def _shared_area(one: _Boxes, two: _Boxes) -> Tensor:
    """The area that two boxes share, seen from above: an integral over the width of the smaller one."""
    dx, dy, reach = two.x - one.x, two.y - one.y, one.radius + two.radius
    near = dx * dx + dy * dy <= reach * reach
    swap = two.base() < one.base()

    def smaller(name: str) -> Tensor:
        return torch.where(swap, getattr(two, name), getattr(one, name))

    def larger(name: str) -> Tensor:
        return torch.where(swap, getattr(one, name), getattr(two, name))

    cosine, sine, other_cosine, other_sine = smaller("cosine"), smaller("sine"), larger("cosine"), larger("sine")
    limit_x, limit_y, half_x, half_y = smaller("half_x"), smaller("half_y"), larger("half_x"), larger("half_y")
    sign = torch.where(swap, -1.0, 1.0).double()
    x, y = sign * (dx * cosine + dy * sine), sign * (dy * cosine - dx * sine)
    c, s = cosine * other_cosine + sine * other_sine, cosine * other_sine - sine * other_cosine
    ux, uy, vx, vy = half_x * c, half_x * s, -half_y * s, half_y * c
    corners = [(x + ux, y + uy), (x - ux, y - uy), (x - ux, y - uy), (x + ux, y + uy)]
    (x0, y0), (x1, y1) = ((a + vx, b + vy) for a, b in corners[:2])
    (x2, y2), (x3, y3) = ((a - vx, b - vy) for a, b in corners[2:])
    limits = limit_x, limit_y
    upper = _area_under_edge(x1, y1, x0, y0, *limits) + _area_under_edge(x2, y2, x1, y1, *limits)
    lower = _area_under_edge(x2, y2, x3, y3, *limits) + _area_under_edge(x3, y3, x0, y0, *limits)
    area, least = upper - lower, torch.where(swap, two.base(), one.base())
    # What rounding leaves of boxes that only touch is nothing.
    return torch.where(near & (area > 1e-13 * least), torch.minimum(area, least), 0.0)


def _iou(boxes: Tensor, other_boxes: Tensor, bird_eye: bool) -> Tensor:
    """Of boxes whose leading axes broadcast."""
    one, two = _Boxes(boxes), _Boxes(other_boxes)
    shared, total = _shared_area(one, two), one.base() + two.base()
    if not bird_eye:
        dz = two.z - one.z
        top, bottom = torch.minimum(dz + two.half_z, one.half_z), torch.maximum(dz - two.half_z, -one.half_z)
        shared = shared * (top - bottom).clamp_min(0)
        total = one.base() * (2 * one.half_z) + two.base() * (2 * two.half_z)
    return torch.where(shared > 0, shared / (total - shared), 0.0).float()


def box_iou(boxes: Tensor, other_boxes: Tensor, aligned: bool, bird_eye: bool) -> Tensor:
    """Clip the larger box of each pair by the sides of the smaller one."""
    _check_boxes(boxes, "box_iou", "boxes")
    _check_boxes(other_boxes, "box_iou", "other_boxes")
    if aligned:
        return _iou(boxes, other_boxes, bird_eye)
    step = max(1, _PAIRS // max(1, len(other_boxes)))
    parts = [_iou(part[:, None], other_boxes[None], bird_eye) for part in boxes.split(step)]
    return torch.cat(parts) if len(boxes) else boxes.new_zeros(0, len(other_boxes))


def box_nms(
    boxes: Tensor,
    offsets: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    threshold: float,
    max_outputs: int,
    bird_eye: bool,
) -> tuple[Tensor, Tensor]:
    """Go through each cloud's boxes from the best; each that is left takes away those after it that it overlaps."""
    check_offsets(offsets, len(boxes), "box_nms", "offsets")
    _check_boxes(boxes, "box_nms", "boxes")
    check_finite(scores[:, None], "box_nms", "scores")
    limit = torch.tensor(threshold, dtype=torch.float32, device=boxes.device)
    kept: list[int] = []
    ends = [0]
    for begin, end in spans(offsets):
        left = begin + scores[begin:end].sort(descending=True, stable=True).indices
        while len(left) and len(kept) - ends[-1] < max_outputs:
            kept.append(int(left[0]))
            overlaps = _iou(boxes[left[:1]], boxes[left], bird_eye) > limit
            if labels is not None:
                overlaps &= labels[left] == labels[left[0]]
            overlaps[0] = True
            left = left[~overlaps]
        ends.append(len(kept))
    return torch.tensor(kept, dtype=torch.int64).to(boxes.device), torch.tensor(ends).to(boxes.device)


def points_in_boxes(xyz: Tensor, offsets: Tensor, boxes: Tensor, box_offsets: Tensor) -> Tensor:
    """Compare every point with every box of its cloud, from the last box to the first, which so comes to stand."""
    op = "points_in_boxes"
    check_offsets(offsets, len(xyz), op, "offsets")
    check_offsets(box_offsets, len(boxes), op, "box_offsets")
    check_finite(xyz, op, "xyz")
    _check_boxes(boxes, op, "boxes")
    index = torch.full((len(xyz),), -1, dtype=torch.int64, device=xyz.device)
    for (begin, end), (first, last) in zip(spans(offsets), spans(box_offsets)):
        px, py, pz = xyz[begin:end].double().unbind(1)
        for row in reversed(range(first, last)):
            box = _Boxes(boxes[row])
            x, y = px - box.x, py - box.y
            inside = (pz - box.z).abs() <= box.half_z
            inside &= (x * box.cosine + y * box.sine).abs() <= box.half_x
            inside &= (y * box.cosine - x * box.sine).abs() <= box.half_y
            index[begin:end][inside] = row
    return index
