import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pctransformer.ops import _library, reference, scatter, voxelize
from pctransformer.ops.voxels import MAX_POINTS
from tests.cuda_emulation import build
from tests.ops.clouds import hostile, offsets_of, packed_clouds, ragged

OPERATOR = torch.ops.pctransformer.voxelize.default
compiled_only = pytest.mark.skipif(_library.missing["cpu"] is not None, reason="nothing compiled")

UNIT = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (4, 4, 4))
"""Cubes of 1 m, four along each axis."""

GRIDS = {
    "some cells": ((-2.0, -1.6, -1.0), (0.5, 0.4, 0.25), (16, 10, 8)),
    "one cell": ((-4.0, -4.0, -4.0), (8.0, 8.0, 8.0), (1, 1, 1)),
    "pillars": ((-1.6, -1.6, -2.0), (0.16, 0.16, 4.0), (1, 20, 20)),
    "beyond 32 bits": ((-4.0, -4.0, -4.0), (1e-5, 1e-5, 1e-4), (80_000, 800_000, 800_000)),
    "nothing inside": ((1e7, 1e7, 1e7), (1.0, 1.0, 1.0), (4, 4, 4)),
}
"""Name to lowest corner, voxel size, and cells along z, y, x."""


def by_reference(xyz, offsets, low, voxel_size, shape, max_points=None, max_voxels=None):
    most = max(1, len(xyz))
    limits = most if max_points is None else max_points, most if max_voxels is None else max_voxels
    return reference.voxelize(xyz, offsets, *low, *voxel_size, *shape[::-1], *limits)


def assert_equal(ours, expected):
    for name, a, b in zip(("coordinates", "offsets", "point_voxel", "counts"), ours, expected):
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b), name


def scan(n, seed=0):
    """(n, 3) points in an order in which consecutive ones are near, as a scanner gives them, with many in one voxel."""
    random = np.random.default_rng(seed)
    return torch.from_numpy((random.normal(0, 0.08, (n, 3)).cumsum(0) % 6 - 3).astype(np.float32))


def test_cells_by_hand():
    """Two clouds; voxels come sorted by cloud, z, y, x, points keep their order."""
    xyz = torch.tensor([[3.5, 0, 0], [0.5, 0, 0], [0, 0, 1], [3.9, 0.9, 0.9], [0, 2, 0], [9, 0, 0], [0, 2.5, 0.5]])
    voxels = voxelize(xyz, offsets_of([4, 0, 3]), *UNIT)
    assert voxels.coordinates.tolist() == [[0, 0, 0, 0], [0, 0, 0, 3], [0, 1, 0, 0], [2, 0, 2, 0]]
    assert voxels.offsets.tolist() == [0, 3, 3, 4]
    assert voxels.point_voxel.tolist() == [1, 0, 2, 1, 3, -1, 3]
    assert voxels.counts.tolist() == [1, 2, 1, 2]


def test_borders():
    """The lower border of the range is inside, the upper one is not, on every axis."""
    for axis in range(3):
        xyz = torch.ones(5, 3)
        xyz[:, axis] = torch.tensor([0.0, 4.0, np.nextafter(np.float32(4), np.float32(0)), -1e-30, -0.0])
        voxels = voxelize(xyz, offsets_of([5]), *UNIT)
        assert voxels.point_voxel.tolist() == [0, -1, 1, -1, 0], axis
        assert voxels.coordinates[:, 3 - axis].tolist() == [0, 3]


def test_cells_are_those_of_published_detectors():
    """0.05 m voxels of KITTI: borders fall where float32 division says, also where exact arithmetic would differ."""
    grid = (0.0, -40.0, -3.0), (0.05, 0.05, 0.1), (40, 1600, 1408)
    x = (torch.arange(1400) * np.float32(0.05)).float()  # on or next to borders
    xyz = torch.stack([x, torch.zeros_like(x), torch.zeros_like(x)], 1)
    voxels = voxelize(xyz, offsets_of([len(x)]), *grid)
    expected = np.floor((x.numpy() - np.float32(0)) / np.float32(0.05)).astype(int)
    assert voxels.coordinates[voxels.point_voxel, 3].tolist() == expected.tolist()


