import numpy as np
import pytest
import torch

from pctransformer.datasets.surface import sample_triangles

SQUARE = np.array([[[0, 0, 0], [1, 0, 0], [1, 1, 0]], [[0, 0, 0], [1, 1, 0], [0, 1, 0]]], dtype=float)


def test_points_lie_on_their_triangles_and_normals_follow_the_right_hand():
    triangles = np.random.default_rng(0).normal(size=(30, 3, 3))
    points, normals, triangle = sample_triangles(triangles, 500)
    edges = triangles[triangle, 1:] - triangles[triangle, :1]
    offset = points - triangles[triangle, 0]
    assert np.abs((normals * offset).sum(1)).max() < 1e-12  # in the plane
    weights = np.stack([np.linalg.lstsq(e.T, o, rcond=None)[0] for e, o in zip(edges, offset)])
    assert (weights > -1e-9).all()  # and inside
    assert (weights.sum(1) < 1 + 1e-9).all()
    assert sample_triangles(SQUARE, 3)[1].tolist() == [[0, 0, 1]] * 3


def test_evenly_by_area():
    big = np.array([[[0, 0, 5], [3, 0, 5], [0, 3, 5]]], dtype=float)  # 4.5 square metres beside 1
    points, _, triangle = sample_triangles(np.concatenate([SQUARE, big]), 20000)
    # standard deviations: 0.0027 for the share, 0.0048 for the mean of 3600 uniform numbers
    assert abs((triangle == 2).mean() - 4.5 / 5.5) < 0.011
    assert np.abs(points[triangle < 2, :2].mean(0) - 0.5).max() < 0.02
    assert np.abs(points[triangle == 2, :2].mean(0) - 1).max() < 0.03


def test_triangles_without_area_are_never_hit():
    flat = np.zeros((5, 3, 3))
    assert set(sample_triangles(np.concatenate([flat, SQUARE, flat]), 2000)[2]) == {5, 6}


def test_same_generator_same_points():
    first, again, other = (
        sample_triangles(SQUARE, 10, torch.Generator().manual_seed(seed))[0].tolist() for seed in (1, 1, 2)
    )
    assert first == again != other
    assert sample_triangles(SQUARE, 10)[0].tolist() == sample_triangles(SQUARE, 10)[0].tolist()


@pytest.mark.parametrize("triangles", [np.zeros((0, 3, 3)), np.ones((2, 3, 3)), SQUARE * np.nan])
def test_without_area_is_an_error(triangles):
    with pytest.raises(ValueError, match="must have an area"):
        sample_triangles(triangles, 5)
