import numpy as np
import pytest

from pctransformer.visualization.color_scale import (
    SCALINGS,
    ColorScale,
    bar_colors,
    channel_colors,
    color_scale,
    color_table,
    place_colors,
)


def test_linear_goes_from_the_lowest_to_the_highest():
    scale = color_scale(np.array([3.0, -1, 1]), "linear")
    assert scale == ColorScale("linear", -1, 3)
    assert scale.places(np.array([-1, 0, 1, 3, 9])).tolist() == [0, 0.25, 0.5, 1, 1]


def test_percentile_leaves_out_one_value_in_a_hundred():
    values = np.append(np.arange(1000.0), [1e6, -1e6])
    scale = color_scale(values)
    assert scale.scaling == "percentile"
    assert 5 < scale.low < 15
    assert 985 < scale.high < 995
    assert scale.places(values)[-2:].tolist() == [1, 0]


def test_percentile_shows_a_map_of_few_points():
    """Less than one value in a hundred is above 0: its bound is that of those values."""
    values = np.zeros(10_000)
    values[:16] = np.linspace(0.01, 0.16, 16)
    scale = color_scale(values)
    assert scale.low == 0
    assert scale.high == pytest.approx(np.quantile(values[:16], 0.99))
    assert scale.places(values)[[0, 7, 15, 16]].tolist() == pytest.approx(
        [0.01 / 0.1585, 0.08 / 0.1585, 1, 0], rel=1e-6
    )


def test_sigmoid_of_standard_scores():
    values = np.array([-1.0, 1, -1, 1]) * 2 + 5  # mean 5, deviation 2
    scale = color_scale(values, "sigmoid")
    assert (scale.low, scale.high) == (-3, 13)
    z = np.array([0, 1, -2.5, 4, -1e9, 1e9])
    expected = 1 / (1 + np.exp(-np.clip(z, -40, 40)))
    assert scale.places(5 + 2 * z).tolist() == pytest.approx(expected.tolist(), abs=1e-12)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_more_is_never_paler_and_values_without_a_range_are_pale(scaling):
    values = np.random.default_rng(0).normal(size=500) ** 3
    colors = color_scale(values, scaling).colors(np.sort(values))
    assert colors.shape == (500, 3)
    assert colors.dtype == np.float32
    light = colors @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) <= 1e-6).all()
    assert light[0] - light[-1] > 0.5
    for same in (np.full(7, 0.25), np.zeros(3), np.zeros(0)):
        assert color_scale(same, scaling).places(same).tolist() == [0] * len(same)


def test_the_table_is_perceptual_and_nobody_writes_into_it():
    table = color_table()
    assert table.shape == (216, 3)
    linear = np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)  # CIE L*
    steps = -np.diff(lightness)
    assert steps.min() > 0.5 * steps.mean()
    assert steps.max() < 2 * steps.mean()
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 0
    assert (place_colors(np.array([0.0, 1.0, 2.0])) == table[[0, 215, 215]]).all()


def test_three_values_are_red_green_and_blue():
    """Each by its own range: one point far off in one of them darkens neither the others nor that one."""
    steps = np.linspace(0, 1, 1001)
    values = np.stack([steps, 100 * steps, -steps], 1)
    values[500, 0] = 1e6
    colors = channel_colors(values)
    assert colors.dtype == np.float32
    assert colors[500, 0] == 1
    expected = np.clip((steps - 0.01) / 0.98, 0, 1)
    np.testing.assert_allclose(np.delete(colors[:, 0], 500), np.delete(expected, 500), atol=0.01)
    np.testing.assert_allclose(colors[:, 1], expected, atol=0.02)
    np.testing.assert_allclose(colors[:, 2], 1 - expected, atol=0.02)
    np.testing.assert_allclose(channel_colors(values[:500], "linear")[:, 0], steps[:500] / steps[499], atol=1e-6)


def test_three_values_without_a_range_are_grey():
    values = np.zeros((4, 3), np.float32)
    assert channel_colors(values).tolist() == [[0.5, 0.5, 0.5]] * 4
    values[:, 1] = [0, 1, 2, 3]  # only this one tells points apart
    assert channel_colors(values, "linear")[[0, 3]].tolist() == [[0.5, 0, 0.5], [0.5, 1, 0.5]]
    assert channel_colors(values[:1]).tolist() == [[0.5, 0.5, 0.5]]
    assert channel_colors(values[:0]).shape == (0, 3)


def test_bars():
    scale = ColorScale("linear", 2, 5)
    assert (bar_colors(scale)[[0, -1]] == color_table()[[0, -1]]).all()
    key = bar_colors(None)
    assert key[[0, 128, 255]].tolist() == np.eye(3).tolist()
    assert (key == 1).all(1).sum() == 14


def test_other_scalings_are_refused():
    with pytest.raises(ValueError, match="scaling must be one of percentile, sigmoid, linear, got 'log'"):
        color_scale(np.zeros(3), "log")
