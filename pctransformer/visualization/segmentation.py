"""Figures about parts: how good each class is, shapes with true and predicted parts, one prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pctransformer.datasets.samples import CloudDataset
from pctransformer.evaluation.segmentation import PartEvaluation, PartScore, parts_of_classes
from pctransformer.visualization.clouds import Up, draw_colors
from pctransformer.visualization.style import BLUE, DARK, GREY, MANY, ORANGE, bare, heading, new_figure, place

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def part_colors(parts: Tensor | np.ndarray, own: Sequence[int]) -> np.ndarray:
    """(n, 3) red, green, blue in [0, 1] for parts (n,): the parts of a class get colours in the order they have in it.

    Args:
        parts: of each point; what is not among `own` becomes grey.
        own: the parts that the class has. After nine parts colours begin again.
    """
    from matplotlib.colors import to_rgb

    colors = np.tile(to_rgb(GREY), (len(parts), 1))
    for place_in_class, part in enumerate(own):
        colors[np.asarray(parts) == part] = to_rgb(_color(place_in_class))
    return colors


def _color(place_in_class: int) -> str:
    return MANY[place_in_class % len(MANY)]


def _name_parts(axes: Any, names: Sequence[tuple[str, str]], size: float, down: float) -> None:
    """Names of parts, each in its colour, one after the other, centred below axes."""
    from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea

    texts = [TextArea(name, textprops={"fontsize": size, "color": color}) for name, color in names]
    row = HPacker(children=[*texts], pad=0, sep=0.55 * size)
    box = AnchoredOffsetbox(
        "upper center", child=row, frameon=False, pad=0, borderpad=0,
        bbox_to_anchor=(0.5, -down / (72 * axes.get_position().height * axes.figure.get_figheight())),
        bbox_transform=axes.transAxes,
    )  # fmt: skip
    box.set_clip_on(False)
    axes.add_artist(box)


def _short(part_name: str) -> str:
    """What a part is called within its class: "leg" of "chair/leg"."""
    return part_name.rpartition("/")[2]


# ---- how good --------------------------------------------------------------------------------------------------------
def class_figure(score: PartScore) -> Figure:
    """The mean IoU of each class as a bar, the best first, and the mean of all shapes as a line."""
    iou, counts = score.per_class_iou.numpy(), score.class_counts.tolist()
    rows = [int(row) for row in np.argsort(-iou, kind="stable") if counts[row]]
    height, left = 0.3 * max(len(rows), 1), 0.25 + 0.095 * max((len(score.class_names[row]) for row in rows), default=1)
    figure = new_figure(max(left + 5.2, 6.6), height + 1.45)
    means = f"instance mIoU {_percent(score.instance_mean_iou)}   class mIoU {_percent(score.class_mean_iou)}"
    text = f"IoU of each class (and its shapes, {score.count} in all); the line is the mean of shapes"
    heading(figure, 0.25, height + 1.25, means, text)
    axes = place(figure, left, 0.35, 4.0, height)
    bare(axes)
    axes.barh(range(len(rows)), 100 * iou[rows], height=0.62, color=BLUE)
    axes.axvline(100 * score.instance_mean_iou, color=ORANGE, linewidth=1.4)
    for place_of_row, row in enumerate(rows):
        axes.annotate(
            f"{100 * iou[row]:.1f} %  ({counts[row]})", (100, place_of_row), (6, 0), textcoords="offset points",
            va="center", fontsize=9, color=DARK, annotation_clip=False,
        )  # fmt: skip
    axes.set(xlim=(0, 100), ylim=(max(len(rows), 1) - 0.5, -0.5))
    axes.set_yticks(range(len(rows)), [score.class_names[row] for row in rows], fontsize=10, color="black")
    return figure


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.1f} %"


# ---- shapes ----------------------------------------------------------------------------------------------------------
def median_shapes(score: PartScore) -> list[int]:
    """For each class that has shapes the one whose IoU is the median of its class, the lower one of two."""
    chosen = []
    for label in range(len(score.class_names)):
        rows = (score.categories == label).nonzero().flatten()
        if len(rows):
            chosen.append(int(rows[score.ious[rows].argsort(stable=True)[(len(rows) - 1) // 2]]))
    return chosen


def part_gallery(samples: CloudDataset, evaluation: PartEvaluation, *, columns: int = 7) -> Figure:
    """Of each class the shape of median IoU: its true parts, the predicted ones, and in red the points that are wrong.

    Points without a label are grey in the first row and count as right in the last.

    Args:
        samples: labelled, with `part_names`; only those that are shown are fetched.
        evaluation: of these samples.
        columns: shapes side by side.

    Raises:
        ValueError: samples and evaluation differ in number.
    """
    from matplotlib.colors import to_rgb

    if len(samples) != evaluation.score.count:
        raise ValueError(f"there are {len(samples)} samples, but an evaluation of {evaluation.score.count}")
    parts = parts_of_classes(samples.class_names, samples.part_names)
    shown = median_shapes(evaluation.score)
    columns = max(min(columns, len(shown)), 1)
    bands = -(-len(shown) // columns)
    side, gap, left, words = 1.5, 0.08, 1.05, 0.75
    band = 3 * (side + gap) + words
    figure = new_figure(max(left + columns * (side + gap) + 0.15, 7.6), bands * band + 1.0)
    width, up_edge = figure.get_size_inches()
    title = f"parts, instance mIoU {_percent(evaluation.score.instance_mean_iou)}"
    text = "of each class the shape of median IoU; parts have the colours of their names, errors are red"
    heading(figure, 0.25, up_edge - 0.2, title, text)
    for number, i in enumerate(shown):
        band_number, column = divmod(number, columns)
        top = up_edge - 0.9 - band_number * band
        sample, predicted, own = samples[i], evaluation.predicted[i], parts[int(evaluation.score.categories[i])]
        assert sample.point_labels is not None
        wrong = (sample.point_labels >= 0) & (sample.point_labels != predicted)
        for row, title in enumerate(("true", "predicted", "errors")):
            bottom = top - (row + 1) * (side + gap)
            axes = place(figure, left + column * (side + gap) + 0.06, bottom + 0.06, side - 0.12, side - 0.12)
            colors = {
                "true": part_colors(sample.point_labels, own),
                "predicted": part_colors(predicted, own),
                "errors": np.where(wrong[:, None], to_rgb(ORANGE), to_rgb(GREY)),
            }
            draw_colors(axes, sample.xyz, colors[title], up=samples.up)
            if not column:
                figure.text(0.25 / width, (bottom + side / 2) / up_edge, title, fontsize=11, va="center")
        axes.annotate(
            f"{samples.class_names[sample.label]}  {100 * evaluation.score.ious[i]:.0f} %", (0.5, 0), (0, -6),
            "axes fraction", "offset points", ha="center", va="top", fontsize=10, annotation_clip=False,
        )  # fmt: skip
        names = [(_short(samples.part_names[part]), _color(i)) for i, part in enumerate(own)]
        length = sum(len(name) for name, _ in names)
        half = -(-len(names) // 2) if length > 22 else len(names)  # two lines where one is too narrow
        for line, some in enumerate((names[:half], names[half:])):
            _name_parts(axes, some, 7.5, 22 + 11 * line)
    return figure


def part_figure(
    xyz: Tensor | np.ndarray, parts: np.ndarray, own: Sequence[int], part_names: Sequence[str], title: str, *,
    up: Up = "z",
) -> Figure:  # fmt: skip
    """A cloud coloured by parts, and beside it what they are called and how many points each has.

    Args:
        xyz: (n, 3).
        parts: (n,) part of each point.
        own: the parts that the object's class has.
        part_names: names that parts index.
        title: for instance the name of the file.
        up: see `draw_cloud`.
    """
    figure = new_figure(9, 5.4)
    draw_colors(place(figure, 0.5, 0.3, 4.4, 4.4), xyz, part_colors(parts, own), up=up)
    heading(figure, 0.3, 5.2, title, f"{len(xyz)} points")
    height = 0.46 * len(own)
    axes = place(figure, 6.2, 2.5 - height / 2, 2.0, height)
    bare(axes)
    axes.grid(visible=False)
    shares = [100 * float((np.asarray(parts) == part).mean()) for part in own]
    axes.barh(range(len(own)), shares, height=0.62, color=[_color(i) for i in range(len(own))])
    for row, share in enumerate(shares):
        axes.annotate(f"{share:.1f} %", (share, row), (5, 0), textcoords="offset points", va="center", color=DARK)
    axes.set(xlim=(0, 100), xticks=[])
    axes.set_yticks(range(len(own)), [_short(part_names[part]) for part in own], fontsize=11, color="black")
    axes.invert_yaxis()
    return figure
