"""Figure of pretraining on LiDAR scans: what a model saw of them, what was hidden, and what it made up, from above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pctransformer.visualization.detection import height_colours
from pctransformer.visualization.style import DARK, HEAT, bare, heading, new_figure, place

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ScanMadeUp(NamedTuple):
    """One scan.

    Attributes:
        name: of it.
        seen: (n, 3) points that the model saw.
        hidden: (m, 3) points that it did not see.
        made_up: (k, 3) points that it put there instead.
        chance: (ny, nx) of each column over the range that it holds points, seen ones included, of which nobody asked.
    """

    name: str
    seen: np.ndarray
    hidden: np.ndarray
    made_up: np.ndarray
    chance: np.ndarray


_TITLES = ("seen", "hidden", "made up", "chance of points")


def scan_reconstruction_figure(scans: Sequence[ScanMadeUp], *, range: tuple[float, float, float, float]) -> Figure:
    """One row for each scan, seen from above: x forward points up, y points to the left. Higher points are darker.

    Args:
        scans: at least one.
        range: smallest x and y, largest x and y that are shown, metres.

    Raises:
        ValueError: there is no scan.
    """
    if not scans:
        raise ValueError("there must be at least one scan")
    low_x, low_y, high_x, high_y = range
    scale = 3.4 / max(high_x - low_x, high_y - low_y)  # inches per metre
    width, height, gap, left = (high_y - low_y) * scale, (high_x - low_x) * scale, 0.12, 0.3
    page_height = len(scans) * (height + 0.4) + 1.35
    figure = new_figure(left + len(_TITLES) * (width + gap) + 0.2, page_height)
    across = figure.get_size_inches()[0]
    heading(figure, left, page_height - 0.2, "reconstruction", "columns of scans that were hidden, seen from above")
    for row, scan in enumerate(scans):
        bottom = page_height - 1.2 - height - row * (height + 0.4)
        figure.text(left / across, (bottom - 0.07) / page_height, scan.name, fontsize=8, color=DARK, va="top")
        for column, (title, content) in enumerate(zip(_TITLES, scan[1:])):
            at = left + column * (width + gap)
            axes = place(figure, at, bottom, width, height)
            if title == _TITLES[-1]:
                _draw_chance(axes, content, range)
            else:
                _draw_points(axes, content)
            axes.set(xlim=(high_y, low_y), ylim=(low_x, high_x), xticks=[], yticks=[], aspect="equal")
            bare(axes)
            if row == 0:
                figure.text(at / across, (bottom + height + 0.06) / page_height, title, fontsize=11)
    return figure


def _draw_points(axes: Any, points: np.ndarray) -> None:
    shown = points[np.argsort(points[:, 2])]
    axes.scatter(shown[:, 1], shown[:, 0], c=np.clip(shown[:, 2], -2, 1), cmap=height_colours(), s=0.9, linewidths=0)


def _draw_chance(axes: Any, chance: np.ndarray, range: tuple[float, float, float, float]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    low_x, low_y, high_x, high_y = range
    colours = LinearSegmentedColormap.from_list("chance", HEAT)
    axes.imshow(
        chance.T, origin="lower", extent=(low_y, high_y, low_x, high_x), vmin=0, vmax=1, cmap=colours,
        interpolation="nearest",
    )  # fmt: skip
