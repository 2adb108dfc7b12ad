import math

import numpy as np
import pytest

from pctransformer.evaluation.rotated_overlap import intersection_area

SQUARE = (0, 0, 2, 2, 0)


def area(a, b):
    return intersection_area(np.array([a], float), np.array([b], float))[0]


def random_boxes(generator, n):
    low, high = [-2, -2, 0.1, 0.1, -7], [2, 2, 5, 3, 7]
    return generator.uniform(low, high, (n, 5))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (SQUARE, SQUARE, 4),
        (SQUARE, (0, 0, 2, 2, math.pi / 2), 4),
        (SQUARE, (0, 0, 2, 2, math.pi / 4), 8 * (math.sqrt(2) - 1)),  # a regular octagon
        (SQUARE, (1, 0, 2, 2, 0), 2),
        (SQUARE, (1, 1, 2, 2, math.pi), 1),
        (SQUARE, (2, 0, 2, 2, 0), 0),  # they touch
        (SQUARE, (9, 9, 2, 2, 1), 0),
        (SQUARE, (0.2, 0.1, 1, 0.5, 0.3), 0.5),  # inside
        ((0, 0, 10, 1, 0), (0, 0, 10, 1, math.pi / 2), 1),  # a cross
        ((0, 0, 10, 1, 0), (0, 0, 10, 1, math.pi / 6), 2),  # a rhombus: 1 / sin 30 degrees
        (SQUARE, (1, 1, 2 * math.sqrt(2), 2 * math.sqrt(2), math.pi / 4), 2),  # its side is the square's diagonal
        (SQUARE, (0, 0, 0, 2, 0.3), 0),
        (SQUARE, (0, 0, -1, -1, 0), 0),
    ],
)
def test_areas_known_by_geometry(a, b, expected):
    assert area(a, b) == pytest.approx(expected, abs=1e-12)
    assert area(b, a) == pytest.approx(expected, abs=1e-12)


def corners_of(box):
    x, y, dx, dy, heading = box
    cos, sin = math.cos(heading), math.sin(heading)
    around = [(dx / 2, dy / 2), (-dx / 2, dy / 2), (-dx / 2, -dy / 2), (dx / 2, -dy / 2)]
    return [(x + cos * u - sin * v, y + sin * u + cos * v) for u, v in around]


def clipped_area(a, b):
    """The polygon of a, cut along each side of b in turn (Sutherland and Hodgman, 1974); then the shoelace formula."""
    polygon, cutter = corners_of(a), corners_of(b)
    for (x0, y0), (x1, y1) in zip(cutter, cutter[1:] + cutter[:1]):
        left = [(x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) for x, y in polygon]
        kept = []
        for i, (p, s) in enumerate(zip(polygon, left)):
            q, t = polygon[(i + 1) % len(polygon)], left[(i + 1) % len(polygon)]
            if s >= 0:
                kept.append(p)
            if s * t < 0:
                share = s / (s - t)
                kept.append((p[0] + share * (q[0] - p[0]), p[1] + share * (q[1] - p[1])))
        polygon = kept
    following = polygon[1:] + polygon[:1]
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(polygon, following)) / 2


def test_equals_cutting_polygons():
    generator = np.random.default_rng(0)
    a, b = random_boxes(generator, 3000), random_boxes(generator, 3000)
    b[:500, 4] = a[:500, 4] + generator.choice([0, math.pi / 2, math.pi, -math.pi / 2], 500)  # parallel sides
    b[500:600] = a[500:600]
    expected = [clipped_area(*pair) for pair in zip(a.tolist(), b.tolist())]
    np.testing.assert_allclose(intersection_area(a, b), expected, atol=1e-12)
    assert np.mean(np.array(expected) > 0) > 0.5


def test_equals_shapely():
    shapely = pytest.importorskip("shapely")
    generator = np.random.default_rng(1)
    a, b = random_boxes(generator, 20000), random_boxes(generator, 20000)
    polygons = [shapely.polygons([corners_of(box) for box in boxes.tolist()]) for boxes in (a, b)]
    np.testing.assert_allclose(intersection_area(a, b), shapely.area(shapely.intersection(*polygons)), atol=1e-12)


def test_nearly_equal_boxes_overlap_nearly_wholly():
    generator = np.random.default_rng(2)
    a = random_boxes(generator, 2000)
    for size in (1e-16, 1e-12, 1e-8):
        b = a + size * generator.normal(size=a.shape)
        np.testing.assert_allclose(intersection_area(a, b), a[:, 2] * a[:, 3], atol=100 * size + 1e-13)


def test_moving_both_changes_nothing():
    generator = np.random.default_rng(3)
    a, b = random_boxes(generator, 500), random_boxes(generator, 500)
    angle, shift = 0.7, np.array([40.0, -7.0])
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    moved = [np.column_stack([x[:, :2] @ turn + shift, x[:, 2:4], x[:, 4] + angle]) for x in (a, b)]
    np.testing.assert_allclose(intersection_area(*moved), intersection_area(a, b), atol=1e-12)


def test_no_pairs_and_wrong_shapes():
    assert intersection_area(np.zeros((0, 5)), np.zeros((0, 5))).shape == (0,)
    with pytest.raises(ValueError, match=r"must both be \(n, 5\)"):
        intersection_area(np.zeros((2, 5)), np.zeros((3, 5)))
