"""Figures of detection scores that need no camera: recall over distance, average precision of several detectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from pctransformer.evaluation.detection_score import DetectionScore, RecallByDistance, band_name
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


def average_precision_figure(
    scores: Mapping[str, DetectionScore], *, title: str = "Average precision, without a camera"
) -> Figure:
    """Average precision of several detectors by class and criterion: that of nuScenes by distance, R40 by overlap.

    Args:
        scores: of `evaluate_detection`, by the name that each gets; of the same classes and criteria.
        title: of the figure.

    Raises:
        ValueError: there are none, or their classes or criteria differ.
    """
    if not scores:
        raise ValueError("there is no score to draw")
    first, *others = scores.values()
    for other in others:
        if (other.class_names, other.criteria) != (first.class_names, first.criteria):
            raise ValueError("scores in one figure must be of the same classes and criteria")
    names, criteria = first.class_names, first.criteria
    width, height, gap = max(0.75 * len(criteria), 0.32 * len(criteria) * len(scores), 5.0), 1.65, 0.85
    legend = _LINE * len(scores)
    figure = new_figure(width + 1.0, len(names) * (height + gap) + legend + 0.9)
    top = len(names) * (height + gap) + legend + 0.75
    subtitle = "percent; by distance of centres as nuScenes has it, by overlap R40"
    heading(figure, 0.3, top, title, subtitle)
    for row, name in enumerate(scores):
        score = scores[name]
        text = f"{name}   mAP {_text(score.mean_average_precision)}" if criteria[0].kind == "distance" else name
        _line(figure, top - 0.62 - _LINE * row, text, MANY[row % len(MANY)])
    bar = 0.8 / len(scores)
    x = np.arange(len(criteria))
    for number, class_name in enumerate(names):
        axes = place(figure, 0.7, 0.4 + (len(names) - 1 - number) * (height + gap), width, height)
        bare(axes)
        count = first.curve(class_name, criteria[0].name).count
        axes.set_title(f"{class_name}, {count} objects", loc="left", fontsize=11, fontweight="bold")
        for row, score in enumerate(scores.values()):
            curves = [score.curve(class_name, criterion.name) for criterion in criteria]
            shares = [curve.nuscenes if curve.criterion.kind == "distance" else curve.r40 for curve in curves]
            beside = x + bar * (row - (len(scores) - 1) / 2)
            axes.bar(beside, 100 * np.nan_to_num(shares), width=0.9 * bar, color=MANY[row % len(MANY)])
            for place_, share in zip(beside, shares):
                height_ = 0 if math.isnan(share) else 100 * share
                axes.annotate(
                    _text(share), (place_, height_), (0, 2), textcoords="offset points", ha="center", fontsize=7.5
                )
        axes.set(ylim=(0, 112), xlim=(-0.6, len(criteria) - 0.4), xticks=x, yticks=[0, 50, 100])
        axes.set_xticklabels([criterion.name for criterion in criteria])
    return figure


def _interval(found: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of Wilson's 95 % interval of a share."""
    share, spread = found / counts, _SURE**2 / counts
    middle = (share + spread / 2) / (1 + spread)
    half = _SURE * np.sqrt(share * (1 - share) / counts + spread / (4 * counts)) / (1 + spread)
    return middle - half, middle + half


def _text(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.0f}"


def _line(figure: Any, top: float, text: str, colour: str) -> None:
    across, up = figure.get_size_inches()
    figure.text(0.3 / across, top / up, text, fontsize=10, color=colour, va="top")
