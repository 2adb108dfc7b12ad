import numpy as np
import pytest
import torch

from pctransformer.datasets.thinning import cell_numbers, thin, thin_randomly


def test_the_point_nearest_to_the_middle_of_each_cell():
    """Cells of 1 m from the lowest corner, (0, 0, 0): three points in the first, one in the second, along x."""
    xyz = np.array([[0.0, 0, 0], [0.9, 0.9, 0.9], [0.6, 0.4, 0.5], [1.2, 0.1, 0.1]])
    assert cell_numbers(xyz, 1.0).tolist() == [0, 0, 0, 1]
    assert thin(xyz, 1.0).tolist() == [2, 3]
    assert thin(xyz[:1], 1.0).tolist() == [0]
    assert thin(xyz[:0], 1.0).tolist() == []


def test_neither_order_nor_place_matter():
    """Ties of distance, points in one place with other features, float64 coordinates of millions of metres."""
    generator = np.random.default_rng(0)
    xyz = np.round(generator.random((3000, 3)) * [4, 4, 2] * 128) / 128  # exact, wherever it is moved
    xyz[-200:] = xyz[:200]
    features = generator.random((3000, 2)).astype(np.float32)
    rows = thin(xyz, 0.25, features)
    order = generator.permutation(3000)
    moved = xyz[order] + [4_500_000, 5_400_000, 300]
    again = order[thin(moved, 0.25, features[order])]
    assert np.array_equal(xyz[rows], xyz[again])
    assert np.array_equal(features[rows], features[again])
    assert len(np.unique(cell_numbers(xyz, 0.25)[rows])) == len(rows) == len(np.unique(cell_numbers(xyz, 0.25)))


def test_any_point_of_a_cell():
    xyz = np.array([[0.1, 0, 0], [0.2, 0, 0], [0.3, 0, 0], [5, 0, 0]])
    taken = [tuple(thin_randomly(xyz, 1.0, torch.Generator().manual_seed(seed))) for seed in range(60)]
    assert {rows[0] for rows in taken} == {0, 1, 2}
    assert {rows[1:] for rows in taken} == {(3,)}
    assert thin_randomly(xyz[:0], 1.0, torch.Generator()).tolist() == []


def test_errors():
    with pytest.raises(ValueError, match="cell_size must be positive"):
        thin(np.zeros((1, 3)), 0.0)
    with pytest.raises(ValueError, match="too many to be counted"):
        thin(np.array([[0, 0, 0], [1e9, 1e9, 1e9]]), 1e-3)
