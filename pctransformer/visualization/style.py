"""Colours and titles that all pictures of the package share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAINT, GREY, MIDDLE, DARK, BLUE, ORANGE = "#f3f5f8", "#c9ced6", "#8a929e", "#5d6570", "#3b6fb6", "#e4572e"
DEPTH = ("#d9ecee", "#8fc7c9", "#2f7fa6", "#1d2f6f")
"""Far to near, lighter to darker, for points on a white page."""
MARKED_DEPTH = ("#fbe3d6", "#f5b08f", "#e4572e", "#8c2313")
"""The same for points that are to stand out among the others."""
HEAT = ("#e3e7ee", "#f6c9b2", ORANGE, "#8c2a12")
"""Little to much, paler to darker, for errors."""
# Hues that stay apart for colour-blind eyes (Paul Tol's bright and vibrant sets).
MANY = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee7733", "#009988", "#332288")


def new_figure(width: float, height: float) -> Figure:
    """A white figure of that many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white")


def place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Any:
    """Axes at a place given in inches from the lower left corner."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def heading(figure: Figure, left: float, top: float, title: str, subtitle: str = "", size: float = 15) -> None:
    """A bold title and a grey line below it; `left` and `top` in inches from the lower left corner."""
    across, up = figure.get_size_inches()
    figure.text(left / across, top / up, title, fontsize=size, fontweight="bold", va="top")
    figure.text(left / across, (top - size / 46) / up, subtitle, fontsize=0.72 * size, color=DARK, va="top")


def text_width(words: str, size: float) -> float:
    """Inches that words take in the usual font of `size` / 72 inches."""
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), words, size=size).get_extents().xmax) / 72


def bare(axes: Any) -> None:
    """Axes with a light grid and without a frame, for curves and bars."""
    axes.grid(color="#e8eaee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=10, labelcolor=DARK)
