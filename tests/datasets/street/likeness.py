"""How many points labelled objects have by distance: in 33 frames of KITTI, and in whatever frames are given."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pctransformer.datasets.kitti import KittiFrame
from pctransformer.datasets.scans import in_box

STEP = 10.0
"""Metres of distance seen from above; the first row of the tables below is 0 to 10 m."""
REAL_MEDIANS = {
    "Car": (2386, 493.5, 160, 60, 27, 19.5, 7.5),
    "Pedestrian": (354.5, 121, 71, 26, np.nan, 18),
    "Cyclist": (697, 378, 36, 25, 18),
}
"""Median points in the boxes, whole sweeps, of the frames 0 to 9, 38, 76, 142, 192, 217, 1481, 1584, 1802, 1985, 2270,
2454, 2613, 2916, 3433, 3795, 3957, 4000, 4016, 4185, 4343, 4473, 6918 and 7112 of KITTI's training set."""
REAL_COUNTS = {"Car": (9, 28, 25, 12, 11, 8, 8), "Pedestrian": (4, 7, 4, 2, 0, 1), "Cyclist": (3, 1, 1, 1, 1)}
"""Of objects behind each median."""


def points_per_object(frames: Iterable[KittiFrame]) -> dict[str, np.ndarray]:
    """Of each class rows (n, 2): distance seen from above, points in the box."""
    rows: dict[str, list[tuple[float, int]]] = {kind: [] for kind in REAL_MEDIANS}
    for frame in frames:
        points = frame.read_points()
        for box, kind in zip(frame.boxes, frame.objects.types):
            if kind in rows:
                rows[kind].append((float(np.hypot(box[0], box[1])), len(in_box(points, box))))
    return {kind: np.array(values).reshape(-1, 2) for kind, values in rows.items()}


def medians(rows: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Median points and number of objects in each step of distance; NaN where there is none."""
    step = (rows[:, 0] // STEP).astype(int)
    within = [rows[step == i, 1] for i in range(steps)]
    return np.array([np.median(one) if len(one) else np.nan for one in within]), np.array([len(one) for one in within])
