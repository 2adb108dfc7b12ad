"""Figures about robustness: errors under corruptions as a heat map, and what the corruptions look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pctransformer.datasets.corruptions import CORRUPTIONS, SEVERITIES, corruption
from pctransformer.datasets.samples import Sample, generator_for
from pctransformer.evaluation.robustness import Robustness
from pctransformer.visualization.clouds import Up, draw_cloud
from pctransformer.visualization.style import DARK, FAINT, HEAT, heading, new_figure, place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WORDS = [name.replace("_", " ") for name in CORRUPTIONS]


# ---- errors ----------------------------------------------------------------------------------------------------------
def robustness_figure(results: Mapping[str, Robustness]) -> Figure:
    """Errors under corruptions as a heat map, in percent of the samples.

    One model: rows are corruptions, columns severities, then their mean. Several: rows are models, columns clean
    clouds, corruptions (mean over severities), then the mean of those.

    Args:
        results: name of each model to its errors, at least one.

    Raises:
        ValueError: there are no results.
    """
    if not results:
        raise ValueError("results must hold at least one model")
    if len(results) > 1:
        rows = [
            [found.clean_error, *found.mean_errors.tolist(), 1 - found.mean_overall_accuracy]
            for found in results.values()
        ]
        counts = {found.count for found in results.values()}
        subtitle = f"% of {' or '.join(map(str, sorted(counts)))} shapes that are wrong, mean over five severities"
        columns = ["clean", *(words.replace(" ", "\n") for words in _WORDS), "mean"]
        return _heat_map(rows, [_short(name) for name in results], columns, "errors under corruptions", subtitle)
    ((name, found),) = results.items()
    errors = found.errors.numpy()
    rows = np.column_stack([errors, errors.mean(1)]).tolist()
    subtitle = f"% of {found.count} shapes that are wrong, by severity; clean {100 * found.clean_error:.1f} %"
    return _heat_map(rows, _WORDS, [*map(str, SEVERITIES), "mean"], _short(name), subtitle)


def _short(name: str) -> str:
    """The end of a long path."""
    return name if len(name) <= 34 else f"...{name[-31:]}"


def _heat_map(
    errors: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], title: str, subtitle: str
) -> Figure:
    """Cells from white to orange; the last column, a mean, stands apart."""
    from matplotlib.colors import LinearSegmentedColormap

    wide, high, apart = 0.82, 0.42, 0.12  # of a cell, inches; before the mean
    left = 0.3 + 0.085 * max(map(len, rows))
    top = 1.1 if any("\n" in name for name in columns) else 0.95
    width, height = wide * len(columns), high * len(rows)
    figure = new_figure(max(left + width + apart + 0.3, 5.6), height + top + 0.2)
    heading(figure, 0.2, height + top + 0.07, title, subtitle)
    colours = LinearSegmentedColormap.from_list("error", (FAINT, *HEAT[1:]))
    values = np.array(errors)
    for first, last, shift in ((0, len(columns) - 1, 0.0), (len(columns) - 1, len(columns), apart)):
        axes = place(figure, left + first * wide + shift, 0.15, (last - first) * wide, height)
        part = values[:, first:last]
        axes.imshow(colours(part), aspect="auto", interpolation="nearest")
        for row, column in np.ndindex(*part.shape):
            share = part[row, column]
            colour = "white" if share > 0.55 else "#30353c"
            axes.text(column, row, f"{100 * share:.1f}", ha="center", va="center", fontsize=10, color=colour)
        axes.set_xticks(range(last - first), columns[first:last], fontsize=10)
        axes.set_yticks(range(len(rows)), rows if not first else [""] * len(rows), fontsize=10)
        axes.set_xticks(np.arange(1, last - first) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="both", length=0, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)
    return figure


# ---- clouds ----------------------------------------------------------------------------------------------------------
def corruption_gallery(sample: Sample, *, seed: int = 0, up: Up = "z") -> Figure:
    """One cloud under every corruption in every severity.

    Args:
        sample: clean, in the unit sphere.
        seed: of the corruptions; the first sample of a data set is drawn as tests with this seed see it.
        up: see `draw_cloud`.
    """
    cell, left, top = 1.7, 1.1, 1.15
    figure = new_figure(left + cell * len(SEVERITIES) + 0.2, top + cell * len(CORRUPTIONS) + 0.1)
    height = figure.get_figheight()
    title = f"{sample.name or 'a cloud'} under corruptions"
    heading(figure, 0.2, height - 0.15, title, f"{len(sample)} points; severities from left to right")
    for row, (name, words) in enumerate(zip(CORRUPTIONS, _WORDS)):
        bottom = height - top - (row + 1) * cell
        figure.text(0.2 / figure.get_figwidth(), (bottom + cell / 2) / height, words.replace(" ", "\n"), va="center")
        for column, severity in enumerate(SEVERITIES):
            axes = place(figure, left + column * cell + 0.1, bottom + 0.1, cell - 0.2, cell - 0.2)
            worse = corruption(name, severity)(sample, generator_for(seed, 0, 0))
            draw_cloud(axes, worse.xyz, up=up)
            if row == 0:
                at = (left + (column + 0.5) * cell) / figure.get_figwidth()
                figure.text(at, (height - top + 0.05) / height, str(severity), ha="center", color=DARK)
    return figure
