"""What tests ask of any figure."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg


def texts(figure) -> list[str]:
    """All words of a figure that are not tick labels."""
    return [t.get_text() for t in (*figure.texts, *(t for axes in figure.axes for t in axes.texts)) if t.get_text()]


def check_page(figure) -> np.ndarray:
    """Draw a figure: nothing reaches over the edge of the page. Returns its pixels."""
    canvas = FigureCanvasAgg(figure)
    box = figure.get_tightbbox(canvas.get_renderer())  # inches
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= figure.get_figwidth()
    assert box.y1 <= figure.get_figheight()
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