def test_first_points_and_first_voxels_stay():
    """In the order of the input, whatever the order of the voxels."""
    x = torch.tensor([3.5, 0.5, 3.1, 1.5, 3.2, 2.5, 0.2])
    xyz = torch.stack([x, torch.zeros(7), torch.zeros(7)], 1)
    voxels = voxelize(xyz, offsets_of([7]), *UNIT, max_points=2)
    assert voxels.counts.tolist() == [2, 1, 1, 2]
    assert voxels.point_voxel.tolist() == [3, 0, 3, 1, -1, 2, 0]
    voxels = voxelize(xyz, offsets_of([7]), *UNIT, max_voxels=2)
    assert voxels.coordinates[:, 3].tolist() == [0, 3]
    assert voxels.point_voxel.tolist() == [1, 0, 1, -1, 1, -1, 0]
    voxels = voxelize(xyz, offsets_of([7]), *UNIT, max_points=2, max_voxels=2)
    assert voxels.point_voxel.tolist() == [1, 0, 1, -1, -1, -1, 0]
    assert voxels.counts.tolist() == [2, 2]
    # each cloud has its own limit
    voxels = voxelize(xyz, offsets_of([4, 3]), *UNIT, max_voxels=1)
    assert voxels.coordinates[:, [0, 3]].tolist() == [[0, 3], [1, 3]]


def test_equals_the_published_rule_point_by_point():
    """A dictionary of voxels that is filled in the order of the input, as public CPU code does it."""
    xyz, (low, size, shape) = scan(4000), GRIDS["some cells"]
    for max_points, max_voxels in [(1, 10_000), (5, 100), (3, 1), (10_000, 40)]:
        table: dict[tuple[int, ...], int] = {}
        expected = []
        for place in ((xyz.numpy() - np.float32(low)) / np.float32(size)).tolist():
            cell = tuple(math.floor(c) for c in reversed(place))
            inside = all(0 <= c < cells for c, cells in zip(cell, shape))
            if not inside or (cell not in table and len(table) == max_voxels):
                expected.append(None)
            else:
                table[cell] = table.get(cell, 0) + 1
                expected.append(cell if table[cell] <= max_points else None)
        voxels = voxelize(xyz, offsets_of([4000]), low, size, shape, max_points=max_points, max_voxels=max_voxels)
        assert [tuple(cell) for cell in voxels.coordinates[:, 1:].tolist()] == sorted(table)
        assert voxels.counts.tolist() == [min(table[cell], max_points) for cell in sorted(table)]
        cells = [tuple(cell) for cell in voxels.coordinates[:, 1:].tolist()]
        assert [None if v < 0 else cells[v] for v in voxels.point_voxel.tolist()] == expected


def test_equals_spconv():
    """Its CPU voxelizer with the same limits: the same voxels hold the same points, in the same order."""
    utils = pytest.importorskip("spconv.pytorch.utils")
    xyz, low, size, shape = scan(5000), (-2.0, -2.0, -2.0), (0.4, 0.4, 0.5), (8, 10, 10)
    for max_points, max_voxels in [(5, 3000), (3, 70)]:
        theirs = utils.PointToVoxel(list(size), [*low, 2.0, 2.0, 2.0], 3, max_voxels, max_points)(xyz)
        ours = voxelize(xyz, offsets_of([5000]), low, size, shape, max_points=max_points, max_voxels=max_voxels)
        points, coordinates, counts = (x.clone() for x in theirs)
        order = (coordinates.long() * torch.tensor([10_000, 100, 1])).sum(1).argsort()
        assert torch.equal(coordinates[order].int(), ours.coordinates[:, 1:])
        assert torch.equal(counts[order].long(), ours.counts)
        for voxel in range(len(ours.counts)):
            own = xyz[ours.point_voxel == voxel]
            assert torch.equal(points[order[voxel], : len(own)], own)


@pytest.mark.parametrize("limits", [(None, None), (2, None), (None, 7), (3, 20)])
@pytest.mark.parametrize("name", GRIDS)
def test_equals_reference(name, limits):
    """Ragged clouds, on both sides of where sorting changes its way."""
    xyz, offsets = ragged([40, 0, 1, 3000, 2, 0, 200])
    for points in (xyz, scan(len(xyz))):
        args = points, offsets, *GRIDS[name]
        ours = voxelize(*args, max_points=limits[0], max_voxels=limits[1])
        assert_equal(ours, by_reference(*args, *limits))
        if name != "nothing inside":
            assert len(ours.counts) > 0


@pytest.mark.parametrize("name", hostile())
def test_equals_reference_on_hostile_clouds(name):
    xyz = hostile(900)[name]
    for grid in GRIDS.values():
        for limits in [(None, None), (2, 5)]:
            args = xyz, offsets_of([300, 600]), *grid
            ours = voxelize(*args, max_points=limits[0], max_voxels=limits[1])
            assert_equal(ours, by_reference(*args, *limits))


@given(
    packed_clouds(),
    st.floats(1e-3, 3),
    st.integers(1, 50),
    st.none() | st.integers(1, 5),
    st.none() | st.integers(1, 9),
)
def test_equals_reference_drawn(clouds, size, cells, max_points, max_voxels):
    xyz, offsets = clouds
    scale = float(xyz.abs().max()) if len(xyz) else 1.0
    for unit in (size, size * scale + 1e-6):
        grid = (-unit * cells, 0.0, -unit), (unit, 2 * unit, unit / 2), (4, cells, 2 * cells)
        ours = voxelize(xyz, offsets, *grid, max_points=max_points, max_voxels=max_voxels)
        assert_equal(ours, by_reference(xyz, offsets, *grid, max_points, max_voxels))


