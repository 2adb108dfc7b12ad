"""Figures about detection: a scan seen from above with labelled and predicted boxes, and precision over recall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pctransformer.evaluation.kitti import DIFFICULTIES, RECALL_STEPS, KittiScore, Metric
from pctransformer.visualization.style import (
    BLUE,
    DARK,
    GREY,
    MANY,
    MIDDLE,
    ORANGE,
    bare,
    heading,
    new_figure,
    place,
    text_width,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRUE = "#2e8b57"
"""Of labelled boxes, whatever their class is."""
_CLASS_COLOURS = tuple(MANY[i] for i in (1, 0, 5, 6, 4, 8))  # none is green
_DIFFICULTY_COLOURS = (BLUE, ORANGE, DARK)
_METRIC_NAMES = {"bbox": "boxes in the image", "bev": "seen from above", "3d": "boxes in space", "aos": "orientation"}


# ---- from above ------------------------------------------------------------------------------------------------------
def scan_figure(
    points: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    predicted: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    range: tuple[float, float, float, float] = (0.0, -40.0, 70.4, 40.0),
    title: str = "",
) -> Figure:
    """A scan seen from above: x forward points up, y points to the left.

    Labelled boxes are green, filled, ignored ones grey; predicted boxes have the colour of their class, and their
    score. A line from the centre through the front of each box is its heading.

    Args:
        points: (n, 3 or more); higher ones are darker.
        boxes, labels: (m, 7) and (m,) int of labelled objects, -1 ignored.
        class_names: of the labels.
        predicted: boxes (k, 7), labels (k,), scores (k,), drawn above the others, lowest score first.
        range: smallest x and y, largest x and y that are shown, metres.
        title: for instance the name of the frame.
    """
    low_x, low_y, high_x, high_y = range
    scale = 9 / max(high_x - low_x, high_y - low_y)  # inches per metre
    width, height = (high_y - low_y) * scale, (high_x - low_x) * scale
    figure = new_figure(max(width + 1.0, 5.6), height + 1.35)
    axes = place(figure, 0.65, 0.5, width, height)
    shown = points[
        (points[:, 0] >= low_x) & (points[:, 0] < high_x) & (points[:, 1] >= low_y) & (points[:, 1] < high_y), :3
    ]
    shown = shown[np.argsort(shown[:, 2])]
    axes.scatter(shown[:, 1], shown[:, 0], c=np.clip(shown[:, 2], -2, 1), cmap=height_colours(), s=0.9, linewidths=0)
    for box, label in zip(boxes, labels):
        _draw_box(axes, box, TRUE if label >= 0 else MIDDLE, fill=0.18, width=2.2)
    labelled = int((np.asarray(labels) >= 0).sum())
    counts = f"{len(shown)} points" + (f", {labelled} labelled boxes (green)" if len(boxes) else "")
    if predicted is not None:
        order = np.argsort(predicted[2], kind="stable")
        for box, label, score in zip(*(np.asarray(values)[order] for values in predicted)):
            colour = class_colour(int(label))
            corners = _draw_box(axes, box, colour, fill=0, width=1.3)
            if low_x <= box[0] < high_x and low_y <= box[1] < high_y:
                rightmost = corners[corners[:, 0].argmin()]
                axes.annotate(
                    f"{score:.2f}", rightmost, (3, -2), textcoords="offset points", fontsize=7.5, color=colour
                )
        counts += f", {len(predicted[2])} predicted: "
    axes.set(xlim=(high_y, low_y), ylim=(low_x, high_x), aspect="equal")
    axes.set_xlabel("y, metres to the left", fontsize=9, color=DARK)
    axes.set_ylabel("x, metres ahead", fontsize=9, color=DARK)
    bare(axes)
    top = height + 1.25
    heading(figure, 0.3, top, title or "seen from above", counts)
    if predicted is not None:
        class_legend(figure, 0.3, top - 0.55, class_names)
    return figure


def class_colour(label: int) -> str:
    """The same colour for a class in every picture."""
    return _CLASS_COLOURS[label % len(_CLASS_COLOURS)]


def height_colours() -> Any:
    """The colours of points seen from above, from low to high."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("height", (GREY, MIDDLE, "#30353c"))


