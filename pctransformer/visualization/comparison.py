"""A figure of methods beside one another: how good each is against what it costs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pctransformer.evaluation.comparison import Comparison
from pctransformer.visualization.style import DARK, GREY, MANY, bare, heading, new_figure, place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LETTERS = 8.5
"""Size of the names, 1/72 inch."""
NEAR = 16
"""A name further off than this is joined to its point by a line; 1/72 inch."""
COLOURS = tuple(MANY[i] for i in (0, 6, 2, 5, 8, 7, 1, 4, 3))
"""The darkest first, which letters can have on white."""

Line: TypeAlias = tuple[np.ndarray, np.ndarray]


def comparison_figure(
    comparison: Comparison,
    costs: Mapping[str, Sequence[float]],
    groups: Sequence[str],
    title: str,
    subtitle: str = "",
    label: str = "overall accuracy, %",
) -> Figure:
    """Mean scores with their standard deviations, one panel against each cost; a band ends at the best and the worst of
    what differs from it by noise.

    Args:
        comparison: of m methods, whose scores are shares of 1.
        costs: title of a panel -> cost of each of the m methods.
        groups: a word for each method; methods of one group share a colour.
        title, subtitle: above the panels.
        label: what the scores are.

    Raises:
        ValueError: costs or groups are not as many as methods.
    """
    count = len(comparison.scores)
    if wrong := [len(values) for values in (*costs.values(), groups) if len(values) != count]:
        raise ValueError(f"there are {count} methods, but {wrong[0]} costs or groups")
    width, height, gap, left, bottom = 5.4, 4.6, 0.45, 0.85, 0.75
    figure = new_figure(left + len(costs) * (width + gap), bottom + height + 1.2)
    heading(figure, 0.3, bottom + height + 1.05, title, subtitle)
    colours = dict(zip(dict.fromkeys(groups), itertools.cycle(COLOURS)))
    mean = 100 * np.array([score.mean for score in comparison.scores])
    std = 100 * np.nan_to_num([score.std for score in comparison.scores])
    room = 0.1 * ((mean + std).max() - (mean - std).min()) or 1
    for number, (name, values) in enumerate(costs.items()):
        axes = place(figure, left + number * (width + gap), bottom, width, height)
        bare(axes)
        cost = np.asarray(values, dtype=float)
        beside = 0.1 * (cost.max() - cost.min()) or 0.1 * cost.max() or 1
        axes.set_xlim(cost.min() - beside, cost.max() + beside)
        axes.set_ylim((mean - std).min() - room, (mean + std).max() + room)
        level = 100 * min(score.mean for score in comparison.level_with_best)
        axes.axhspan(level, mean.max(), color="#e9eff8", zorder=0)
        for group, colour in colours.items():
            of_group = np.array([g == group for g in groups])
            axes.errorbar(
                cost[of_group], mean[of_group], std[of_group], fmt="o", markersize=6.5, color=colour,
                markeredgecolor="white", elinewidth=1.2, ecolor=colour, alpha=0.95,
            )  # fmt: skip
        axes.set_xlabel(name, fontsize=10, color=DARK)
        if number == 0:
            axes.set_ylabel(label, fontsize=10, color=DARK)
            word = axes.annotate("", (0, 1), (0, 8), "axes fraction", "offset points", fontsize=9.5)
            for group, colour in colours.items():
                word = axes.annotate(f"{group}   ", (1, 0), xycoords=word, fontsize=9.5, color=colour, va="bottom")
        else:
            axes.tick_params(labelleft=False)
        if number == len(costs) - 1:
            note = "bars: standard deviation; blue: level with the best within noise"
            axes.annotate(note, (1, 1), (0, 8), "axes fraction", "offset points", fontsize=8.5, color=DARK, ha="right")
        names = [score.name for score in comparison.scores]
        _write_names(axes, (width, height), cost, mean, std, names, [colours[group] for group in groups])
    return figure


def _write_names(
    axes: Any,
    inches: tuple[float, float],
    x: np.ndarray,
    y: np.ndarray,
    spread: np.ndarray,
    names: Sequence[str],
    colours: Sequence[str],
) -> None:
    """Each name near its point, where it covers least of points, bars and other names; a thin line if it is far off."""
    from matplotlib.textpath import TextPath

    page = 72 * np.array(inches)  # 1/72 inch, as letters
    low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
    at = (np.stack([x, y], 1) - low) / (high - low) * page
    half = np.stack([np.full(len(at), 5.0), np.maximum(spread / (high - low)[1] * page[1], 5)], 1)
    boxes = list(zip(at - half, at + half))  # of points with their bars, then of names
    upright = half * [0, 1]
    lines = list(zip(at - upright, at + upright))  # not to be crossed
    crowded = np.exp(-(((at[:, None] - at) / 60) ** 2).sum(2)).sum(1)
    for i in np.argsort(-crowded, kind="stable"):  # while there is room
        size = np.array([TextPath((0, 0), names[i], size=LETTERS).get_extents().width + 3, 1.25 * LETTERS])
        least, best = np.inf, (at[i], 0)
        for radius in (9, 16, 26, 38, 52, 70, 90):
            if least <= radius:  # further off is dearer
                break
            for angle in np.deg2rad(np.arange(0, 360, 15)):
                towards = np.array([np.cos(angle), np.sin(angle)])
                center = at[i] + towards * (radius + size / 2 * np.abs(towards))
                outside = np.maximum(size / 2 - center, 0).sum() + np.maximum(center + size / 2 - page, 0).sum()
                covered = sum(_overlap((center - size / 2, center + size / 2), other) for other in boxes)
                own = _lines(at[i], center, size, radius)
                crossed = sum(_cross(a, b) for a in own for n, b in enumerate(lines) if n != i)
                price = radius + 4 * (1 - towards[0]) + 100 * outside + covered + 25 * crossed
                if price < least:
                    least, best = price, (center, radius)
        center, radius = best
        boxes.append((center - size / 2, center + size / 2))
        lines += _lines(at[i], center, size, radius)
        pointer = {"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkB": 4}
        axes.annotate(
            names[i], (x[i], y[i]), low + center / page * (high - low), textcoords="data", ha="center", va="center",
            fontsize=LETTERS, color=colours[i], zorder=4, arrowprops=pointer if radius > NEAR else None,
        )  # fmt: skip


def _lines(point: np.ndarray, center: np.ndarray, size: np.ndarray, radius: float) -> list[Line]:
    """What of a name other lines should not cross: its diagonals, and the line to its point."""
    rising, falling = size / 2, size * [0.5, -0.5]
    diagonals = [(center - rising, center + rising), (center - falling, center + falling)]
    return [*diagonals, (point, center)] if radius > NEAR else diagonals


def _overlap(box: Line, other: Line) -> float:
    """The price of two boxes over one another: the more, the further they would have to be moved apart."""
    apart = float((np.minimum(box[1], other[1]) - np.maximum(box[0], other[0])).min())
    return 40 + 8 * apart if apart > 0 else 0


def _cross(one: Line, other: Line) -> bool:
    """Whether two lines meet."""
    (a, b), (c, d) = one, other

    def turn(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> float:
        return float((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    return turn(a, b, c) * turn(a, b, d) < 0 and turn(c, d, a) * turn(c, d, b) < 0
