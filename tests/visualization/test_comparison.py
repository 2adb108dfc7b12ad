import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text

from pctransformer.evaluation.comparison import Comparison, Scores
from pctransformer.visualization.comparison import _cross, _overlap, comparison_figure
from tests.visualization.pages import check_page, texts


def crowd(count: int = 13, seed: int = 0, tries: int = 3):
    """Methods that are about equally good and cost about the same, as comparisons have them, and one far off."""
    draw = np.random.default_rng(seed)
    means = [0.85, *(0.92 + draw.normal(0, 0.004, count - 1))]
    scores = [Scores(f"method number {i}", tuple(draw.normal(mean, 0.003, tries))) for i, mean in enumerate(means)]
    costs = {"million multiply-adds": 20 + 10 * draw.random(count) ** 3, "milliseconds": 1 + draw.random(count)}
    return (
        Comparison(scores),
        {name: list(values) for name, values in costs.items()},
        [f"group {i % 4}" for i in range(count)],
    )


@pytest.mark.parametrize("seed", range(3))
def test_names_can_be_read(seed):
    """On the page, inside their panel, not over one another, not over points."""
    comparison, costs, groups = crowd(seed=seed)
    figure = comparison_figure(comparison, costs, groups, "accuracy against cost", "thirteen methods")
    check_page(figure)
    assert {"accuracy against cost", "thirteen methods"} <= set(texts(figure))
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes, cost in zip(figure.axes, costs.values()):
        names = [text for text in axes.texts if text.get_text().startswith("method")]
        assert {text.get_text() for text in names} == {score.name for score in comparison.scores}
        # of the words alone, without the line to the point
        boxes = [Text.get_window_extent(text, renderer).shrunk(0.98, 0.9) for text in names]
        assert [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)] == []
        panel = axes.get_window_extent(renderer).padded(2)
        assert all(panel.contains(*corner) for box in boxes for corner in (box.min, box.max))
        points = axes.transData.transform([(c, 100 * score.mean) for c, score in zip(cost, comparison.scores)])
        assert not any(box.contains(*point) for box in boxes for point in points)


def test_points_bars_and_band():
    scores = [Scores("a", (0.9, 0.91, 0.92)), Scores("b", (0.89, 0.9, 0.91)), Scores("c", (0.5, 0.51, 0.52))]
    figure = comparison_figure(Comparison(scores), {"cost": [1, 2, 4]}, ["x", "y", "x"], "")
    (axes,) = figure.axes
    assert axes.get_xlabel() == "cost"
    drawn = {}
    for container in axes.containers:
        line, _, (bars,) = container
        for point, bar in zip(line.get_xydata(), bars.get_segments()):
            drawn[tuple(point.round(6))] = (to_hex(line.get_color()), bar[:, 1])
    assert list(drawn) == [(1, 91), (4, 51), (2, 90)]
    np.testing.assert_allclose(drawn[1, 91][1], [90, 92])
    assert drawn[1, 91][0] == drawn[4, 51][0] != drawn[2, 90][0]
    for text in axes.texts:
        if text.get_text() in ("a", "c"):
            assert to_hex(text.get_color()) == drawn[1, 91][0]
    band = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (band.y0, band.y1) == pytest.approx((90, 91))  # c is not level


@pytest.mark.parametrize(("count", "tries"), [(1, 1), (1, 3), (2, 1), (13, 1)])
def test_few_methods_and_single_tries(count, tries):
    comparison, costs, groups = crowd(count, tries=tries)
    check_page(comparison_figure(comparison, costs, groups, "few"))


def test_equal_costs_and_scores():
    scores = [Scores(name, (0.9, 0.9)) for name in "abc"]
    check_page(comparison_figure(Comparison(scores), {"cost": [0, 0, 0]}, "xyz", "equal"))


def test_lengths_must_agree():
    comparison, costs, groups = crowd()
    with pytest.raises(ValueError, match="13 methods, but 12"):
        comparison_figure(comparison, costs, groups[1:], "")


def test_geometry():
    box = np.array([0.0, 0.0]), np.array([4.0, 2.0])
    assert _overlap(box, (np.array([3.0, 1.5]), np.array([9.0, 9.0]))) == 40 + 8 * 0.5
    assert _overlap(box, (np.array([5.0, 0.0]), np.array([9.0, 9.0]))) == 0
    diagonals = [(box[0], box[1]), (np.array([0.0, 2.0]), np.array([4.0, 0.0]))]
    assert _cross(*diagonals)
    assert not _cross(diagonals[0], (np.array([0.0, 2.0]), np.array([1.0, 1.0])))