def test_no_points():
    for sizes in ([], [0], [0, 0]):
        voxels = voxelize(torch.zeros(0, 3), offsets_of(sizes), *UNIT)
        assert voxels.coordinates.shape == (0, 4)
        assert voxels.offsets.tolist() == [0] * (len(sizes) + 1)
        assert voxels.point_voxel.shape == voxels.counts.shape == (0,)


def test_voxels_do_not_depend_on_the_order_of_points():
    xyz = scan(3000)
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    plain = voxelize(xyz, offsets_of([3000]), *GRIDS["some cells"])
    shuffled = voxelize(xyz[order], offsets_of([3000]), *GRIDS["some cells"])
    assert torch.equal(plain.coordinates, shuffled.coordinates)
    assert torch.equal(plain.counts, shuffled.counts)
    assert torch.equal(plain.point_voxel[order], shuffled.point_voxel)


def test_scatter_gives_the_means_of_voxels():
    xyz, offsets = ragged()
    voxels = voxelize(xyz, offsets, *GRIDS["some cells"])
    means = scatter(xyz, voxels.point_voxel, len(voxels.coordinates), "mean")
    low, size, _ = GRIDS["some cells"]
    cells = ((means - torch.tensor(low)) / torch.tensor(size)).floor().int()
    assert torch.equal(cells.flip(1), voxels.coordinates[:, 1:])


@pytest.mark.parametrize("cells", [2**31 - 1, 2**32 // 4 - 1, 2**32 // 4, 2**40])
def test_numbers_of_32_and_64_bits(cells):
    """Grids of 4 x 1 x n and more cells, on both sides of where cells need a wider number; all corners."""
    long = min(cells, 2**31 - 1)
    shape = (long, 1, 4) if cells < 2**40 else (1 << 19, 4, 1 << 19)
    corner = torch.tensor([[0.0, 0, 0], [shape[2] - 1, 0, 0], [0, shape[1] - 1, 0], [0, 0, 2.0**19 - 1]])
    args = corner, offsets_of([2, 2]), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), shape
    voxels = voxelize(*args)
    assert_equal(voxels, by_reference(*args))
    assert torch.equal(voxels.coordinates[voxels.point_voxel, 1:].flip(1), corner.int())


def test_opcheck():
    xyz, offsets = ragged()
    torch.library.opcheck(OPERATOR, (xyz, offsets, -2.0, -2.0, -2.0, 0.5, 0.5, 0.5, 8, 8, 8, 3, 20))


def test_compiles():
    xyz, offsets = ragged()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(lambda x: voxelize(x, offsets, *UNIT), fullgraph=True, backend="aot_eager")
        assert_equal(compiled(xyz), voxelize(xyz, offsets, *UNIT))


def test_autocast_computes_in_float32():
    xyz, offsets = ragged()
    with torch.autocast("cpu", torch.bfloat16):
        voxels = voxelize(xyz.bfloat16(), offsets, *UNIT)
    assert_equal(voxels, voxelize(xyz.bfloat16().float(), offsets, *UNIT))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"xyz": torch.rand(2, 10, 3)}, ValueError, "PointBatch.from_dense"),
        ({"xyz": torch.rand(20, 3).double()}, TypeError, "float32"),
        ({"xyz": torch.rand(20, 3).index_fill(0, torch.tensor(13), torch.nan)}, ValueError, "xyz holds NaN .* row 13"),
        ({"offsets": torch.tensor([0, 15, 10])}, ValueError, "offsets must not decrease"),
        ({"offsets": torch.tensor([0, 20]).int()}, TypeError, "int64"),
        ({"voxel_size": (0.1, 0.1)}, ValueError, "voxel_size must be three numbers"),
        ({"voxel_size": (0.1, 0.0, 0.1)}, ValueError, "voxel_size must be above 0"),
        ({"voxel_size": (0.1, math.nan, 0.1)}, ValueError, "voxel_size must be above 0"),
        ({"low": (0.0, -math.inf, 0.0)}, ValueError, "low must be finite"),
        ({"low": (0.0, 0.0, 0.0, 1.0, 1.0, 1.0)}, ValueError, "low must be three numbers"),
        ({"shape": (10, 0, 10)}, ValueError, "shape must be between 1 and 2147483647"),
        ({"shape": (10, 10.0, 10)}, TypeError, "shape must be a whole number"),
        ({"shape": (2**31, 1, 1)}, ValueError, "shape must be between 1 and 2147483647"),
        ({"shape": (4, 2**31 - 1, 2**31 - 1)}, ValueError, "2 grids .* larger voxels"),
        ({"max_points": 0}, ValueError, "max_points must be at least 1"),
        ({"max_voxels": 2.5}, TypeError, "whole number"),
    ],
)
def test_bad_input_is_explained(change, error, text):
    good = {
        "xyz": torch.rand(20, 3),
        "offsets": torch.tensor([0, 10, 20]),
        "low": (0.0, 0.0, 0.0),
        "voxel_size": (0.1, 0.1, 0.1),
        "shape": (10, 10, 10),
    }
    with pytest.raises(error, match=text):
        voxelize(**(good | change))


