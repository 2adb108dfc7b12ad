"""A cloud on a page: seen by a camera without perspective, near points dark and in front, far ones pale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pctransformer.visualization.style import DEPTH, GREY, MARKED_DEPTH

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


def draw_cloud(
    axes: Any,
    xyz: Tensor | np.ndarray,
    *,
    marked: Tensor | np.ndarray | None = None,
    like: Tensor | np.ndarray | None = None,
    up: Up = "z",
    elevation_deg: float = 25,
) -> None:
    """Fill axes with a cloud, from the front right and somewhat above, all directions to one scale.

    Args:
        axes: matplotlib axes; their frame is hidden.
        xyz: (n, 3) coordinates; points that are not finite are left out, and some of more than `MAX_POINTS`.
        marked: (m, 3) more points, in another colour.
        like: (l, 3) a cloud in whose place these points stand: middle, scale and size of dots are chosen for it, so
            that several drawings of parts of one cloud fit each other. None: these points.
        up: the axis that stands upright in the data: "z" in ModelNet's OFF files and in generated shapes, "y" in the
            resampled and HDF5 forms of ModelNet40.
        elevation_deg: height from which it is seen.
    """
    from matplotlib.colors import LinearSegmentedColormap

    axes.set_axis_off()
    axes.set_aspect("equal")
    parts = [_shown(xyz, up), *([] if marked is None else [_shown(marked, up)])]
    points = np.concatenate(parts)
    place = points if like is None else _shown(like, up)
    if not len(points) or not len(place):
        axes.text(0.5, 0.5, "no points", transform=axes.transAxes, ha="center", va="center", color=GREY)
        return
    turn = camera(elevation_deg, -55).T
    seen, framed = (points - place.mean(0)) @ turn, (place - place.mean(0)) @ turn
    order = seen[:, 2].argsort(kind="stable")  # far ones first, so that near ones cover them
    seen, is_marked = seen[order], (np.arange(len(points)) >= len(parts[0]))[order]
    low, high = framed.min(0), framed.max(0)
    depth = np.clip(1 - (high[2] - seen[:, 2]) / (high[2] - low[2] or 1), 0, 1)
    middle, half = (low + high) / 2, max((high - low)[:2].max() / 2, 1e-6)

    box = axes.get_position()
    side = 72 * min(box.width * axes.figure.get_figwidth(), box.height * axes.figure.get_figheight())  # 1/72 inch
    dot = min(1.1 * side / np.sqrt(len(framed)), 8)  # a flat surface of dots of that width is just closed
    plain, standing_out = (LinearSegmentedColormap.from_list("depth", colours) for colours in (DEPTH, MARKED_DEPTH))
    axes.scatter(
        seen[:, 0],
        seen[:, 1],
        c=np.where(is_marked[:, None], standing_out(depth), plain(depth)),
        s=dot**2,
        linewidths=0.08 * dot,  # a white rim lifts each dot off those behind it
        edgecolors="white",
        clip_on=False,
        rasterized=True,
    )
    room = half * (1 + dot / side)
    axes.set(xlim=(middle[0] - room, middle[0] + room), ylim=(middle[1] - room, middle[1] + room))


def _shown(xyz: Tensor | np.ndarray, up: Up) -> np.ndarray:
    """(n, 3) float64, z up: those points that are finite, and no more than are drawn."""
    points = np.asarray(xyz if isinstance(xyz, np.ndarray) else xyz.detach().cpu(), dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"a cloud to draw must be (n, 3), got {points.shape}")
    points = points[np.isfinite(points).all(1)]
    if len(points) > MAX_POINTS:
        points = points[np.random.default_rng(0).permutation(len(points))[:MAX_POINTS]]
    return points[:, [0, 2, 1]] * [1, -1, 1] if up == "y" else points
