"""What a detection head should have said: objects given to anchors, and drawn into heat maps.

Nothing here loops over objects, anchors or clouds, and on CUDA nothing waits for the device: shapes depend on the map
and on the number of boxes alone. There, boxes that are refused on the CPU are left out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pctransformer.boxes import BoxBatch, limit_period
from pctransformer.heads.anchor_layout import HEADINGS, AnchorLayout
from pctransformer.heads.box_coding import encode_centers
from pctransformer.voxels import Grid

IGNORED = -1
BACKGROUND = -2
MIN_OVERLAP = 0.1
MIN_RADIUS, MAX_RADIUS = 2, 32


class AnchorTargets(NamedTuple):
    """Which anchors should find which objects.

    Attributes:
        labels: (B, A) int64 the class that each anchor should find; IGNORED (-1) for an anchor that is not trained,
            BACKGROUND (-2) for nothing.
        anchor: (P,) int64 those with a class, ascending: anchor a of cloud b is b * A + a. On CUDA, which does not wait
            to count them, P is the most that there could be, and the last are -1 for none.
        box: (P,) int64 row of the box that each of them should find; 0 where `anchor` is -1.
    """

    labels: Tensor
    anchor: Tensor
    box: Tensor


def assign_anchors(layout: AnchorLayout, boxes: BoxBatch) -> AnchorTargets:
    """Give objects to anchors by their overlap, class by class.

    Overlap is intersection over union seen from above, with every heading turned to the nearest axis. An anchor should
    find the object of its class that it overlaps most, of equal ones the one in the lowest row, if that overlap is at
    least `matched` of the class. An object also claims an anchor, however little they overlap: the nearest, than which
    none overlaps it more, of that heading which overlaps it more, of equal ones the first. This anchor, too, should
    find the object that it overlaps most. Any other is background if it overlaps no object by `unmatched` or more, else
    it is ignored. An object that overlaps no anchor, such as one outside of the map, has no effect.

    Public code lets an object claim every anchor of equal overlap; around an object larger than its anchor there are
    many, and rounding chose among them.

    Args:
        layout: the anchors of one map.
        boxes: objects of each cloud; those of label -1 have no effect.

    Raises:
        ValueError: on CPU: a box is not finite or has a size that is not above 0, a label is none of the classes.

    Source: Yan et al., SECOND, 2018, section 3.2.2; claims: Ren et al., Faster R-CNN, 2015, section 3.1.2.
    """
    objects = _objects(layout, boxes)
    nowhere = len(boxes) * layout.count  # the number of anchors that do not count, cut off in the end
    near_anchor, near_box, near_iou = _near_anchors(layout, objects, nowhere)
    claimed, claimed_anchor, claimed_box, claimed_iou = _claims(layout, objects, nowhere)
    anchor, box = torch.cat([near_anchor, claimed_anchor]), torch.cat([near_box, claimed_box])
    iou = torch.cat([near_iou, claimed_iou])

    def of_anchors(initial: float, values: Tensor, reduce: str) -> Tensor:
        """One value for each anchor of the batch, and a last one for `nowhere`."""
        return values.new_full((nowhere + 1,), initial).scatter_reduce_(0, anchor, values, reduce)

    best = of_anchors(0, iou, "amax")
    is_best = iou == best.index_select(0, anchor)
    best_box = of_anchors(len(objects.real), torch.where(is_best, box, len(objects.real)), "amin")
    is_claimed = torch.zeros_like(best, dtype=torch.bool).index_fill_(0, claimed, True)

    label = objects.label.index_select(0, box)
    matched, unmatched = iou.new_tensor([one[4:] for one in layout.classes]).index_select(0, label).unbind(1)
    finds = (iou >= matched) | is_claimed.index_select(0, anchor)
    labels = of_anchors(
        BACKGROUND, torch.where(finds, label, torch.where(iou >= unmatched, IGNORED, BACKGROUND)), "amax"
    )[:-1]
    finding = labels >= 0
    most = int(finding.sum()) if _may_look(finding) else min(len(anchor), nowhere)
    found = finding.nonzero_static(size=most, fill_value=-1)[:, 0]
    found_box = torch.where(found < 0, 0, best_box.index_select(0, found.clamp(min=0)))
    return AnchorTargets(labels.view(len(boxes), -1), found, found_box)


class CenterTargets(NamedTuple):
    """What a heat map should show, and what the cells at centres should say.

    Attributes:
        heatmap: (B, num_classes, ny, nx) float32 in [0, 1], 1 in the cell of each centre.
        cell: (M,) int64 the cell of each box, y * nx + x of cloud b is b * ny * nx + y * nx + x; -1 for boxes that are
            not to be found, and for those outside of the map.
        codes: (M, 8) float32, see `encode_centers`; zeros where `cell` is -1.
    """

    heatmap: Tensor
    cell: Tensor
    codes: Tensor


def draw_centers(grid: Grid, boxes: BoxBatch, num_classes: int) -> CenterTargets:
    """Draw a Gaussian around the centre of each object into the map of its class; where some meet the highest counts.

    A Gaussian is 1 in the cell that holds the centre, reaches over a square of that cell and `gaussian_radius` whole
    cells to each side, at least 2 and at most 32, and has a sixth of the edge of this square as its sigma. Objects
    whose centre is outside of the map have no effect, whatever their height. Two objects in one cell share it: both
    codes are targets of that cell, whose best answer lies between them.

    Args:
        grid: of the map.
        boxes: objects of each cloud; those of label -1 have no effect.
        num_classes: maps of each cloud.

    Raises:
        ValueError: as `assign_anchors`.

    Source: Zhou et al., Objects as points, 2019, section 3; Yin et al., CenterPoint, 2021, section 4, whose code has
    the least overlap 0.1 and the least radius 2.
    """
    real = real_objects(boxes, num_classes)
    _, ny, nx = grid.shape
    rows = torch.where(real[:, None], boxes.boxes, 1)
    column, inside, codes = encode_centers(rows, grid)  # (M, 2) y, x; (M,); (M, 8)
    real = real & inside
    y, x = column.unbind(1)
    length, width = (rows[:, 3:5].double() / torch.tensor(grid.voxel_size[:2], device=rows.device)).unbind(1)
    radius = gaussian_radius(length, width).floor().clamp(MIN_RADIUS, MAX_RADIUS).float()  # (M,)
    reach = int(radius.max()) if _may_look(radius) and len(radius) else MAX_RADIUS
    offset = torch.arange(-reach, reach + 1, device=radius.device)  # (K,)
    sigma = (2 * radius + 1) / 6
    along = torch.exp(-offset.square() / (2 * sigma.square())[:, None])
    along = torch.where(offset.abs() <= radius[:, None], along, 0)  # (M, K)
    value = along[:, :, None] * along[:, None, :]  # (M, Ky, Kx)

    at_y, at_x = y[:, None] + offset, x[:, None] + offset  # (M, K)
    in_map = ((at_y >= 0) & (at_y < ny))[:, :, None] & ((at_x >= 0) & (at_x < nx))[:, None, :]
    cloud = boxes.batch_index
    map_row = (cloud * num_classes + torch.where(real, boxes.labels, 0))[:, None] * ny + at_y
    nowhere = len(boxes) * num_classes * ny * nx
    place = torch.where(in_map & real[:, None, None], map_row[:, :, None] * nx + at_x[:, None, :], nowhere)
    heatmap = value.new_zeros(nowhere + 1).scatter_reduce_(0, place.flatten(), value.flatten(), "amax")
    return CenterTargets(
        heatmap[:-1].view(len(boxes), num_classes, ny, nx),
        torch.where(real, (cloud * ny + y) * nx + x, -1),
        torch.where(real[:, None], codes, 0),
    )


def gaussian_radius(length: Tensor, width: Tensor) -> Tensor:
    """How far from its centre an object may be looked for, in cells: a box moved so far still overlaps by about 0.1.

    The least of three radii, for boxes that move, shrink and grow. Two of them are no roots of their quadratic
    equations, which divide by 4 and 4 * 0.1 what is divided by 1 here; all public weights were trained so.

    Args:
        length: any shape, cells.
        width: of the same shape.

    Source: Law and Deng, CornerNet, 2018, section 3.1, as its code and CenterPoint's compute it.
    """
    around, area, overlap = length + width, length * width, MIN_OVERLAP
    moved = around + (around.square() - 4 * area * (1 - overlap) / (1 + overlap)).sqrt()
    shrunk = 2 * around + (4 * around.square() - 16 * (1 - overlap) * area).sqrt()
    grown = -2 * overlap * around + (4 * (overlap * around).square() + 16 * overlap * (1 - overlap) * area).sqrt()
    return torch.minimum(torch.minimum(moved, shrunk), grown) / 2


def real_objects(boxes: BoxBatch, num_classes: int) -> Tensor:
    """(M,) bool: which boxes a head is to find: those of a class. See `assign_anchors` for what is refused."""
    real = (boxes.labels >= 0) & (boxes.labels < num_classes)
    positive = (boxes.boxes[:, 3:6] > 0).all(1)
    if not _may_look(boxes.boxes):
        return real & positive & boxes.boxes.isfinite().all(1)
    boxes.validate()
    for wrong, text in (
        (boxes.labels >= num_classes, f"but the head knows the classes 0 to {num_classes - 1}"),
        (real & ~positive, "but an object to be found has sizes above 0; give it the label -1 or leave it out"),
    ):
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(f"box {row} is {boxes.boxes[row].tolist()} of class {int(boxes.labels[row])}, {text}")
    return real


# ---- below the contract ----------------------------------------------------------------------------------------------
def _may_look(values: Tensor) -> bool:
    """Whether values can be looked at without waiting for a device."""
    return values.device.type == "cpu"


# ---- anchors ---------------------------------------------------------------------------------------------------------
class _Objects(NamedTuple):
    """The boxes seen from above, turned to the nearest axis; float64, so that equal overlaps are equal in float32."""

    center: Tensor  # (M, 2) x, y
    extent: Tensor  # (M, 2) along x, y
    anchor_extent: Tensor  # (M, headings, 2) of the anchors of the object's class
    cloud: Tensor  # (M,)
    label: Tensor  # (M,) 0 for what is not real
    real: Tensor  # (M,) bool


def _objects(layout: AnchorLayout, boxes: BoxBatch) -> _Objects:
    real = real_objects(boxes, len(layout.classes))
    label = torch.where(real, boxes.labels, 0)
    rows = torch.where(real[:, None], boxes.boxes.double(), 1)
    across = limit_period(rows[:, 6:], period=math.pi).abs() >= math.pi / 4
    extent = torch.where(across, rows[:, 3:5].flip(1), rows[:, 3:5])
    length_width = layout.table(boxes.device)[:, 0, 1:3]
    anchor_extent = torch.stack([length_width, length_width.flip(1)], 1).index_select(0, label)
    return _Objects(rows[:, :2], extent, anchor_extent, boxes.batch_index, label, real)


def _near_anchors(layout: AnchorLayout, objects: _Objects, nowhere: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of an anchor and a box, among them all that overlap by `unmatched`: anchor, box and overlap, (P,) each.

    Along one axis overlap is at least that of the areas. An anchor of extent e and an object d apart can reach an
    overlap u along it only if d <= e (1 - u) / 2 u, whatever the extent of the object.
    """
    reach = max(max(one.length, one.width) * (1 - one.unmatched) / (2 * one.unmatched) for one in layout.classes)
    places, common = [], []
    for axis in (0, 1):
        first, step, count = layout.along(axis)
        steps = math.ceil(reach / step + 0.5)
        offset = torch.arange(-steps, steps + 1, device=objects.real.device)
        place = _nearest(layout, objects, axis)[:, None] + offset  # (M, K)
        places.append(torch.where((place >= 0) & (place < count), place, -1))
        where = (first + place.double() * step)[:, None]  # (M, 1, K)
        center, extent = objects.center[:, axis, None, None], objects.extent[:, axis, None, None]
        common.append(_common(where, objects.anchor_extent[..., axis, None], center, extent))  # (M, headings, K)
    iou = _iou(
        common[0][:, :, None, :] * common[1][:, :, :, None],
        objects.anchor_extent.prod(2)[:, :, None, None],
        objects.extent.prod(1)[:, None, None, None],
    )  # (M, headings, Ky, Kx)
    column, row = places[0][:, None, None, :], places[1][:, None, :, None]
    heading = torch.arange(len(HEADINGS), device=iou.device)[:, None, None]
    cloud, label, real = (values[:, None, None, None] for values in (objects.cloud, objects.label, objects.real))
    anchor = _number(layout, cloud, row, column, label, heading)
    anchor = torch.where(real & (row >= 0) & (column >= 0) & (iou > 0), anchor, nowhere)
    box = torch.arange(len(iou), device=iou.device)[:, None, None, None].expand(iou.shape)
    return anchor.flatten(), box.flatten(), iou.flatten()