def test_capacity():
    """As many points and cells as can be numbered, and one more; on the meta device, where they take no memory."""
    offsets = torch.empty(2, dtype=torch.int64, device="meta")
    with pytest.raises(ValueError, match=f"at most {MAX_POINTS} points"):
        voxelize(torch.empty(MAX_POINTS + 1, 3, device="meta"), offsets, *UNIT)
    xyz, low, size = torch.tensor([[0.0, 2.0**30, 0.0]]), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    assert voxelize(xyz, offsets_of([1]), low, size, (4, 2**30 + 1, 2**30 - 1)).coordinates.tolist() == [
        [0, 0, 2**30, 0]
    ]
    with pytest.raises(ValueError, match=r"1 grids of .* 2\^62"):
        voxelize(xyz, offsets_of([1]), low, size, (4, 2**30 + 1, 2**30))
    with pytest.raises(ValueError, match="2 grids"):
        voxelize(xyz, offsets_of([1, 0]), low, size, (4, 2**30 + 1, 2**30 - 1))


@compiled_only
def test_operator_checks_what_torch_ops_is_given():
    """The public function checks first; the kernel checks again for whoever calls torch.ops."""
    xyz, offsets = ragged()
    good = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 4, 4, 4, 9, 9]
    for place, value, text in [
        (0, math.nan, "lower corner .* finite"),
        (4, 0.0, "size of a voxel must be above 0"),
        (7, 0, "1 to 2147483647 voxels"),
        (9, 0, "max_points must be at least 1"),
        (10, 0, "max_voxels must be at least 1"),
    ]:
        bad = [*good[:place], value, *good[place + 1 :]]
        with pytest.raises(RuntimeError, match=text):
            OPERATOR(xyz, offsets, *bad)
    with pytest.raises(RuntimeError, match="more than 2"):
        OPERATOR(xyz, offsets, *good[:6], 2**31 - 1, 2**31 - 1, 4, 9, 9)


@compiled_only
def test_same_voxels_whatever_the_number_of_threads():
    xyz, offsets = scan(30_000), offsets_of([10_000, 0, 15_000, 5000])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = voxelize(xyz, offsets, *GRIDS["some cells"], max_points=5)
        torch.set_num_threads(4)
        assert_equal(voxelize(xyz, offsets, *GRIDS["some cells"], max_points=5), one)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def portable():
    """voxelize without code for particular processors, as machines without AVX run it."""
    if reason := build.missing():
        pytest.skip(reason)
    sources = [build.CSRC / "library.cpp", build.CSRC / "cpu" / "voxels.cpp"]
    name = "pctransformer_portable_voxels"
    torch.ops.load_library(build.build("_portable_voxels", sources, name, ["-DPCT_PORTABLE"]))
    return torch.ops.pctransformer_portable_voxels.voxelize


def test_same_voxels_on_other_processors(portable):
    for xyz in (scan(3000), *hostile(3000).values()):
        for low, size, shape in GRIDS.values():
            args = xyz, offsets_of([1000, 2000]), *low, *size, *shape[::-1], 4, 500
            assert_equal(portable(*args), reference.voxelize(*args))


@pytest.mark.cuda
def test_cuda_equals_cpu():
    for xyz in (scan(40_000), *hostile(5000).values()):
        n = len(xyz)
        offsets = offsets_of([n // 3, 0, 1, n - n // 3 - 1])
        for grid in GRIDS.values():
            for limits in ({}, {"max_points": 3, "max_voxels": 50}):
                ours = voxelize(xyz.cuda(), offsets.cuda(), *grid, **limits)
                assert_equal([x.cpu() for x in ours], voxelize(xyz, offsets, *grid, **limits))


@pytest.mark.cuda
def test_cuda_nan_is_in_no_voxel():
    xyz = scan(1000)
    xyz[3, 1], xyz[7, 0] = torch.nan, torch.inf
    voxels = voxelize(xyz.cuda(), offsets_of([1000]).cuda(), *GRIDS["one cell"])
    assert voxels.point_voxel[[3, 7]].tolist() == [-1, -1]
    assert voxels.counts.tolist() == [998]
