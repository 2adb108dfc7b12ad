"""KITTI's labels of what stands in a generated street, by KITTI's definitions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pctransformer.datasets.kitti import Calibration, KittiObjects, camera_boxes, project_boxes
from pctransformer.datasets.kitti.boxes import box_extents, wrap_angle
from pctransformer.datasets.street.scene import Scene

_GRID = 12
"""Rays to a side of a thing's rectangle, by which it is judged how much of it is hidden."""
LABEL_LIFT = 0.03
"""Metres by which labelled boxes are higher than what is in them, as those that people drew around KITTI's objects are:
there bottoms are 5 cm above the road and tops 6 cm above the highest points (medians of near cars in 33 frames)."""
_OCCLUDED = np.array([0.08, 0.45, 0.72])
"""Hidden shares from which on a thing is partly occluded (1), largely occluded (2), and beyond judgement (3)."""
_MOST_HIDDEN = 0.78
_FEWEST_POINTS = 2
_DECIMALS = 4  # as `write_objects` writes them


def label_things(
    kinds: Sequence[str],
    boxes: np.ndarray,
    num_points: np.ndarray,
    scene: Scene,
    things: np.ndarray,
    *,
    calibration: Calibration,
    image_size: tuple[int, int],
) -> tuple[KittiObjects, KittiObjects, np.ndarray]:
    """Label what the camera sees.

    Truncated is the share of the rectangle around a thing's projected box that lies outside of the image; occluded
    tells how much of what is inside is hidden behind other things. Something that is hidden by more than 78 %,
    or of which fewer than two points came back, is a DontCare rectangle, or not mentioned if nothing of it is seen.
    Labelled boxes are `LABEL_LIFT` higher than the things.

    Args:
        kinds: class of each thing.
        boxes: (n, 7) around the things, in the LiDAR's frame.
        num_points: (n,) that came back from each, in the image.
        scene: that hides them from one another.
        things: (n,) their numbers in the scene.

    Returns:
        Objects and regions of DontCare, rounded as their file will be; and rows (m,) of the input that the objects are.
    """
    around_things = project_boxes(boxes, calibration, image_size)[0]
    boxes = boxes + np.array([0, 0, LABEL_LIFT, 0, 0, 0, 0])
    rectangles, seen = project_boxes(boxes, calibration, image_size)
    low, high, _ = box_extents(boxes, calibration)
    rows = np.flatnonzero(seen)
    boxes, rectangles, num_points = boxes[rows], rectangles[rows], num_points[rows]
    whole = (high - low).prod(axis=1)[rows]
    truncated = np.clip(1 - (rectangles[:, 2:] - rectangles[:, :2] + 1).prod(axis=1) / whole, 0, 1)
    hidden = _hidden_share(scene, things[rows], around_things[rows], calibration)
    dimensions, locations, rotation_y = camera_boxes(boxes, calibration)
    objects = KittiObjects(
        types=np.array(kinds, dtype=np.str_)[rows],
        truncated=np.round(truncated, 2),
        occluded=np.searchsorted(_OCCLUDED, hidden, side="right"),
        alpha=wrap_angle(rotation_y - np.arctan2(locations[:, 0], locations[:, 2])).round(_DECIMALS),
        boxes_2d=rectangles.round(_DECIMALS),
        dimensions=dimensions.round(_DECIMALS),
        locations=locations.round(_DECIMALS),
        rotation_y=rotation_y.round(_DECIMALS),
    )
    enough = (num_points >= _FEWEST_POINTS) & (hidden <= _MOST_HIDDEN)
    return objects.take(enough), _dont_care(objects.take(~enough & (hidden < 1))), rows[enough]


def _hidden_share(scene: Scene, things: np.ndarray, rectangles: np.ndarray, calibration: Calibration) -> np.ndarray:
    """(n,) of each thing's silhouette in its rectangle, by a grid of rays; 1 where no ray would meet it."""
    step = (np.arange(_GRID) + 0.5) / _GRID
    across, down = (grid.ravel() for grid in np.meshgrid(step, step))
    left, top, right, bottom = (side[:, None] for side in rectangles.T)
    pixels = np.stack([left + (right - left) * across, top + (bottom - top) * down], axis=-1)  # (n, 144, 2)
    alone, seen = scene.look_for(_camera_rays(pixels.reshape(-1, 2), calibration), np.repeat(things, _GRID * _GRID))
    alone, seen = (rays.reshape(len(things), _GRID * _GRID).sum(1) for rays in (alone, seen))
    return 1 - seen / np.maximum(alone, 1)


def _camera_rays(pixels: np.ndarray, calibration: Calibration) -> np.ndarray:
    """(n, 6) float32 from the image's camera through pixels (n, 2), in the LiDAR's frame."""
    turned, offset = calibration.projection[:, :3], calibration.projection[:, 3]
    eye = np.linalg.solve(turned, -offset)  # in the rectified camera's frame
    ahead = np.linalg.solve(turned, np.column_stack([pixels, np.ones(len(pixels))]).T).T
    begin, end = calibration.to_lidar(eye[None]), calibration.to_lidar(eye + ahead)
    return np.column_stack([np.broadcast_to(begin, end.shape), end - begin]).astype(np.float32)


def _dont_care(objects: KittiObjects) -> KittiObjects:
    """The same rectangles as regions in which detections do not count."""
    count = len(objects)
    return KittiObjects(
        types=np.full(count, "DontCare"),
        truncated=np.full(count, -1.0),
        occluded=np.full(count, -1),
        alpha=np.full(count, -10.0),
        boxes_2d=objects.boxes_2d,
        dimensions=np.full((count, 3), -1.0),
        locations=np.full((count, 3), -1000.0),
        rotation_y=np.full(count, -10.0),
    )