def class_legend(figure: Figure, left: float, top: float, class_names: Sequence[str]) -> None:
    """The names of classes in their colours, in a row; `left` and `top` in inches from the lower left corner."""
    across, up = figure.get_size_inches()
    for i, name in enumerate(class_names):
        figure.text(left / across, top / up, name, fontsize=10, color=class_colour(i), va="top")
        left += text_width(name, 10) + 0.2


def _draw_box(axes: Any, box: np.ndarray, colour: str, *, fill: float, width: float) -> np.ndarray:
    """Returns the corners (4, 2) as y, x."""
    from matplotlib.patches import Polygon

    x, y, _, dx, dy, _, angle = (float(value) for value in box)
    cos, sin = np.cos(angle), np.sin(angle)
    local = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [dx / 2, dy / 2]
    corners = np.column_stack([x + cos * local[:, 0] - sin * local[:, 1], y + sin * local[:, 0] + cos * local[:, 1]])
    if fill:
        axes.add_patch(Polygon(corners[:, ::-1], facecolor=colour, alpha=fill, linewidth=0))
    axes.add_patch(Polygon(corners[:, ::-1], fill=False, edgecolor=colour, linewidth=width))
    front = dx / 2 + max(0.25 * dx, 0.4)
    axes.plot([y, y + sin * front], [x, x + cos * front], color=colour, linewidth=width, solid_capstyle="round")
    return corners[:, ::-1]


# ---- precision over recall -------------------------------------------------------------------------------------------
def precision_recall_figure(score: KittiScore, metric: Metric = "3d", *, overlap: str = "strict") -> Figure:
    """Precision over recall of each class, easy, moderate and hard, as the official averages see it.

    Every recall step of R40 is a dot, those of R11 are rings. The line ends where the official thresholds end: with n <
    41 labels at the n-th step, even if all of them are found.

    Args:
        score: of `evaluate_kitti`.
        metric: "bbox", "bev", "3d" or "aos".
        overlap: "strict" or "loose".

    Raises:
        ValueError: the score has no such curves.
    """
    names = [name for name in score.class_names if (name, metric, DIFFICULTIES[0], overlap) in score.curves]
    if not names:
        raise ValueError(f"the score has no curves of {metric!r}, {overlap!r}")
    width, height, gap = 3.5, 3.0, 0.9
    figure = new_figure(0.3 + len(names) * (width + gap), height + 2.75)
    what = "orientation similarity" if metric == "aos" else "precision"
    subtitle = f"{what} over recall; dots: the steps of R40, rings: those of R11"
    heading(figure, 0.3, height + 2.6, f"KITTI, {_METRIC_NAMES[metric]}", subtitle)
    recall = np.arange(RECALL_STEPS) / (RECALL_STEPS - 1)
    for i, name in enumerate(names):
        axes = place(figure, 0.7 + i * (width + gap), 0.55, width, height)
        bare(axes)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
        axes.set_xlabel("recall, as R40 counts it", fontsize=10, color=DARK)
        curves = [score.curves[name, metric, difficulty, overlap] for difficulty in DIFFICULTIES]
        axes.annotate(
            f"{name}, overlap > {curves[0].min_overlap:.2f}", (0, 1), (0, 62), "axes fraction", "offset points",
            fontsize=12, fontweight="bold",
        )  # fmt: skip
        for row, (curve, colour) in enumerate(zip(curves, _DIFFICULTY_COLOURS)):
            reached = len(curve.thresholds)
            axes.plot(recall[:reached], curve.precision[:reached], "o-", color=colour, markersize=2.5, linewidth=1.6)
            axes.plot(
                recall[:reached:4], curve.precision[:reached:4], "o", color=colour, markersize=6, markerfacecolor="none"
            )
            bound = f" of at most {curve.r40_bound:.1f}" if curve.r40_bound < 100 else ""
            text = f"{curve.difficulty}  R40 {curve.r40:.2f}{bound}  R11 {curve.r11:.2f}  n = {curve.count}"
            axes.annotate(text, (0, 1), (0, 42 - 14 * row), "axes fraction", "offset points", fontsize=9, color=colour)
    return figure
