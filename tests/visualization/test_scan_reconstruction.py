import numpy as np
import pytest

from pctransformer.visualization.scan_reconstruction import ScanMadeUp, scan_reconstruction_figure
from tests.visualization.pages import check_page, texts

RANGE = (0.0, -4.0, 8.0, 4.0)


def made_up(name, count):
    generator = np.random.default_rng(count)
    clouds = [generator.uniform([0, -4, -2], [8, 4, 1], (count + i, 3)) for i in range(3)]
    chance = np.zeros((4, 4))
    chance[0, 3] = 1  # lowest y, largest x: far ahead to the right
    return ScanMadeUp(name, *clouds, chance)


def test_a_row_for_each_scan():
    figure = scan_reconstruction_figure([made_up("000001", 50), made_up("000002", 0)], range=RANGE)
    check_page(figure)
    assert {"000001", "000002", "seen", "hidden", "made up", "chance of points"} <= set(texts(figure))
    assert len(figure.axes) == 8
    assert [len(axes.collections[0].get_offsets()) for axes in figure.axes if axes.collections] == [50, 51, 52, 0, 1, 2]
    for axes in figure.axes:  # left is left: y grows to the left, x upwards
        assert axes.get_xlim() == (4, -4)
        assert axes.get_ylim() == (0, 8)
    image = figure.axes[3].images[0]
    assert image.origin == "lower"
    assert tuple(image.get_extent()) == (-4, 4, 0, 8)
    assert image.get_array()[3, 0] == 1  # rows are x, columns y


def test_no_scan_is_an_error():
    with pytest.raises(ValueError, match="at least one scan"):
        scan_reconstruction_figure([], range=RANGE)
