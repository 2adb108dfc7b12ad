"""A picture of what a model looked at: the cloud, coloured by weights of its points, all layers together and each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pctransformer.visualization.clouds import Up, draw_values
from pctransformer.visualization.color_scale import color_scale
from pctransformer.visualization.style import DARK, heading, new_figure, place

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def half_of_weight(weights: Tensor | np.ndarray) -> float:
    """The least share of points that have half of the weight together: 0.5 if all have the same, 0 without weight."""
    weights = np.asarray(weights.detach().cpu() if isinstance(weights, Tensor) else weights, dtype=np.float64)
    sums = np.sort(weights)[::-1].cumsum()
    if not sums[-1] > 0:
        return 0.0
    return float(np.searchsorted(sums, sums[-1] / 2) + 1) / len(weights)


def attention_figure(
    xyz: Tensor | np.ndarray,
    rolled_out: Tensor | np.ndarray,
    layers: Mapping[str, Tensor | np.ndarray],
    title: str,
    subtitle: str,
    *,
    ringed: int | None = None,
    up: Up = "z",
) -> Figure:
    """A large cloud with the weights of all layers together, and beside it a small one for each attention layer.

    Args:
        xyz: (n, 3), the points that the model saw.
        rolled_out: (n,) their weights, see `attention_rollout`.
        layers: name of each attention layer to its weights (n,), see `layer_attention`; there may be none.
        title: for instance the file and its class.
        subtitle: for instance from where the model looked.
        ringed: row of the point that it looked from.
        up: see `draw_cloud`.
    """
    large, small, gap = 4.4, 1.85, 0.42
    rows = 2 if len(layers) <= 16 else 3
    columns = -(-len(layers) // rows)
    height = max(large, rows * (small + gap)) + 0.3
    figure = new_figure(max(large + 0.8 + columns * small, 6.4), height + 0.85)
    heading(figure, 0.3, height + 0.7, title, subtitle)

    def cloud(weights: Tensor | np.ndarray, left: float, bottom: float, side: float, words: str, size: float) -> None:
        axes = place(figure, left + 0.08 * side, bottom + 0.08 * side, 0.84 * side, 0.84 * side)
        values = np.asarray(weights.detach().cpu() if isinstance(weights, Tensor) else weights)
        draw_values(axes, xyz, color_scale(values).places(values), ringed=ringed, up=up)
        across, upwards = figure.get_size_inches()
        half = half_of_weight(weights)
        text = f"{words}\n{f'half of it in {100 * half:.0f} % of the points' if half else 'takes nothing'}"
        at = (left + side / 2) / across, bottom / upwards
        figure.text(*at, text, ha="center", va="top", fontsize=size, color=DARK, linespacing=1.4)

    cloud(rolled_out, 0.3, height - large + 0.1, large, "all layers together", 10)
    for number, (name, weights) in enumerate(layers.items()):
        row, column = divmod(number, columns)
        bottom = height - (row + 1) * (small + gap) + gap
        short = name if len(name) <= 26 else f"...{name[-23:]}"
        cloud(weights, large + 0.6 + column * small, bottom, small, short, 7)
    return figure
