"""Figures of detection scores: recall over distance, average precision over the scans that trainings have seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from pctransformer.evaluation.detection_score import RecallByDistance, band_name
from pctransformer.visualization.style import DARK, GREY, MANY, bare, heading, new_figure, place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SURE = 1.96  # standard deviations of a normal distribution on either side of its middle 95 percent
_LINE = 0.22  # inches of a line of the legend


def recall_figure(recalls: Mapping[str, RecallByDistance], *, title: str = "Objects found, by distance") -> Figure:
    """The share of the objects that is found over their distance, of several detectors or overlaps; below, how many.

    A dot is the share in a bin; the line through it is the interval that holds the true share with 95 % (Wilson, 1927),
    wide where there are few objects. Bins without objects have none.

    Args:
        recalls: of `recall_by_distance`, by the name that each gets; with the same bins and objects.
        title: of the figure.

    Raises:
        ValueError: there are none, or their bins or objects differ.
    """
    if not recalls:
        raise ValueError("there is no recall to draw")
    first, *others = recalls.values()
    for other in others:
        if not (np.array_equal(other.edges, first.edges) and np.array_equal(other.counts, first.counts)):
            raise ValueError("recalls in one figure must be of the same bins and objects")
    bins = len(first.counts)
    width, height, below = max(0.95 * bins, 4.5), 3.3, 0.9
    legend = _LINE * len(recalls)
    figure = new_figure(width + 1.0, height + below + legend + 1.85)
    top = height + below + legend + 1.7
    heading(figure, 0.3, top, title, "dots: share of the objects; lines: its 95 % interval; below: objects")
    axes = place(figure, 0.7, below + 0.95, width, height)
    bare(axes)
    x = np.arange(bins)
    for row, (name, recall) in enumerate(recalls.items()):
        colour = MANY[row % len(MANY)]
        beside = x + 0.09 * (row - (len(recalls) - 1) / 2)
        share, there = 100 * recall.recall, recall.counts > 0
        low, high = _interval(recall.found[there], recall.counts[there])
        axes.vlines(beside[there], 100 * low, 100 * high, color=colour, linewidth=1.1, alpha=0.55)
        axes.plot(beside[there], share[there], "o-", color=colour, markersize=4.5, linewidth=1.6)
        total = recall.counts.sum()
        overall = f"{100 * recall.found.sum() / total:.1f} %" if total else "no objects"
        _line(figure, top - 0.62 - _LINE * row, f"{name}   all: {overall}", colour)
    axes.set(xlim=(-0.6, bins - 0.4), ylim=(-2, 102), xticks=x)
    axes.set_xticklabels([])
    axes.set_ylabel("found, %", fontsize=10, color=DARK)
    counts = place(figure, 0.7, 0.75, width, below)
    bare(counts)
    counts.grid(False)
    counts.bar(x, first.counts, width=0.62, color=GREY)
    for place_, count in zip(x, first.counts):
        counts.annotate(str(count), (place_, count), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    counts.set(xlim=(-0.6, bins - 0.4), ylim=(0, 1.35 * max(first.counts.max(), 1)), xticks=x, yticks=[])
    counts.set_xticklabels([band_name(low, high, "m").removesuffix(" m") for low, high in pairwise(first.edges)])
    counts.set_xlabel("distance from the sensor, m", fontsize=10, color=DARK)
    return figure


@dataclasses.dataclass(frozen=True, eq=False)
class Convergence:
    """How good a detector is on held-out scans, epoch by epoch.

    Attributes:
        scans: (E,) scans that it had been trained on by then, those that it saw again included.
        bev: (E,) average precision seen from above, percent.
        space: (E,) the same in space.
        kept: row of the epoch whose weights were kept; None: that is not known.
    """

    scans: np.ndarray
    bev: np.ndarray
    space: np.ndarray
    kept: int | None = None


def convergence_figure(curves: Mapping[str, Convergence], *, title: str = "Average precision while training") -> Figure:
    """Average precision on held-out scans over the scans that were seen, of several trainings: from above, in space.

    A larger dot is the epoch that was kept.

    Args:
        curves: by the name that each gets.
        title: of the figure.

    Raises:
        ValueError: there are none, or one has no epoch.
    """
    if not curves:
        raise ValueError("there is no training to draw")
    for name, curve in curves.items():
        if not len(curve.scans):
            raise ValueError(f"{name} has no epoch to draw")
    side, height, gap = 4.0, 3.3, 0.85
    legend = _LINE * len(curves)
    figure = new_figure(2 * side + gap + 1.1, height + legend + 2.0)
    top = height + legend + 1.85
    heading(figure, 0.3, top, title, "percent, on held-out scans, after each epoch; larger dots: the epoch kept")
    last = max(int(curve.scans[-1]) for curve in curves.values())
    best = max(float(np.nanmax([curve.bev, curve.space])) for curve in curves.values())
    for column, (view, attribute) in enumerate((("seen from above", "bev"), ("in space", "space"))):
        axes = place(figure, 0.75 + column * (side + gap), 0.75, side, height)
        bare(axes)
        axes.set_title(view, loc="left", fontsize=11, fontweight="bold")
        for row, curve in enumerate(curves.values()):
            colour, values = MANY[row % len(MANY)], getattr(curve, attribute)
            axes.plot(curve.scans, values, "o-", color=colour, markersize=3.5, linewidth=1.6, clip_on=False)
            if curve.kept is not None:
                axes.plot(
                    curve.scans[curve.kept], values[curve.kept], "o", color=colour, markersize=8,
                    markeredgecolor="white", clip_on=False,
                )  # fmt: skip
        axes.set(xlim=(0, 1.03 * last), ylim=(0, min(1.1 * best, 100) if best > 0 else 100))
        axes.set_xlabel("scans seen", fontsize=10, color=DARK)
    for row, (name, curve) in enumerate(curves.items()):
        shown = len(curve.scans) - 1 if curve.kept is None else curve.kept
        text = f"{name}   {curve.bev[shown]:.1f} from above, {curve.space[shown]:.1f} in space"
        _line(figure, top - 0.62 - _LINE * row, f"{text}, after {curve.scans[shown]} scans", MANY[row % len(MANY)])
    return figure


def _interval(found: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of Wilson's 95 % interval of a share."""
    share, spread = found / counts, _SURE**2 / counts
    middle = (share + spread / 2) / (1 + spread)
    half = _SURE * np.sqrt(share * (1 - share) / counts + spread / (4 * counts)) / (1 + spread)
    return middle - half, middle + half


def _line(figure: Any, top: float, text: str, colour: str) -> None:
    across, up = figure.get_size_inches()
    figure.text(0.3 / across, top / up, text, fontsize=10, color=colour, va="top")
