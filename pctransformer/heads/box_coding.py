"""Boxes as numbers that a network can learn: relative to an anchor, to the cell of a map that holds the centre, or to
any point."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pctransformer.boxes import limit_period
from pctransformer.voxels import Grid

DIRECTION_OFFSET = 0.78539
"""Where the first of an anchor head's two directions begins, radians: between the axes, where few objects point."""

_LARGEST_RATIO = math.log(1000 / 16)  # of a decoded size to its anchor's, as torchvision bounds boxes
_LARGEST_SIZE = math.log(1000)  # metres


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes relative to anchors.

        (x - x_a) / d, (y - y_a) / d, (z - z_a) / dz_a    d the diagonal of the anchor seen from above
        log(dx / dx_a), log(dy / dy_a), log(dz / dz_a)
        heading - heading_a

    Args:
        boxes: (..., 7) as in `BoxBatch`, sizes above 0.
        anchors: (..., 7).

    Returns:
        (..., 7) codes.

    Source: Zhou and Tuzel, VoxelNet, 2018, section 2.2; Yan et al., SECOND, 2018, section 3.2.
    """
    diagonal = torch.hypot(anchors[..., 3:4], anchors[..., 4:5])
    center = (boxes[..., :3] - anchors[..., :3]) / torch.cat([diagonal, diagonal, anchors[..., 5:6]], -1)
    size = (boxes[..., 3:6] / anchors[..., 3:6]).log()
    return torch.cat([center, size, boxes[..., 6:] - anchors[..., 6:]], -1)


def decode_boxes(codes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (..., 7) from codes relative to anchors, the inverse of `encode_boxes`.

    Sizes are at most 62.5 times those of the anchor, so that no output of a network overflows.
    """
    diagonal = torch.hypot(anchors[..., 3:4], anchors[..., 4:5])
    center = codes[..., :3] * torch.cat([diagonal, diagonal, anchors[..., 5:6]], -1) + anchors[..., :3]
    size = codes[..., 3:6].clamp(max=_LARGEST_RATIO).exp() * anchors[..., 3:6]
    return torch.cat([center, size, codes[..., 6:] + anchors[..., 6:]], -1)


def direction_of(heading: Tensor) -> Tensor:
    """Which half of the circle a heading points to: int64, 0 from `DIRECTION_OFFSET` over half a turn, else 1.

    The loss of box codes does not tell a box from its reverse, so the head learns this apart.

    Source: Yan et al., SECOND, 2018, section 3.1.3; the offset is OpenPCDet's and MMDetection3D's.
    """
    return (limit_period(heading - DIRECTION_OFFSET, offset=0) >= math.pi).long()


def turn_to(heading: Tensor, direction: Tensor) -> Tensor:
    """The heading, or its reverse, that points to the given half of the circle; in [-pi, pi)."""
    in_half = limit_period(heading - DIRECTION_OFFSET, offset=0, period=math.pi)
    return limit_period(in_half + DIRECTION_OFFSET + math.pi * direction.to(heading.dtype))


def encode_centers(boxes: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes relative to the columns of a map in which their centres are.

    Args:
        boxes: (M, 7) as in `BoxBatch`, sizes above 0.
        grid: of the map; its heights do not matter.

    Returns:
        column (M, 2) int64: y and x of the column of each centre; zeros for one outside.
        inside (M,) bool: whether the centre is in the map.
        codes (M, 8): where x and y are in the column, in [0, 1) of its width; z of the centre, metres; logarithms of
        dx, dy, dz; cosine and sine of the heading.

    Source: Yin et al., CenterPoint, 2021, section 4.
    """
    low, size = boxes.new_tensor(grid.low[:2]), boxes.new_tensor(grid.voxel_size[:2])
    place = (boxes[:, :2] - low) / size  # (M, 2) x, y in columns
    whole = place.floor()
    inside = ((whole >= 0) & (whole < boxes.new_tensor(grid.shape[:0:-1]))).all(1)
    column = torch.where(inside[:, None], whole, 0).long().flip(1)
    heading = boxes[:, 6:]
    return (
        column,
        inside,
        torch.cat([place - whole, boxes[:, 2:3], boxes[:, 3:6].log(), heading.cos(), heading.sin()], 1),
    )


def decode_centers(codes: Tensor, column: Tensor, grid: Grid) -> Tensor:
    """Boxes (..., 7) from codes (..., 8) and columns (..., 2) y, x, the inverse of `encode_centers`.

    Sizes are at most a kilometre, so that no output of a network overflows. Headings are in [-pi, pi].
    """
    low, size = codes.new_tensor(grid.low[:2]), codes.new_tensor(grid.voxel_size[:2])
    center = (column.flip(-1) + codes[..., :2]) * size + low
    heading = torch.atan2(codes[..., 7:], codes[..., 6:7])
    return torch.cat([center, codes[..., 2:3], codes[..., 3:6].clamp(max=_LARGEST_SIZE).exp(), heading], -1)


def encode_around(boxes: Tensor, point: Tensor) -> Tensor:
    """Boxes relative to points, whatever their distance.

        x - x_p, y - y_p, z - z_p    metres
        log dx, log dy, log dz       of metres
        cos 2 heading, sin 2 heading
        which half of the circle it points to, 1 or 0; see `direction_of`

    The axis and the way along it stand apart, since a network that cannot tell front from back would else answer with
    the mean of two opposite angles, which says nothing of the axis either.

    Args:
        boxes: (..., 7) as in `BoxBatch`, sizes above 0.
        point: (..., 3) metres; of a shape that broadcasts.

    Returns:
        (..., 9) codes.

    Source: Misra et al., 3DETR, 2021, section 3.3, for centre and size; the direction apart from the axis: Yan et al.,
    SECOND, 2018, section 3.1.3.
    """
    center, twice = boxes[..., :3] - point, 2 * boxes[..., 6:]
    direction = direction_of(boxes[..., 6:]).to(boxes.dtype)
    others = torch.cat([boxes[..., 3:6].log(), twice.cos(), twice.sin(), direction], -1)
    return torch.cat([center, others.expand(*center.shape[:-1], 6)], -1)


def decode_around(codes: Tensor, point: Tensor) -> Tensor:
    """Boxes (..., 7) from codes (..., 9) and points (..., 3), the inverse of `encode_around`.

    The ninth number may be a logit as well. Sizes are at most a kilometre, so that no output of a network overflows.
    Headings are in [-pi, pi].
    """
    axis = torch.atan2(codes[..., 7], codes[..., 6]) / 2
    heading = turn_to(axis, (codes[..., 8] > 0).long())
    size = codes[..., 3:6].clamp(max=_LARGEST_SIZE).exp()
    return torch.cat([codes[..., :3] + point, size, heading[..., None]], -1)
