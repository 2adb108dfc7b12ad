import pytest
import torch

from pctransformer.ops import hilbert_code, morton_code
from pctransformer.point_view.curve_order import curve_code
from pctransformer.point_view.serialization import coarsen, cut, serialize
from pctransformer.points import PointBatch

CURVES = ("morton", "morton_transposed", "hilbert", "hilbert_transposed")


def clouds(*lengths: int) -> PointBatch:
    generator = torch.Generator().manual_seed(2)
    return PointBatch.from_list([torch.randn(n, 3, generator=generator) * 3 for n in lengths])


# ---- curves ----------------------------------------------------------------------------------------------------------
def test_codes_of_curves():
    cells = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [5, 2, 7]])
    assert curve_code(cells, "morton", 4)[:3].tolist() == [4, 2, 1]
    assert curve_code(cells, "morton_transposed", 4)[:3].tolist() == [2, 4, 1]
    assert torch.equal(curve_code(cells, "hilbert", 4), hilbert_code(cells, 4))
    assert torch.equal(curve_code(cells, "hilbert_transposed", 4), hilbert_code(cells[:, [1, 0, 2]], 4))
    for wrong in ("peano", "hilbert_rotated"):
        with pytest.raises(ValueError, match=f"got '{wrong}'"):
            curve_code(cells, wrong, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("curve", CURVES)
def test_a_coarser_cell_has_the_front_of_the_code(curve):
    """Cells that share a coarser cell share all but the last three bits, and others do not."""
    cells = torch.randint(0, 64, (500, 3), generator=torch.Generator().manual_seed(0))
    front = curve_code(cells, curve, 6) >> 3
    coarse = morton_code(cells >> 1, 5)
    assert torch.equal(front[:, None] == front, coarse[:, None] == coarse)


# ---- serialization ---------------------------------------------------------------------------------------------------
def test_serialize_by_hand():
    """Cells are counted from the lowest of each cloud, in whole multiples of their size."""
    xyz = torch.tensor([[0.9, 0.0, 0.0], [-0.1, 0.0, 0.0], [0.3, 0.6, 0.0], [7.2, 7.2, 7.9], [7.2, 7.2, 7.2]])
    batch = PointBatch.from_offsets(xyz, torch.tensor([0, 3, 3, 5]))
    level = serialize(batch, 0.5, ("morton", "morton_transposed"), bits=2)
    # cells (2, 0, 0), (0, 0, 0), (1, 1, 0) of cloud 0; (0, 0, 1), (0, 0, 0) of cloud 2
    assert level.codes[0].tolist() == [32, 0, 6, 2 * 64 + 1, 2 * 64]
    assert level.codes[1].tolist() == [16, 0, 6, 2 * 64 + 1, 2 * 64]
    assert level.orders[0].tolist() == [1, 2, 0, 4, 3]


def test_a_cloud_is_serialized_as_if_alone():
    batch = clouds(40, 0, 1, 300)
    level = serialize(batch, 0.25, CURVES)
    for b, cloud in enumerate(batch.split()):
        alone = serialize(cloud, 0.25, CURVES)
        begin, end = batch.offsets[b], batch.offsets[b + 1]
        assert torch.equal(level.orders[:, begin:end] - begin, alone.orders)
        assert torch.equal(level.codes[:, begin:end] - (b << 48), alone.codes)


def test_points_of_a_cell_keep_their_order():
    level = serialize(PointBatch.from_dense(torch.rand(1, 9, 3) * 0.1 + 0.2), 0.5, CURVES)
    assert level.orders.tolist() == [list(range(9))] * 4


def test_errors_of_serialization():
    with pytest.raises(ValueError, match=r"extends over 9 cells of size 0\.5, but 3 bits"):
        serialize(PointBatch.from_dense(torch.tensor([[[0.0, 0, 0], [4, 0, 0]]])), 0.5, CURVES, bits=3)
    with pytest.raises(ValueError, match="cell_size must be positive"):
        serialize(clouds(3), 0, CURVES)
    with pytest.raises(ValueError, match="fewer bits"):
        serialize(clouds(3, 4), 0.1, CURVES, bits=21)


# ---- coarser cells ---------------------------------------------------------------------------------------------------
def test_coarsen_by_hand():
    xyz = torch.tensor([[0.0, 0, 0], [5, 0, 0], [1, 1, 1], [4, 1, 0], [9, 9, 9]])
    joined = coarsen(serialize(PointBatch.from_offsets(xyz, torch.tensor([0, 4, 4, 5])), 1.0, ("morton",), bits=3))
    assert joined.coarse.points.xyz.tolist() == [[0.5, 0.5, 0.5], [4.5, 0.5, 0], [9, 9, 9]]
    assert joined.coarse.points.offsets.tolist() == [0, 2, 2, 3]
    assert joined.parent.tolist() == [0, 1, 0, 1, 2]
    assert joined.members.tolist() == [0, 2, 3, 1, 4]
    assert joined.offsets.tolist() == [0, 2, 4, 5]
    assert joined.coarse.bits == 2
    assert joined.coarse.codes.tolist() == [[0, 32, 2 * 64]]


def test_coarsening_is_the_grid_of_twice_the_size():
    """Where the lowest cell is even: one token for each coarser cell, in the order of its own serialization."""
    corner = torch.tensor([[-100.0, -100, -100]])
    batch = PointBatch.from_list([torch.cat([corner, cloud.xyz]) for cloud in clouds(200, 0, 90).split()])
    level = coarsen(serialize(batch, 0.5, CURVES)).coarse
    assert level.points.lengths.tolist() == [len(torch.unique(c.xyz.floor(), dim=0)) for c in batch.split()]
    direct = serialize(level.points, 1.0, CURVES)
    assert torch.equal(level.orders[:2], direct.orders[:2])  # Hilbert's curve through fewer bits is another one
    for codes, order in zip(level.codes, level.orders):
        assert (codes[order].diff() > 0).all()


def test_the_whole_grid_in_one_cell():
    level = serialize(clouds(5), 100.0, CURVES, bits=1)
    with pytest.raises(ValueError, match="cannot be made larger"):
        coarsen(level)


# ---- patches ---------------------------------------------------------------------------------------------------------
def test_cut_by_hand():
    """Sequences of 7, 0, 2 and 6 in patches of 3: the short one is a patch, a last one borrows from the one before."""
    patches = cut(torch.tensor([0, 7, 7, 9, 15]), 3)
    assert patches.offsets.tolist() == [0, 3, 6, 7, 9, 12, 15]
    seen = [patches.key_places[a:b].tolist() for a, b in zip(patches.key_offsets, patches.key_offsets[1:])]
    assert seen == [[0, 1, 2], [3, 4, 5], [4, 5, 6], [7, 8], [9, 10, 11], [12, 13, 14]]


def test_cut_nothing():
    patches = cut(torch.tensor([0, 0]), 3)
    assert patches.offsets.tolist() == [0]
    assert len(patches.key_places) == 0
