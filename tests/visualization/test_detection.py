import math

import numpy as np
import pytest

from pctransformer.evaluation.kitti import evaluate_kitti
from pctransformer.visualization.detection import class_colour, precision_recall_figure, scan_figure
from tests.evaluation.test_kitti import cars, labels, objects
from tests.visualization.pages import check_page, texts


def patches(axes):
    return [patch for patch in axes.patches if patch.get_linewidth() > 0]


def test_a_scan_from_above():
    points = np.random.default_rng(0).uniform([0, -40, -2, 0], [90, 40, 1, 1], (1000, 4))
    boxes = np.array([[20, 10, -1, 4, 2, 1.5, 0], [30, -5, -1, 4, 2, 1.5, math.pi / 2]])
    predicted = (boxes[:1] + np.eye(7)[0] / 2, np.array([1]), np.array([0.87]))
    figure = scan_figure(points, boxes, np.array([0, -1]), ("Car", "Cyclist"), predicted=predicted, title="000007")
    check_page(figure)
    (axes,) = figure.axes
    inside = (points[:, 0] < 70.4).sum()
    assert len(axes.collections[0].get_offsets()) == inside
    words = texts(figure)
    assert {"000007", "Car", "Cyclist", "0.87"} <= set(words)
    assert any(f"{inside} points, 1 labelled boxes" in text for text in words)
    # left is left: y grows to the left, x upwards
    first = patches(axes)[0].get_xy()
    assert (first[:, 0].min(), first[:, 0].max()) == pytest.approx((9, 11))
    assert (first[:, 1].min(), first[:, 1].max()) == pytest.approx((18, 22))
    assert axes.get_xlim() == (40, -40)
    assert axes.get_ylim() == (0, 70.4)
    # the line from the centre goes through the front
    assert axes.lines[0].get_xydata()[1].tolist() == pytest.approx([10, 23])
    assert axes.lines[1].get_xydata()[1].tolist() == pytest.approx([-2, 30])
    assert axes.lines[2].get_color() == class_colour(1)


def test_a_scan_without_anything():
    none = np.zeros((0, 7))
    figure = scan_figure(np.zeros((0, 3)), none, np.zeros(0), ("Car",), predicted=(none, np.zeros(0), np.zeros(0)))
    check_page(figure)
    assert any("0 points, 0 predicted" in text for text in texts(figure))


def test_precision_over_recall():
    score = evaluate_kitti(
        [labels(cars(50)), labels([("Pedestrian", 0, {})])],
        [objects(cars(50)).with_scores(np.linspace(1, 0.1, 50)), objects([])],
    )
    figure = precision_recall_figure(score)
    check_page(figure)
    words = texts(figure)
    assert "Car, overlap > 0.70" in words
    assert "easy  R40 100.00  R11 100.00  n = 50" in words
    assert "hard  R40 0.00 of at most 0.0  R11 0.00  n = 1" in words
    line = figure.axes[0].lines[0]
    np.testing.assert_allclose(line.get_xdata(), np.arange(41) / 40)
    assert (line.get_ydata() == 1).all()
    assert len(figure.axes[0].lines[1].get_xdata()) == 11
    assert len(figure.axes[1].lines[0].get_xdata()) == 0
    for metric in ("bbox", "bev", "aos"):
        check_page(precision_recall_figure(score, metric))
    check_page(precision_recall_figure(score, "bev", overlap="loose"))
    with pytest.raises(ValueError, match="no curves of 'aos', 'loose'"):
        precision_recall_figure(score, "aos", overlap="loose")
