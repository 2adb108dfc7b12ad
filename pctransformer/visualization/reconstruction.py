"""Figure of pretraining: clouds, what a model saw of them, and what it made up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from pctransformer.visualization.clouds import Up, draw_cloud
from pctransformer.visualization.style import DARK, heading, new_figure, place

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reconstruction_figure(
    clouds: Sequence[Tensor],
    visible: Sequence[Tensor],
    made_up: Sequence[Tensor],
    names: Sequence[str],
    *,
    up: Up = "z",
) -> Figure:
    """One column for each cloud: the cloud, the points that the model saw, and these with what it made up beside.

    The row of visible points is left out where nothing is visible as a whole, as in autoregressive models, which make
    up every patch from the true ones before it.

    Args:
        clouds: (n, 3) each; at least one.
        visible: (v, 3) each, points that were seen.
        made_up: (m, 3) each, points that were made up, where they belong in the cloud.
        names: of the clouds.
        up: see `draw_cloud`.

    Raises:
        ValueError: the arguments differ in length, or are empty.
    """
    counts = [len(clouds), len(visible), len(made_up), len(names)]
    if len(set(counts)) != 1 or not clouds:
        raise ValueError(f"clouds, visible, made_up and names must have one value for each cloud, they have {counts}")
    masked = any(map(len, visible))
    rows = ["input", *(["visible"] if masked else []), "made up"]
    side, gap, left = 1.9, 0.15, 1.1
    width, height = max(left + len(clouds) * (side + gap) + 0.15, 5.6), len(rows) * (side + gap) + 1.35
    figure = new_figure(width, height)
    share = sum(map(len, made_up)) / max(sum(map(len, made_up)) + sum(map(len, visible)), 1)
    what = f"{100 * share:.0f} % of the patches were hidden; what the model made up for them is red"
    if not masked:
        what = "each part is made up, in red, from the true ones before it"
    heading(figure, 0.25, height - 0.2, "reconstruction", what)
    for row, title in enumerate(rows):
        bottom = height - 0.9 - (row + 1) * (side + gap)
        figure.text(0.25 / width, (bottom + side / 2) / height, title, fontsize=12, va="center")
        for column, cloud in enumerate(clouds):
            axes = place(figure, left + column * (side + gap) + 0.1, bottom + 0.1, side - 0.2, side - 0.2)
            of_row = {"input": cloud, "visible": visible[column], "made up": visible[column]}
            draw_cloud(
                axes, of_row[title], marked=made_up[column] if title == "made up" else None, like=cloud, up=up
            )  # fmt: skip
            if row == len(rows) - 1:
                name = names[column]
                axes.annotate(
                    name if len(name) <= 26 else f"...{name[-23:]}", (0.5, 0), (0, -8), "axes fraction",
                    "offset points", ha="center", va="top", fontsize=8, color=DARK, annotation_clip=False,
                )  # fmt: skip
    return figure
