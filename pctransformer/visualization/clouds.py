"""A cloud on a page: seen by a camera without perspective, near points in front and dark, or coloured by a value."""

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

    parts = [upright(xyz, up), *([] if marked is None else [upright(marked, up)])]
    parts = [part[_drawn(part)] for part in parts]
    points = np.concatenate(parts)
    place = points
    if like is not None:
        place = upright(like, up)
        place = place[_drawn(place)]
    turn = camera(elevation_deg, -55).T
    middle = place.mean(0) if len(place) else 0
    seen, framed = (points - middle) @ turn, (place - middle) @ turn
    low, high = (framed[:, 2].min(), framed[:, 2].max()) if len(framed) else (0, 0)
    depth = np.clip(1 - (high - seen[:, 2]) / (high - low or 1), 0, 1)
    plain, standing_out = (LinearSegmentedColormap.from_list("depth", colours) for colours in (DEPTH, MARKED_DEPTH))
    is_marked = np.arange(len(points)) >= len(parts[0])
    _dots(axes, seen, np.where(is_marked[:, None], standing_out(depth), plain(depth)), framed)


def draw_colors(
    axes: Any, xyz: Tensor | np.ndarray, colors: np.ndarray, *, ringed: int | None = None, up: Up = "z"
) -> None:
    """Fill axes with a cloud as `draw_cloud` does, its points in colours of their own.

    Args:
        axes, xyz, up: see `draw_cloud`.
        colors: (n, 3) red, green, blue in [0, 1].
        ringed: row of a point that gets a ring round it.
    """
    points = upright(xyz, up)
    rows = _drawn(points)
    middle = points[rows].mean(0) if len(rows) else 0
    seen = (points - middle) @ camera(25, -55).T
    dot = _dots(axes, seen[rows], colors[rows], seen[rows])
    if ringed is not None:
        axes.plot(*seen[ringed, :2], "o", markersize=2.2 * dot, markerfacecolor="none", markeredgecolor="black")


def upright(xyz: Tensor | np.ndarray, up: Up) -> np.ndarray:
    """(n, 3) points as float64 with z upright, turned round the x axis where "y" is.

    Raises:
        ValueError: they are not (n, 3).
    """
    points = np.asarray(xyz if isinstance(xyz, np.ndarray) else xyz.detach().cpu(), dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"a cloud to draw must be (n, 3), got {points.shape}")
    return points[:, [0, 2, 1]] * [1, -1, 1] if up == "y" else points


def _drawn(points: np.ndarray) -> np.ndarray:
    """Rows of those points that are finite, and no more than are drawn."""
    rows = np.flatnonzero(np.isfinite(points).all(1))
    if len(rows) > MAX_POINTS:
        rows = rows[np.random.default_rng(0).permutation(len(rows))[:MAX_POINTS]]
    return rows


def _dots(axes: Any, seen: np.ndarray, colors: np.ndarray, framed: np.ndarray) -> float:
    """Fill axes with dots.

    Args:
        axes: matplotlib axes.
        seen: (n, 3) points as the camera sees them.
        colors: (n, 3 or 4) of each.
        framed: (m, 3) points that are to fill the axes, and whose number says how large dots are.

    Returns:
        the width of a dot, 1/72 inch.
    """
    axes.set_axis_off()
    axes.set_aspect("equal")
    if not len(seen) or not len(framed):
        axes.text(0.5, 0.5, "no points", transform=axes.transAxes, ha="center", va="center", color=GREY)
        return 0.0
    order = seen[:, 2].argsort(kind="stable")  # far ones first, so that near ones cover them
    low, high = framed.min(0), framed.max(0)
    middle, half = (low + high) / 2, max((high - low)[:2].max() / 2, 1e-6)
    box = axes.get_position()
    side = 72 * min(box.width * axes.figure.get_figwidth(), box.height * axes.figure.get_figheight())  # 1/72 inch
    dot = min(1.1 * side / np.sqrt(len(framed)), 8)  # a flat surface of dots of that width is just closed
    axes.scatter(
        seen[order, 0],
        seen[order, 1],
        c=colors[order],
        s=dot**2,
        linewidths=0.08 * dot,  # a white rim lifts each dot off those behind it
        edgecolors="white",
        clip_on=False,
        rasterized=True,
    )
    room = half * (1 + dot / side)
    axes.set(xlim=(middle[0] - room, middle[0] + room), ylim=(middle[1] - room, middle[1] + room))
    return dot
