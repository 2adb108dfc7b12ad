"""KITTI's camera boxes and the package's LiDAR boxes: the one place that converts between them.

A LiDAR box is x, y, z of its geometric centre, dx, dy, dz along its own axes, and heading, radians counter-clockwise
from +x; x is forward, y left, z up. A camera box has the centre of its bottom, height, width, length, and rotation_y
about an axis that points down. KITTI's camera and LiDAR are taken to be parallel when angles are converted (they are to
less than a degree), as everybody does; positions go through the whole calibration.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pctransformer.datasets.kitti.calibration import Calibration
from pctransformer.datasets.kitti.objects import KittiObjects

_CORNERS = np.array([[x, y, z] for z in (-1, 1) for x, y in ((1, 1), (-1, 1), (-1, -1), (1, -1))]) / 2
_EDGES = np.array([*((i, (i + 1) % 4) for i in range(4)), *((i + 4, (i + 1) % 4 + 4) for i in range(4)),
                   *((i, i + 4) for i in range(4))])  # fmt: skip
_NEAR = 0.1
"""Metres in front of the camera: what is nearer is not projected."""


def wrap_angle(angle: np.ndarray) -> np.ndarray:
    """Into [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def lidar_boxes(objects: KittiObjects, calibration: Calibration) -> np.ndarray:
    """Boxes (n, 7) float64 in the LiDAR's frame. DontCare has no box: leave it out before."""
    height, width, length = objects.dimensions.T
    centre = calibration.to_lidar(objects.locations)
    centre[:, 2] += height / 2
    heading = wrap_angle(-objects.rotation_y - np.pi / 2)
    return np.column_stack([centre, length, width, height, heading])


def camera_boxes(boxes: np.ndarray, calibration: Calibration) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The inverse of `lidar_boxes`: dimensions (n, 3) height, width, length, locations (n, 3), rotation_y (n,)."""
    boxes = np.asarray(boxes, np.float64)
    bottom = boxes[:, :3] - np.array([0, 0, 0.5]) * boxes[:, 5:6]
    return boxes[:, [5, 4, 3]], calibration.to_camera(bottom), wrap_angle(-boxes[:, 6] - np.pi / 2)


def box_corners(boxes: np.ndarray) -> np.ndarray:
    """(n, 8, 3) corners of boxes (n, 7): the bottom counter-clockwise from front left, then the top alike."""
    local = _CORNERS * boxes[:, None, 3:6]
    cos, sin = np.cos(boxes[:, 6:7]), np.sin(boxes[:, 6:7])
    x, y, z = np.moveaxis(local, -1, 0)
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1) + boxes[:, None, :3]


def _in_front(
    begin: np.ndarray, end: np.ndarray, calibration: Calibration
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The parts of lines that lie in front of the camera; of those behind it there is none.

    Args:
        begin, end: (..., 3) in the rectified camera's frame.

    Returns:
        begin, end: (..., 3), an end that was behind is moved along its line to where the camera begins to see.
        there (...,) bool.
    """
    depth_begin, depth_end = (
        points @ calibration.projection[2, :3] + calibration.projection[2, 3] for points in (begin, end)
    )
    fall = depth_end - depth_begin
    share = np.divide(_NEAR - depth_begin, fall, out=np.zeros_like(fall), where=fall != 0)[..., None]
    crossing = begin + share * (end - begin)
    front_begin, front_end = depth_begin >= _NEAR, depth_end >= _NEAR
    return (
        np.where(front_begin[..., None], begin, crossing),
        np.where(front_end[..., None], end, crossing),
        front_begin | front_end,
    )


def box_extents(boxes: np.ndarray, calibration: Calibration) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The smallest rectangle around each projected box, in the plane of the image, which goes on beyond its edges.

    Of a box that reaches behind the camera, the part in front is projected.

    Args:
        boxes: (n, 7) in the LiDAR's frame.

    Returns:
        low (n, 2), high (n, 2): corners, pixels; infinite for a box behind the camera.
        there (n,) bool: something of the box is in front of the camera.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 7)
    corners = calibration.to_camera(box_corners(boxes).reshape(-1, 3)).reshape(-1, 8, 3)
    begin, end = corners[:, _EDGES[:, 0]], corners[:, _EDGES[:, 1]]  # (n, 12, 3)
    begin, end, in_front = _in_front(begin, end, calibration)
    points = np.concatenate([begin, end], axis=1)
    there = np.tile(in_front, 2)  # (n, 24)
    pixels = calibration.to_image(points.reshape(-1, 3))[0].reshape(*there.shape, 2)
    low = np.where(there[..., None], pixels, np.inf).min(axis=1, initial=np.inf)
    high = np.where(there[..., None], pixels, -np.inf).max(axis=1, initial=-np.inf)
    return low, high, np.asarray(there.any(axis=1))


