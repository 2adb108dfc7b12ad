import numpy as np
import pytest
import torch

from pctransformer.visualization import attention as module
from pctransformer.visualization.attention import attention_figure, half_of_weight
from pctransformer.visualization.clouds import draw_values
from pctransformer.visualization.color_scale import color_scale
from pctransformer.visualization.style import new_figure, place
from tests.visualization.pages import check_page, texts


def test_half_of_the_weight():
    assert half_of_weight(torch.ones(10)) == 0.5
    assert half_of_weight(np.array([0.1, 0.6, 0.1, 0.2])) == 0.25
    assert half_of_weight(np.array([0.3, 0.2, 0.3, 0.2])) == 0.5
    assert half_of_weight(np.zeros(4)) == 0


def test_values_stay_with_their_points():
    """Of points in a row, those that are hotter are on the right, also where points are left out."""
    xyz = np.stack([np.arange(6000.0), np.zeros(6000), np.zeros(6000)], 1)
    values = xyz[:, 0] / 6000
    xyz[7] = np.nan
    axes = place(new_figure(4, 4), 0, 0, 4, 4)
    draw_values(axes, xyz, values, ringed=3000)
    places, colours = np.asarray(axes.collections[0].get_offsets()), axes.collections[0].get_facecolors()[:, :3]
    assert len(places) == 4096
    order = np.argsort(places[:, 0])
    assert (np.diff(colours[order].sum(1)) <= 1e-9).all()
    assert colours[order[0]].sum() > colours[order[-1]].sum() + 1
    (ring,) = axes.lines
    assert ring.get_xdata()[0] == pytest.approx(np.median(places[:, 0]), abs=60)


@pytest.mark.parametrize("count", [0, 1, 4, 13, 20])
def test_a_cloud_for_each_layer(monkeypatch, count):
    drawn = []

    def record(axes, xyz, values, *, ringed, up):
        drawn.append((values.tolist(), ringed, up))
        draw_values(axes, xyz, values, ringed=ringed, up=up)

    monkeypatch.setattr(module, "draw_values", record)
    xyz, weights = torch.rand(30, 3), torch.rand(30)
    layers = {f"encoder.layers.{i}.attention.with_a_long_name": torch.rand(30) for i in range(count)}
    figure = attention_figure(xyz, weights, layers, "chair.ply: chair 97.0%", "from there", ringed=4, up="y")
    check_page(figure)
    assert drawn == [
        (color_scale(of).places(of).tolist(), 4, "y") for of in (weights.numpy(), *(w.numpy() for w in layers.values()))
    ]
    words = texts(figure)
    assert words[:2] == ["chair.ply: chair 97.0%", "from there"]
    assert words[2] == f"all layers together\nhalf of it in {100 * half_of_weight(weights):.0f} % of the points"
    assert len(words) == 3 + count


def test_a_layer_that_gives_nothing():
    figure = attention_figure(torch.rand(30, 3), torch.rand(30), {"attention.3": torch.zeros(30)}, "", "")
    assert "attention.3\ntakes nothing" in texts(figure)
