import math

import numpy as np

from pctransformer.visualization.geometry import box_lines


def test_a_box_of_lines():
    points, lines = box_lines(np.array([[1, 2, 3, 4, 2, 1, math.pi / 2], [0, 0, 0, 1, 1, 1, 0]]))
    assert points.shape == (20, 3)
    assert lines.shape == (26, 2)
    np.testing.assert_allclose(points[:8].min(0), [0, 0, 2.5], atol=1e-12)
    np.testing.assert_allclose(points[:8].max(0), [2, 4, 3.5], atol=1e-12)
    # edges have the lengths of the sides, four of each, and the tick goes through the front, which is at y = 4
    lengths = np.linalg.norm(np.diff(points[lines[:12]], axis=1)[:, 0], axis=1)
    np.testing.assert_allclose(sorted(lengths), [1] * 4 + [2] * 4 + [4] * 4)
    np.testing.assert_allclose(points[lines[12]], [[1, 2, 3], [1, 5, 3]], atol=1e-12)
    assert lines[13:].min() == 10
    assert lines[13:].max() == 19


def test_no_boxes():
    points, lines = box_lines(np.zeros((0, 7)))
    assert points.shape == (0, 3)
    assert lines.shape == (0, 2)
