import numpy as np
import pytest

from pctransformer.visualization.clouds import draw_colors
from pctransformer.visualization.color_scale import place_colors
from pctransformer.visualization.style import new_figure, place


def test_values_stay_with_their_points():
    """Of points in a row, those that are hotter are on the right, also where points are left out; one is ringed."""
    xyz = np.stack([np.arange(6000.0), np.zeros(6000), np.zeros(6000)], 1)
    values = xyz[:, 0] / 6000
    xyz[7] = np.nan
    axes = place(new_figure(4, 4), 0, 0, 4, 4)
    draw_colors(axes, xyz, place_colors(values), ringed=3000)
    places, colours = np.asarray(axes.collections[0].get_offsets()), axes.collections[0].get_facecolors()[:, :3]
    assert len(places) == 4096
    order = np.argsort(places[:, 0])
    assert (np.diff(colours[order].sum(1)) <= 1e-9).all()
    assert colours[order[0]].sum() > colours[order[-1]].sum() + 1
    (ring,) = axes.lines
    assert ring.get_xdata()[0] == pytest.approx(np.median(places[:, 0]), abs=60)
