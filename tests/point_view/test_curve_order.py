import pytest
import torch

from pctransformer.ops import hilbert_code
from pctransformer.point_view.curve_order import curve_order
from pctransformer.points import PointBatch


def test_morton_order_by_hand():
    """The eight corners of a cube with one bit: x counts most, then y, then z. Other clouds stay where they are."""
    corners = torch.tensor([[x, y, z] for z in (0.0, 1.0) for y in (0.0, 1.0) for x in (0.0, 1.0)])
    batch = PointBatch.from_list([corners, torch.zeros(0, 3), corners * 7 - 100])
    order = curve_order(batch, "morton", bits=1)
    assert order.tolist() == [0, 4, 2, 6, 1, 5, 3, 7, 8, 12, 10, 14, 9, 13, 11, 15]


@pytest.mark.parametrize("curve", ["morton", "hilbert"])
def test_a_permutation_of_each_cloud(curve):
    lengths = (40, 0, 1, 200, 7)
    batch = PointBatch.from_list([torch.randn(n, 3) for n in lengths])
    order = curve_order(batch, curve)
    for begin, end in zip(batch.offsets, batch.offsets[1:]):
        assert order[begin:end].sort().values.tolist() == list(range(begin, end))
    moved = batch.replace(xyz=batch.xyz * 4 + 8)  # exact in floating point, but for the rounding of the sum
    assert (curve_order(moved, curve) == order).float().mean() > 0.98


def test_hilbert_follows_the_code():
    xyz = torch.rand(100, 3)
    xyz[0], xyz[1] = 0, 1  # so that the cube is the unit cube
    order = curve_order(PointBatch.from_dense(xyz[None]), "hilbert", bits=4)
    code = hilbert_code((xyz * 16).long().clamp(max=15), 4)
    assert (code[order].diff() >= 0).all()
    steps = (xyz[order].diff(dim=0)).norm(dim=1)
    assert steps.mean() < 0.5 * xyz.diff(dim=0).norm(dim=1).mean()


def test_points_of_one_cell_keep_their_order():
    batch = PointBatch.from_dense(torch.ones(1, 9, 3))
    assert curve_order(batch, "hilbert").tolist() == list(range(9))


def test_too_many_bits():
    with pytest.raises(ValueError, match="fewer bits"):
        curve_order(PointBatch.from_dense(torch.zeros(2, 1, 3)), "morton", bits=21)
