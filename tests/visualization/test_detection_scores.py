import math

import numpy as np
import pytest

from pctransformer.evaluation.detection import evaluate_detection, recall_by_distance
from pctransformer.visualization.detection_scores import average_precision_figure, recall_figure
from tests.evaluation.test_detection import NAMES, batch, box, some
from tests.visualization.pages import check_page, texts


def test_recall_over_distance():
    truth = batch([(box(5), 0), (box(15), 0), (box(15, 5), 0)])
    found = batch([(box(5.1), 0, 0.5), (box(15.8), 0, 0.4)])
    recalls = {
        f"IoU {limit}": recall_by_distance(truth, found, limit, (0, 10, 20, 30, math.inf)) for limit in (0.5, 0.7)
    }
    figure = recall_figure(recalls, title="Cars")
    check_page(figure)
    assert {"Cars", "IoU 0.5   all: 66.7 %", "IoU 0.7   all: 33.3 %", "1", "2", "0"} <= set(texts(figure))
    axes, counts = figure.axes
    first, second = axes.lines
    assert first.get_ydata().tolist() == [100, 50]
    assert second.get_ydata().tolist() == [100, 0]
    assert (np.abs(first.get_xdata() - [0, 1]) < 0.1).all()
    assert first.get_xdata()[0] < second.get_xdata()[0]  # beside each other
    # Wilson: 1 of 2 is between 9.5 and 90.5 percent
    interval = axes.collections[0].get_segments()[1]
    assert interval[:, 1].tolist() == pytest.approx([9.45, 90.55], abs=0.01)
    assert [bar.get_height() for bar in counts.patches] == [1, 2, 0, 0]
    assert [label.get_text() for label in counts.get_xticklabels()] == ["0-10", "10-20", "20-30", "30+"]


def test_recalls_that_do_not_belong_together():
    truth, found = some()
    one = recall_by_distance(truth, found)
    with pytest.raises(ValueError, match="the same bins and objects"):
        recall_figure({"a": one, "b": recall_by_distance(truth, found, label=0)})
    with pytest.raises(ValueError, match="the same bins and objects"):
        recall_figure({"a": one, "b": recall_by_distance(truth, found, bins=(0, 20))})
    with pytest.raises(ValueError, match="no recall to draw"):
        recall_figure({})
    nothing = recall_by_distance([], [])
    figure = recall_figure({"none": nothing})
    check_page(figure)
    assert "none   all: no objects" in texts(figure)


def test_average_precision_of_several_detectors():
    truth, found = some()
    names = (*NAMES, "Pedestrian")
    good, worse = (evaluate_detection(truth, f, names) for f in (found, found.replace(boxes=found.boxes + 0.3)))
    figure = average_precision_figure({"good": good, "worse": worse})
    check_page(figure)
    assert f"good   mAP {100 * good.mean_average_precision:.0f}" in texts(figure)
    assert len(figure.axes) == 3
    bars = figure.axes[1].patches
    assert len(bars) == 16
    curve = worse.curve("Cyclist", "3D 0.5")
    assert bars[8 + 6].get_height() == pytest.approx(100 * curve.r40)
    assert bars[2].get_height() == pytest.approx(100 * good.curve("Cyclist", "2 m").nuscenes)
    assert [t.get_text() for t in figure.axes[2].texts] == ["-"] * 16  # there are no pedestrians
    check_page(average_precision_figure({"alone": evaluate_detection(truth, found, NAMES, distances=())}))
    with pytest.raises(ValueError, match="the same classes and criteria"):
        average_precision_figure({"a": good, "b": evaluate_detection(truth, found, NAMES)})
    with pytest.raises(ValueError, match="no score to draw"):
        average_precision_figure({})
