"""Figures about classifiers: confusion matrix, training curves, gallery of errors, one prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pctransformer.datasets.samples import CloudDataset, Sample
from pctransformer.evaluation.classification import ClassificationScore
from pctransformer.visualization.clouds import Up, draw_cloud
from pctransformer.visualization.style import BLUE, DARK, FAINT, GREY, MIDDLE, ORANGE, bare, heading, new_figure, place

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# ---- confusion matrix ------------------------------------------------------------------------------------------------
def confusion_figure(score: ClassificationScore) -> Figure:
    """A confusion matrix: rows are true classes, columns predicted ones, numbers are samples.

    Colour is the share of the row: blue on the diagonal, orange beside it, where a small share counts for more. On the
    right the accuracy of each class. Numbers are left out where cells are too small for them, beyond some 120 classes.
    """
    names, counts = score.class_names, score.confusion.numpy()
    classes = len(names)
    side = min(max(0.5 * classes, 3), 10)  # of the matrix, inches
    cell = 72 * side / max(classes, 1)  # 1/72 inch, as sizes of letters
    letters = min(10.0, 0.62 * cell)
    margin = max((len(name) for name in names), default=1) * 0.6 * letters / 72 + 0.45  # for the names
    upright = classes > 12  # names below columns
    left, bottom = margin, margin if upright else 0.72 * margin + 0.15
    figure = new_figure(max(left + side + 0.85, 5.2), bottom + side + 1.05)
    text = f"{score.count} samples of {classes} classes; accuracy of each class on the right"
    title = f"OA {_percent(score.overall_accuracy)}   mAcc {_percent(score.mean_class_accuracy)}"
    heading(figure, 0.15, bottom + side + 0.9, title, text)

    axes = place(figure, left, bottom, side, side)
    axes.imshow(_cell_colours(counts), aspect="auto", interpolation="nearest")
    for t, p in np.argwhere(counts) if letters >= 3.5 else ():
        share = counts[t, p] / counts[t].sum()
        dark = share > (0.45 if t == p else 0.3)
        size = min(letters, 1.25 * cell / len(str(counts[t, p])))
        axes.text(p, t, counts[t, p], ha="center", va="center", fontsize=size, color="white" if dark else "#30353c")
    for t, accuracy in enumerate(score.per_class_accuracy.tolist()):
        axes.annotate(
            _percent(accuracy), (classes - 0.5, t), (5 * letters, 0), textcoords="offset points",
            ha="right", va="center", fontsize=letters, color=DARK, annotation_clip=False,
        )  # fmt: skip
    axes.set_xticks(range(classes), names, rotation=90 if upright else 45, rotation_mode="anchor")
    for label in axes.get_xticklabels():
        label.set(ha="right", va="center" if upright else "top")
    axes.set_yticks(range(classes), names, va="center")
    axes.set_xticks(np.arange(1, classes) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, classes) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=min(1.5, 0.05 * cell))
    axes.tick_params(which="both", length=0, labelsize=letters)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted", fontsize=10, color=DARK)
    axes.set_ylabel("true", fontsize=10, color=DARK)
    return figure


def _cell_colours(counts: np.ndarray) -> np.ndarray:
    """(C, C, 3) from the share of each row: to blue on the diagonal, to orange by its square root elsewhere."""
    from matplotlib.colors import to_rgb

    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    diagonal = np.eye(len(counts), dtype=bool)
    strength = np.where(diagonal, share, np.sqrt(share))[..., None]
    full = np.where(diagonal[..., None], to_rgb("#2b5a9e"), to_rgb(ORANGE))
    return np.array(to_rgb(FAINT)) * (1 - strength) + full * strength


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.1f} %"


# ---- training --------------------------------------------------------------------------------------------------------
_PANELS = (
    ("loss", (("train_loss", "training", MIDDLE), ("validation_loss", "validation", BLUE))),
    (
        "accuracy, %",
        (
            ("train_accuracy", "training", MIDDLE),
            ("validation_accuracy", "validation", BLUE),
            ("validation_oa", "validation OA", BLUE),
            ("validation_macc", "validation mAcc", ORANGE),
        ),
    ),
    (
        "validation mIoU, %",
        (
            ("validation_miou", "of all points", BLUE),
            ("validation_instance_miou", "instance", BLUE),
            ("validation_class_miou", "class", ORANGE),
        ),
    ),
    (
        "validation AP",
        (("validation_ap_bev", "seen from above", BLUE), ("validation_ap_3d", "in space", ORANGE)),
    ),
    ("learning rate", (("lr", "", DARK),)),
)
"""Title of each panel, and key, name and colour of its curves."""


def training_figure(rows: Sequence[Mapping[str, Any]], chosen: int | None = None) -> Figure:
    """Loss, accuracy, mean IoU and learning rate over epochs.

    Args:
        rows: one mapping per epoch with any of epoch, train_loss, train_accuracy, validation_loss, validation_accuracy,
            validation_oa, validation_macc, validation_miou, validation_instance_miou, validation_class_miou,
            validation_ap_bev, validation_ap_3d, lr; accuracies and IoUs are shares of 1, average precisions percent. A
            row without `epoch` counts from 0. What is missing, None or not finite is left out, and so is a panel
            without any value.
        chosen: the epoch whose weights were kept, which is marked.
    """
    curves = {key: _curve(rows, key) for _, lines in _PANELS for key, _, _ in lines}
    panels = [panel for panel in _PANELS if any(len(curves[key]) for key, _, _ in panel[1])]
    width, height, gap = 3.6, 2.7 if panels else -1.2, 0.95
    figure = new_figure(max(0.3 + len(panels) * (width + gap), 5.6), height + 2.1)
    heading(figure, 0.3, height + 1.93, "training", _summary(rows, chosen))
    epochs = sorted(row.get("epoch", i) for i, row in enumerate(rows))
    beside = 0.03 * (epochs[-1] - epochs[0]) or 1 if epochs else 1
    for i, (title, lines) in enumerate(panels):
        axes = place(figure, 0.85 + i * (width + gap), 0.6, width, height)
        bare(axes)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("epoch", fontsize=10, color=DARK)
        axes.set_xlim(epochs[0] - beside, epochs[-1] + beside)
        axes.annotate(title, (0, 1), (0, 30), "axes fraction", "offset points", fontsize=12, fontweight="bold")
        word = axes.annotate("", (0, 1), (0, 12), "axes fraction", "offset points", fontsize=10)
        if chosen is not None:
            axes.axvline(chosen, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        for key, name, colour in lines:
            if not len(curves[key]):
                continue
            epoch, value = curves[key].T
            value = value * (100 if title.endswith("%") else 1)
            axes.plot(epoch, value, color=colour, linewidth=1.8, marker="o" if len(epoch) == 1 else "", clip_on=False)
            at = epoch == chosen
            if at.any() and not key.startswith("train"):
                axes.plot(epoch[at], value[at], "o", color=colour, markersize=7, markeredgecolor="white", clip_on=False)
            word = axes.annotate(f"{name}   ", (1, 0), xycoords=word, fontsize=10, color=colour, va="bottom")
    return figure


def _number(row: Mapping[str, Any], key: str) -> float:
    value = row.get(key)
    return float("nan") if value is None else float(value)


def _curve(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """(m, 2) epoch and value of those rows that have a finite value."""
    points = [(row.get("epoch", i), _number(row, key)) for i, row in enumerate(rows)]
    return np.array([point for point in points if np.isfinite(point[1])]).reshape(-1, 2)


def _summary(rows: Sequence[Mapping[str, Any]], chosen: int | None) -> str:
    text = f"{len(rows)} epoch{'s' if len(rows) != 1 else ''}"
    kept = next((row for i, row in enumerate(rows) if row.get("epoch", i) == chosen), None)
    if kept is None:
        return text
    names = {
        "validation_miou": "mIoU", "validation_oa": "OA", "validation_macc": "mAcc",
        "validation_instance_miou": "instance mIoU",
        "validation_class_miou": "class mIoU",
        "validation_ap_bev": "AP from above", "validation_ap_3d": "AP in space", "validation_loss": "loss",
    }  # fmt: skip
    shares = [key for key in names if not key.startswith("validation_ap_") and key != "validation_loss"]
    values = [
        f"{name} {_percent(value) if key in shares else f'{value:#.3g}'}"
        for key, name in names.items()
        if np.isfinite(value := _number(kept, key))
    ]
    return f"{text}; kept epoch {chosen}{': ' if values else ''}{', '.join(values)}"


# ---- clouds ----------------------------------------------------------------------------------------------------------
def error_gallery(
    samples: CloudDataset | Sequence[Sample],
    true: Tensor | Sequence[int],
    predicted: Tensor | Sequence[int],
    confidence: Tensor | Sequence[float],
    class_names: Sequence[str],
    *,
    limit: int = 24,
    up: Up = "z",
) -> Figure:
    """The samples that are classified wrongly, the most confident first: true class, predicted class, its probability.

    Args:
        samples: all n samples, right ones too; only those that are shown are fetched.
        true, predicted: (n,) classes.
        confidence: (n,) probability of the predicted class.
        class_names: names that the classes index.
        limit: clouds shown at most.
        up: see `draw_cloud`.

    Raises:
        ValueError: the arguments differ in length.
    """
    counts = [len(samples), len(true), len(predicted), len(confidence)]
    if len(set(counts)) != 1:
        raise ValueError(
            f"samples, true, predicted and confidence must have one value for each sample, they have {counts}"
        )
    true, predicted, confidence = (torch.as_tensor(values) for values in (true, predicted, confidence))
    wrong = (predicted != true).nonzero().flatten()
    wrong = wrong[confidence[wrong].argsort(descending=True, stable=True)]
    shown = wrong[:limit].tolist()
    columns = max(min(len(shown), 6), 1)
    rows = -(-len(shown) // columns)
    cell, label = 2.1, 0.68
    figure = new_figure(max(columns * cell + 0.3, 5.6), rows * (cell + label) + 1.0)
    up_edge = figure.get_figheight()
    which = "most confident first" if len(shown) == len(wrong) else f"the {len(shown)} most confident"
    subtitle = f"{which}: true class, predicted class and its probability" if shown else ""
    title = f"{len(wrong)} of {len(samples)} wrong" if len(wrong) else f"all {len(samples)} right"
    heading(figure, 0.25, up_edge - 0.2, title, subtitle)
    for cell_number, i in enumerate(shown):
        row, column = divmod(cell_number, columns)
        left, bottom = 0.15 + column * cell, up_edge - 0.95 - row * (cell + label) - cell
        axes = place(figure, left + 0.15, bottom + 0.1, cell - 0.3, cell - 0.3)
        sample = samples[i]
        draw_cloud(axes, sample.xyz, up=up)
        lines = (
            (class_names[int(true[i])], 10, "black"),
            (f"\u2192 {class_names[int(predicted[i])]}  {100 * float(confidence[i]):.0f} %", 10, ORANGE),
            (sample.name if len(sample.name) <= 28 else f"...{sample.name[-25:]}", 7.5, DARK),
        )
        for line, (text, size, colour) in enumerate(lines):
            axes.annotate(
                text, (0.5, 0), (0, -6 - 14 * line), "axes fraction", "offset points",
                ha="center", va="top", fontsize=size, color=colour, annotation_clip=False,
            )  # fmt: skip
    return figure


def prediction_figure(
    xyz: Tensor | np.ndarray, labels_and_probabilities: Sequence[tuple[str, float]], title: str, *, up: Up = "z"
) -> Figure:
    """A cloud, and beside it the classes that a model finds most probable.

    Args:
        xyz: (n, 3).
        labels_and_probabilities: class names with probabilities, in any order; the eight highest are shown.
        title: for instance the name of the file.
        up: see `draw_cloud`.

    Raises:
        ValueError: there are no classes.
    """
    if not labels_and_probabilities:
        raise ValueError("labels_and_probabilities must hold at least one class")
    top = sorted(labels_and_probabilities, key=lambda pair: -pair[1])[:8]
    figure = new_figure(10, 5.4)
    draw_cloud(place(figure, 0.5, 0.3, 4.4, 4.4), xyz, up=up)
    heading(figure, 0.3, 5.2, title, f"{len(xyz)} points")
    height = 0.46 * len(top)
    axes = place(figure, 6.6, 2.5 - height / 2, 2.5, height)
    bare(axes)
    axes.grid(visible=False)
    shares = [100 * probability for _, probability in top]
    axes.barh(range(len(top)), shares, height=0.62, color=[BLUE, *[GREY] * len(top)][: len(top)])
    for row, share in enumerate(shares):
        axes.annotate(f"{share:.1f} %", (share, row), (5, 0), textcoords="offset points", va="center", color=DARK)
    axes.set(xlim=(0, 100), xticks=[])
    axes.set_yticks(range(len(top)), [name for name, _ in top], fontsize=11, color="black")
    axes.invert_yaxis()
    return figure
