"""A cloud on a page: seen by a camera without perspective, near points dark and in front, far ones pale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pctransformer.visualization.style import DEPTH, GREY

if TYPE_CHECKING:
    from torch import Tensor

MAX_POINTS = 4096
"""More points than this are thinned out: on a page they would cover one another."""

Up = Literal["y", "z"]


def camera(elevation_deg: float, azimuth_deg: float) -> np.ndarray:
    """(3, 3) axes of a camera as rows: to the right, up, towards us; z stands upright. `points @ camera(...).T`.

    Args:
        elevation_deg: height from which it looks, 0 from the side, 90 from above.
        azimuth_deg: side from which it looks, 0 from +x, -90 from -y.
    """
    elevation, azimuth = np.deg2rad(elevation_deg), np.deg2rad(azimuth_deg)
    return np.array(
        [
            [-np.sin(azimuth), np.cos(azimuth), 0],
            [-np.sin(elevation) * np.cos(azimuth), -np.sin(elevation) * np.sin(azimuth), np.cos(elevation)],
            [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)],
        ]
    )


def draw_cloud(axes: Any, xyz: Tensor | np.ndarray, *, up: Up = "z", elevation_deg: float = 25) -> None:
    """Fill axes with a cloud, from the front right and somewhat above, all directions to one scale.

    Args:
        axes: matplotlib axes; their frame is hidden.
        xyz: (n, 3) coordinates; points that are not finite are left out, and some of more than `MAX_POINTS`.
        up: the axis that stands upright in the data: "z" in ModelNet's OFF files and in generated shapes, "y" in the
            resampled and HDF5 forms of ModelNet40.
        elevation_deg: height from which it is seen.
    """
    from matplotlib.colors import LinearSegmentedColormap

    axes.set_axis_off()
    axes.set_aspect("equal")
    points = np.asarray(xyz if isinstance(xyz, np.ndarray) else xyz.detach().cpu(), dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"xyz must be (n, 3), got {points.shape}")
    points = points[np.isfinite(points).all(1)]
    if not len(points):
        axes.text(0.5, 0.5, "no points", transform=axes.transAxes, ha="center", va="center", color=GREY)
        return
    if len(points) > MAX_POINTS:
        points = points[np.random.default_rng(0).permutation(len(points))[:MAX_POINTS]]
    if up == "y":
        points = points[:, [0, 2, 1]] * [1, -1, 1]
    seen = (points - points.mean(0)) @ camera(elevation_deg, -55).T
    seen = seen[seen[:, 2].argsort(kind="stable")]  # far ones first, so that near ones cover them
    low, high = seen.min(0), seen.max(0)
    depth = 1 - (high[2] - seen[:, 2]) / (high[2] - low[2] or 1)
    middle, half = (low + high) / 2, max((high - low)[:2].max() / 2, 1e-6)

    box = axes.get_position()
    side = 72 * min(box.width * axes.figure.get_figwidth(), box.height * axes.figure.get_figheight())  # 1/72 inch
    dot = min(1.1 * side / np.sqrt(len(seen)), 8)  # a flat surface of dots of that width is just closed
    axes.scatter(
        seen[:, 0],
        seen[:, 1],
        c=LinearSegmentedColormap.from_list("depth", DEPTH)(depth),
        s=dot**2,
        linewidths=0.08 * dot,  # a white rim lifts each dot off those behind it
        edgecolors="white",
        clip_on=False,
        rasterized=True,
    )
    room = half * (1 + dot / side)
    axes.set(xlim=(middle[0] - room, middle[0] + room), ylim=(middle[1] - room, middle[1] + room))