def project_boxes(
    boxes: np.ndarray, calibration: Calibration, image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The smallest rectangle in the image around each box, clipped to the image.

    Of a box that reaches behind the camera, the part in front is projected.

    Args:
        boxes: (n, 7) in the LiDAR's frame.
        image_size: width and height, pixels.

    Returns:
        rectangles (n, 4): left, top, right, bottom, from 0 to width - 1 and height - 1; 0 where nothing is seen.
        seen (n,) bool: something of the box is in the image.
    """
    low, high, there = box_extents(boxes, calibration)
    last = np.array(image_size) - 1
    low, high = np.clip(low, 0, last), np.clip(high, 0, last)
    seen = there & (high > low).all(axis=1)
    return np.where(seen[:, None], np.concatenate([low, high], axis=1), 0), seen


def project_lines(
    begin: np.ndarray, end: np.ndarray, calibration: Calibration, image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Straight lines in space as the image shows them: without what is behind the camera or beyond the image's edges.

    Args:
        begin, end: (n, 3) in the LiDAR's frame.
        image_size: width and height, pixels.

    Returns:
        pixels (n, 2, 2): x and y of both ends of what is seen, from 0 to width - 1 and height - 1; 0 of unseen lines.
        seen (n,) bool: something of the line is in the image.

    Source: clipping by the shares of a line at which it enters and leaves, Liang and Barsky, 1984.
    """
    begin, end, there = _in_front(calibration.to_camera(begin), calibration.to_camera(end), calibration)
    begin, end = calibration.to_image(begin)[0], calibration.to_image(end)[0]
    begin, end = (np.where(there[:, None], pixels, 0) for pixels in (begin, end))
    last, step = np.array(image_size) - 1, end - begin
    # the shares at which the line crosses each edge's line; one along an edge crosses it never, and is in or out of it
    along = step == 0
    divisor = np.where(along, 1, step)
    one, other = -begin / divisor, (last - begin) / divisor  # (n, 2)
    inside = (begin >= 0) & (begin <= last)
    enter = np.where(along, np.where(inside, 0, np.inf), np.minimum(one, other)).max(axis=1, initial=0)
    leave = np.where(along, 1, np.maximum(one, other)).min(axis=1, initial=1)
    seen = there & (enter <= leave)
    shares = np.where(seen[:, None], np.stack([enter, leave], axis=1), 0)[..., None]  # (n, 2, 1)
    pixels = np.clip(begin[:, None] + shares * step[:, None], 0, last)  # what was moved may be a rounding off the edge
    return np.where(seen[:, None, None], pixels, 0), seen


def to_kitti(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    calibration: Calibration,
    image_size: tuple[int, int],
) -> KittiObjects:
    """Detections as KITTI's evaluation wants them; `write_objects` makes the file.

    Boxes in the image are projected, and alpha is the heading relative to the line of sight. Detections that the image
    does not show are left out: KITTI labels nothing there.

    Args:
        boxes: (n, 7) in the LiDAR's frame.
        scores: (n,).
        labels: (n,) int, index into `class_names`.
        calibration, image_size: of the frame; width and height in pixels.
    """
    rectangles, seen = project_boxes(boxes, calibration, image_size)
    boxes, rectangles = np.asarray(boxes, np.float64).reshape(-1, 7)[seen], rectangles[seen]
    dimensions, locations, rotation_y = camera_boxes(boxes, calibration)
    unknown = np.full(len(boxes), -1)
    return KittiObjects(
        types=np.array(class_names, dtype=np.str_)[np.asarray(labels)[seen].astype(np.int64)],
        truncated=unknown.astype(np.float64),
        occluded=unknown,
        alpha=wrap_angle(rotation_y + np.arctan2(boxes[:, 1], boxes[:, 0])),
        boxes_2d=rectangles,
        dimensions=dimensions,
        locations=locations,
        rotation_y=rotation_y,
        scores=np.asarray(scores, np.float64)[seen],
    )
