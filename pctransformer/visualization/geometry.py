"""Scans and boxes as geometry: wire boxes as points and lines, and Open3D objects for its viewers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pctransformer.boxes import box_corners
from pctransformer.visualization.detection import TRUE, class_colour
from pctransformer.visualization.style import MIDDLE

_EDGES = np.array([*((i, (i + 1) % 4) for i in range(4)), *((i + 4, (i + 1) % 4 + 4) for i in range(4)),
                   *((i, i + 4) for i in range(4)), (8, 9)])  # fmt: skip
_LOW, _HIGH = -2.0, 1.0  # metres: heights between which points change colour


def box_lines(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The edges of boxes, and a line from the centre through the front, which shows the heading.

    Args:
        boxes: (m, 7).

    Returns:
        points (10 m, 3) float64.
        lines (13 m, 2) int64 rows of points, thirteen of each box after the other.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 7)
    corners = box_corners(torch.from_numpy(boxes)).numpy()  # (m, 8, 3)
    length, heading = boxes[:, 3], boxes[:, 6]
    reach = length / 2 + np.maximum(0.25 * length, 0.4)
    along = np.stack([np.cos(heading), np.sin(heading), np.zeros(len(boxes))], axis=1)
    tick = np.stack([boxes[:, :3], boxes[:, :3] + reach[:, None] * along], axis=1)  # (m, 2, 3)
    points = np.concatenate([corners, tick], axis=1).reshape(-1, 3)
    return points, (_EDGES + 10 * np.arange(len(boxes))[:, None, None]).reshape(-1, 2)


def open3d_scene(
    points: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    *,
    labelled: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[Any]:
    """A cloud coloured by height, and wire boxes in the colours of their classes, for `open3d.visualization.draw`.

    Args:
        points: (n, 3 or more).
        boxes, labels: (m, 7) and (m,) int.
        labelled: boxes (k, 7) and labels (k,) of the truth, which are green, ignored ones (-1) grey.

    Returns:
        an `open3d.geometry.PointCloud`, an `open3d.geometry.LineSet`, and another one of what is labelled, if given.

    Raises:
        ImportError: Open3D is not installed.
    """
    import open3d
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    vectors = open3d.utility.Vector3dVector
    cloud = open3d.geometry.PointCloud(vectors(np.asarray(points[:, :3], np.float64)))
    height = np.clip((points[:, 2] - _LOW) / (_HIGH - _LOW), 0, 1)
    cloud.colors = vectors(colormaps["viridis"](np.asarray(height, np.float64))[:, :3])

    def wires(boxes: np.ndarray, colours: list[str]) -> Any:
        corners, lines = box_lines(boxes)
        made = open3d.geometry.LineSet(vectors(corners), open3d.utility.Vector2iVector(lines.astype(np.int32)))
        shades = np.array([to_rgb(colour) for colour in colours], np.float64).reshape(-1, 3)
        made.colors = vectors(np.repeat(shades, len(_EDGES), axis=0))
        return made

    scene = [cloud, wires(boxes, [class_colour(int(label)) for label in labels])]
    if labelled is not None:
        scene.append(wires(labelled[0], [TRUE if label >= 0 else MIDDLE for label in labelled[1]]))
    return scene
