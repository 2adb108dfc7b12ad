"""Boxes over the image of a camera, against points that are projected by hand."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from pctransformer.datasets.kitti import Calibration
from pctransformer.visualization.camera_image import camera_figure
from pctransformer.visualization.detection import TRUE, class_colour
from pctransformer.visualization.style import MIDDLE
from tests.visualization.pages import check_page, texts

WIDTH, HEIGHT, FOCAL = 600, 200, 300.0
# looks exactly along the LiDAR's x: a point is at 300 - 300 y / x, 100 - 300 z / x
PLAIN = Calibration(
    np.array([[FOCAL, 0, 300, 0], [0, FOCAL, 100, 0], [0, 0, 1, 0]]),
    np.eye(3),
    np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]], float),
)
IMAGE = np.full((HEIGHT, WIDTH, 3), 0.5, np.float32)
NONE = (np.zeros((0, 7)), np.zeros(0, np.int64))
AHEAD = [10, 0, 0, 2, 2, 2, 0]


def predicted(boxes, labels=None, scores=None):
    count = len(boxes)
    labels = np.zeros(count, np.int64) if labels is None else np.array(labels)
    return np.array(boxes, float).reshape(-1, 7), labels, np.full(count, 0.5) if scores is None else np.array(scores)


def wires(figure):
    """Colour and segments of what is drawn, without rims."""
    drawn = figure.axes[0].collections[1::2]
    return [(tuple(lines.get_colors()[0]), np.array(lines.get_segments())) for lines in drawn]


def test_a_cube_and_its_heading():
    """2 m wide, its near side 9 m ahead; the heading goes from its centre through its front to 0.5 m beyond it."""
    figure = camera_figure(IMAGE, PLAIN, *NONE, ("Car",), predicted=predicted([AHEAD]), title="000007")
    check_page(figure)
    ((color, lines),) = wires(figure)
    assert color == to_rgba(class_colour(0))
    assert lines.shape == (13, 2, 2)
    near, far = FOCAL / 9, FOCAL / 11
    corners = {(300 + x * side, 100 + y * side) for side in (near, far) for x in (-1, 1) for y in (-1, 1)}
    assert {tuple(np.round(end, 6)) for end in lines[:12].reshape(-1, 2)} == {
        tuple(np.round(c, 6)) for c in corners
    }  # fmt: skip
    np.testing.assert_allclose(lines[12], [[300, 100], [300, 100]], atol=1e-9)  # straight away from the camera
    figure = camera_figure(IMAGE, PLAIN, *NONE, ("Car",), predicted=predicted([[*AHEAD[:6], np.pi / 2]]))
    ((_, lines),) = wires(figure)
    np.testing.assert_allclose(lines[12], [[300, 100], [300 - FOCAL * 1.5 / 10, 100]], atol=1e-9)  # to the left
    words = texts(figure)
    assert "0.50" in words
    assert "1 of 1 predicted boxes in the image: " in words
    assert (figure.axes[0].get_xlim(), figure.axes[0].get_ylim()) == ((-0.5, WIDTH - 0.5), (HEIGHT - 0.5, -0.5))


def test_labelled_boxes_and_the_order():
    labelled = np.array([AHEAD, [20, 4, 0, 2, 2, 2, 0]]), np.array([0, -1])
    boxes = predicted([AHEAD, [30, 0, 0, 4, 2, 2, 0]], [1, 0], [0.9, 0.4])
    figure = camera_figure(IMAGE, PLAIN, *labelled, ("Car", "Cyclist"), predicted=boxes)
    assert [color for color, _ in wires(figure)] == [
        to_rgba(color) for color in (TRUE, MIDDLE, class_colour(0), class_colour(1))
    ]  # fmt: skip
    broad, _, _, narrow = (lines.get_linewidths()[0] for lines in figure.axes[0].collections[1::2])
    assert broad > 1.5 * narrow  # so that both are seen where they fall together
    words = texts(figure)
    assert "1 labelled boxes (green), 2 of 2 predicted boxes in the image: " in words
    assert {"Car", "Cyclist", "0.90", "0.40"} <= set(words)


def test_only_what_the_camera_sees():
    """Beside, behind, around the camera, beginning behind it, and over the image's edges."""
    boxes = [
        [10, 40, 0, 2, 2, 2, 0],
        [-10, 0, 0, 2, 2, 2, 0],
        [0, 0, 0, 40, 2, 2, 0],
        [2, 3.5, 0, 8, 2, 1, 0],
        [5, 5, 0, 2, 2, 30, 0],
    ]
    figure = camera_figure(IMAGE, PLAIN, *NONE, ("Car",), predicted=predicted(boxes, scores=[0.1, 0.2, 0.3, 0.4, 0.5]))
    check_page(figure)
    assert {text for text in texts(figure) if text.startswith("0.")} == {"0.30", "0.40", "0.50"}
    assert "3 of 5 predicted boxes in the image: " in texts(figure)
    edge = np.array([WIDTH, HEIGHT]) - 1
    drawn = [lines for _, lines in wires(figure)]
    assert len(drawn) == 3
    for lines in drawn:
        assert (lines >= 0).all()
        assert (lines <= edge).all()
    # of the far side of what begins behind the camera, its right edge is 6 m ahead and 2.5 m to the left
    upright = [line for line in drawn[1] if line[0, 0] == pytest.approx(300 - 300 * 2.5 / 6)]
    assert any(np.allclose(np.sort(line[:, 1]), [100 - 300 / 12, 100 + 300 / 12]) for line in upright)
    for text in figure.axes[0].texts:
        x, y = text.get_position()
        assert 0 <= x < WIDTH
        assert 0 <= y < HEIGHT


def test_scores_do_not_cover_one_another():
    """The best is written, and those beside which there is room; all boxes are drawn and counted."""
    ahead = [[*AHEAD[:1], y, *AHEAD[2:]] for y in (0, 0.1, -0.15, 5)]
    boxes = predicted(ahead, scores=[0.3, 0.8, 0.5, 0.2])
    figure = camera_figure(IMAGE, PLAIN, *NONE, ("Car",), predicted=boxes)
    assert [text for text in texts(figure) if text.startswith("0.")] == ["0.80", "0.20"]
    assert "4 of 4 predicted boxes in the image: " in texts(figure)
    assert len(wires(figure)) == 4


def test_nothing_at_all():
    for boxes in (None, predicted([])):
        figure = camera_figure(np.zeros((20, 30, 3), np.uint8), PLAIN, *NONE, ("Car",), predicted=boxes)
        check_page(figure)
        assert wires(figure) == []