def _claims(layout: AnchorLayout, objects: _Objects, nowhere: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The anchor that each box claims, (M,), and its overlaps with all boxes as pairs: anchor, box, overlap, (M M,)."""
    place = [_nearest(layout, objects, axis) for axis in (0, 1)]
    where = torch.stack([layout.along(axis)[0] + place[axis].double() * layout.along(axis)[1] for axis in (0, 1)], 1)
    area, anchor_area = objects.extent.prod(1), objects.anchor_extent.prod(2)
    own = _common(where[:, None], objects.anchor_extent, objects.center[:, None], objects.extent[:, None]).prod(2)
    own_iou = _iou(own, anchor_area, area[:, None])  # (M, headings)
    heading = own_iou.argmax(1)
    chosen = objects.anchor_extent.gather(1, heading[:, None, None].expand(-1, 1, 2))  # (M, 1, 2)
    common = _common(where[:, None], chosen, objects.center, objects.extent).prod(2)  # (M anchors, M boxes)
    iou = _iou(common, chosen.prod(2), area)

    anchor = _number(layout, objects.cloud, place[1], place[0], objects.label, heading)
    claimed = torch.where(objects.real & (own_iou.amax(1) > 0), anchor, nowhere)
    group = torch.where(objects.real, objects.cloud * len(layout.classes) + objects.label, -1)
    pairs = (group[:, None] == group) & (iou > 0)
    box = torch.arange(len(iou), device=iou.device).expand(iou.shape)
    return claimed, torch.where(pairs, claimed[:, None], nowhere).flatten(), box.flatten(), iou.flatten()


def _nearest(layout: AnchorLayout, objects: _Objects, axis: int) -> Tensor:
    """(M,) int64 place nearest to each object along x (axis 0) or y (axis 1), of two equally near the lower."""
    first, step, count = layout.along(axis)
    return ((objects.center[:, axis] - first) / step - 0.5).ceil().clamp(0, count - 1).long()


def _number(layout: AnchorLayout, cloud: Tensor, row: Tensor, column: Tensor, label: Tensor, heading: Tensor) -> Tensor:
    """Number of an anchor in the batch, see `AnchorLayout` and `AnchorTargets`."""
    place = (cloud * layout.rows + row) * layout.columns + column
    return (place * len(layout.classes) + label) * len(HEADINGS) + heading


def _common(center: Tensor, extent: Tensor, other_center: Tensor, other_extent: Tensor) -> Tensor:
    """Length that two intervals have in common."""
    high = torch.minimum(center + extent / 2, other_center + other_extent / 2)
    low = torch.maximum(center - extent / 2, other_center - other_extent / 2)
    return (high - low).clamp(min=0)


def _iou(common: Tensor, area: Tensor, other_area: Tensor) -> Tensor:
    """Intersection over union, float32."""
    return (common / (area + other_area - common)).float()
