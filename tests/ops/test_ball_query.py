import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pctransformer.ops import _library, ball_query, reference
from pctransformer.ops.ball_query import MAX_POINTS
from tests.cuda_emulation import build
from tests.ops.clouds import hostile, offsets_of, packed_clouds, ragged

OPERATOR = torch.ops.pctransformer.ball_query.default
compiled_only = pytest.mark.skipif(_library.missing["cpu"] is not None, reason="nothing compiled")


def by_reference(xyz, offsets, query_xyz, query_offsets, radius, k, closed=False, pad="none"):
    return reference.ball_query(xyz, offsets, query_xyz, query_offsets, radius, k, closed, pad == "first")


def line(*x):
    """Points on the x axis."""
    return torch.tensor([[float(value), 0, 0] for value in x])


def queries_of(xyz, offsets, seed=1):
    """Queries for a batch of clouds, none for the last: other numbers than there are points, near a part of these."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(size + 2) // 3 for size in offsets.diff()[:-1].tolist()] + [0]
    rows = [
        begin + torch.randperm(size, generator=generator)[:part]
        for begin, size, part in zip(offsets, offsets.diff(), sizes)
    ]
    near = xyz[torch.cat(rows)]
    return near + 0.05 * torch.randn(near.shape, generator=generator), offsets_of(sizes)


def test_line_by_hand():
    """Points 0, 1, 2, ... on a line in a shuffled order: the first in that order, not the nearest."""
    xyz, offsets = line(4, 0, 3, 1, 2), offsets_of([5])
    query, one = line(2.25), offsets_of([1])
    assert ball_query(xyz, offsets, query, one, 1.5, 2).tolist() == [[2, 3]]
    assert ball_query(xyz, offsets, query, one, 1.5, 4).tolist() == [[2, 3, 4, -1]]
    assert ball_query(xyz, offsets, query, one, 1.5, 4, pad="first").tolist() == [[2, 3, 4, 2]]


def test_a_point_on_the_sphere_counts_only_when_closed():
    xyz, offsets = line(-1, 0, 1, math.nextafter(1, 0) - 1e-7, 1 + 2e-7), offsets_of([5])
    query, one = line(0), offsets_of([1])
    assert ball_query(xyz, offsets, query, one, 1.0, 5).tolist() == [[1, 3, -1, -1, -1]]
    assert ball_query(xyz, offsets, query, one, 1.0, 5, closed=True).tolist() == [[0, 1, 2, 3, -1]]
    # 0.1 is not a float: the sphere lies where float32(0.1) squared says, and a point at float32(0.1) is on it.
    assert ball_query(line(0.1), offsets_of([1]), query, one, 0.1, 1).tolist() == [[-1]]
    assert ball_query(line(0.1), offsets_of([1]), query, one, 0.1, 1, closed=True).tolist() == [[0]]


def test_clouds_do_not_mix():
    """Each query sees its own cloud only; a query without neighbours keeps -1 under both paddings."""
    xyz, offsets = line(0, 1, 0.5, 0), offsets_of([2, 0, 2])
    queries, query_offsets = line(0, 0, 0.4, 9), offsets_of([1, 1, 2])
    found = ball_query(xyz, offsets, queries, query_offsets, 0.75, 2)
    assert found.tolist() == [[0, -1], [-1, -1], [2, 3], [-1, -1]]
    found = ball_query(xyz, offsets, queries, query_offsets, 0.75, 3, pad="first")
    assert found.tolist() == [[0, 0, 0], [-1, -1, -1], [2, 3, 2], [-1, -1, -1]]


def test_nothing_to_search_or_nobody_to_search_for():
    xyz, none = torch.rand(5, 3), torch.empty(0, 3)
    assert ball_query(xyz, offsets_of([5]), none, offsets_of([0]), 1.0, 4).shape == (0, 4)
    assert ball_query(none, offsets_of([0]), xyz, offsets_of([5]), 1.0, 2).tolist() == [[-1, -1]] * 5
    assert ball_query(none, torch.tensor([0]), none, torch.tensor([0]), 1.0, 2).shape == (0, 2)


@pytest.mark.parametrize("radius", [0.01, 0.2, 0.7, 20.0])
@pytest.mark.parametrize("k", [1, 16, 3000])
def test_equals_reference_on_ragged_batch(radius, k):
    xyz, offsets = ragged([700, 0, 1, 2500, 2, 50])  # on both sides of every switch between algorithms
    queries = queries_of(xyz, offsets)
    for closed, pad in [(False, "none"), (True, "first")]:
        ours = ball_query(xyz, offsets, *queries, radius, k, closed=closed, pad=pad)
        assert torch.equal(ours, by_reference(xyz, offsets, *queries, radius, k, closed, pad))


@pytest.mark.parametrize("name", hostile())
@pytest.mark.parametrize("n", [60, 3000])
def test_equals_reference_on_hostile_clouds(name, n):
    """Radii far below the spacing of the points to far beyond the cloud; a lattice has points on the sphere itself."""
    xyz, offsets = hostile(n)[name], offsets_of([n])
    queries, query_offsets = xyz[::10], offsets_of([len(xyz[::10])])
    for radius in (1e-30, 1e-3, 0.06, 1.0, 2.0, 3e5, 1e300):
        for closed in (False, True):
            args = xyz, offsets, queries, query_offsets, radius, 12
            assert torch.equal(ball_query(*args, closed=closed), by_reference(*args, closed)), (radius, closed)


def test_far_outliers_do_not_blur_the_grid():
    """One point 1e30 away stretches the grid of a small cloud over more cells than any table could hold."""
    xyz, offsets = ragged([4000])
    xyz[17] = 1e30
    queries = xyz[::8], offsets_of([len(xyz[::8])])
    for radius in (0.05, 0.3):
        assert torch.equal(
            ball_query(xyz, offsets, *queries, radius, 8), by_reference(xyz, offsets, *queries, radius, 8)
        )


@given(packed_clouds(), st.floats(1e-3, 1e3), st.integers(1, 90), st.booleans(), st.sampled_from(["none", "first"]))
def test_equals_reference(clouds, radius, k, closed, pad):
    xyz, offsets = clouds
    scale = float(xyz.abs().max()) if len(xyz) else 1.0
    for args in [(xyz, offsets), queries_of(xyz, offsets)]:
        for r in (radius, radius * scale * 1e-3 + 1e-6):
            ours = ball_query(xyz, offsets, *args, r, k, closed=closed, pad=pad)
            assert torch.equal(ours, by_reference(xyz, offsets, *args, r, k, closed, pad))


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1e-3, 0.1, 0.4, 3.0]),
    st.sampled_from([1.0, 1e-4, 1e5]),
    st.sampled_from([0.0, 1e3]),
    st.integers(1, 200),
)
def test_equals_reference_on_larger_clouds(seed, radius, scale, shift, k):
    """Clouds large enough for the grid, with points exactly one radius apart along the axes."""
    generator = np.random.default_rng(seed)
    xyz = generator.normal(size=(3000, 3))
    xyz[1000:2000] = xyz[:1000] + radius * np.eye(3)[generator.integers(0, 3, 1000)]
    xyz = torch.from_numpy((xyz * scale + shift).astype(np.float32))
    args = xyz, offsets_of([3000]), xyz[::12], offsets_of([250]), radius * scale, k
    assert torch.equal(ball_query(*args), by_reference(*args))
    assert torch.equal(ball_query(*args, closed=True), by_reference(*args, closed=True))


def test_dense_is_the_equal_length_case():
    dense = torch.randn(4, 50, 3)
    packed = ball_query(dense.reshape(-1, 3), offsets_of([50] * 4), dense.reshape(-1, 3), offsets_of([50] * 4), 0.5, 8)
    alone = torch.stack([ball_query(cloud, offsets_of([50]), cloud, offsets_of([50]), 0.5, 8) for cloud in dense])
    first = 50 * torch.arange(4)[:, None, None]
    assert torch.equal(packed.view(4, 50, 8), torch.where(alone < 0, -1, alone + first))


@pytest.mark.parametrize("n", [400, 6000])
def test_order_of_points_does_not_change_who_is_near(n):
    """Where nothing is cut off, shuffling the points and moving back the found rows gives the same sets."""
    xyz, offsets = torch.rand(n, 3), offsets_of([n])
    k = n // 4
    plain = ball_query(xyz, offsets, xyz[:99], offsets_of([99]), 0.2, k)
    assert (plain[:, -1] == -1).all()
    order = torch.randperm(n)
    shuffled = ball_query(xyz[order], offsets, xyz[:99], offsets_of([99]), 0.2, k)
    moved_back = torch.where(shuffled < 0, -1, order[shuffled])
    assert torch.equal(moved_back.sort(1).values, plain.sort(1).values)


def test_moving_a_cloud_does_not_change_its_neighbours():
    xyz = torch.randint(-50, 50, (3000, 3)).float()  # whole numbers: a shift and a turn by 90 degrees are exact
    turned = xyz[:, [1, 0, 2]] * torch.tensor([-1.0, 1, 1]) + torch.tensor([100.0, -30, 7])
    offsets = offsets_of([3000])
    for closed in (False, True):
        plain = ball_query(xyz, offsets, xyz, offsets, 9.0, 20, closed=closed)
        assert torch.equal(plain, ball_query(turned, offsets, turned, offsets, 9.0, 20, closed=closed))


def test_opcheck():
    xyz, offsets = ragged()
    torch.library.opcheck(OPERATOR, (xyz, offsets, *queries_of(xyz, offsets), 0.5, 8, False, True))


def test_compiles():
    xyz, offsets = ragged()
    compiled = torch.compile(lambda x: ball_query(x, offsets, x, offsets, 0.5, 8), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(xyz), ball_query(xyz, offsets, xyz, offsets, 0.5, 8))


def test_autocast_searches_in_float32():
    xyz, offsets = ragged()
    half = xyz.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = ball_query(half, offsets, half, offsets, 0.5, 8)
    assert torch.equal(found, ball_query(half.float(), offsets, half.float(), offsets, 0.5, 8))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"xyz": torch.rand(2, 10, 3)}, ValueError, "PointBatch.from_dense"),
        ({"query_xyz": torch.rand(6, 4)}, ValueError, r"query_xyz must be packed \(N, 3\)"),
        ({"query_xyz": torch.rand(6, 3, dtype=torch.float64)}, TypeError, "float32"),
        ({"xyz": torch.rand(20, 3).index_fill(0, torch.tensor(13), torch.nan)}, ValueError, "xyz holds NaN .* row 13"),
        ({"query_xyz": torch.rand(6, 3).index_fill(0, torch.tensor(5), torch.inf)}, ValueError, "query_xyz .* row 5"),
        ({"offsets": torch.tensor([0, 10, 20], dtype=torch.int32)}, TypeError, "int64"),
        ({"offsets": torch.tensor([0, 15, 10])}, ValueError, "offsets must not decrease"),
        ({"query_offsets": torch.tensor([0, 2, 5])}, ValueError, "query_offsets must end with the number of rows, 6"),
        ({"query_offsets": torch.tensor([0, 6])}, ValueError, "2 clouds, query_offsets 1"),
        ({"radius": 0.0}, ValueError, "radius must be above 0"),
        ({"radius": -1.0}, ValueError, "radius must be above 0"),
        ({"radius": math.nan}, ValueError, "radius must be above 0"),
        ({"radius": math.inf}, ValueError, "radius must be above 0 and finite"),
        ({"radius": "0.2"}, TypeError, "radius must be a number"),
        ({"k": 0}, ValueError, "at least 1"),
        ({"k": 2.0}, TypeError, "whole number"),
        ({"pad": "last"}, ValueError, "one of 'none', 'first'"),
    ],
)
def test_bad_input_is_explained(change, error, text):
    good = {
        "xyz": torch.rand(20, 3),
        "offsets": torch.tensor([0, 10, 20]),
        "query_xyz": torch.rand(6, 3),
        "query_offsets": torch.tensor([0, 2, 6]),
        "radius": 0.2,
        "k": 4,
    }
    with pytest.raises(error, match=text):
        ball_query(**(good | change))


def test_capacity():
    """As many points as 32-bit rows can number, and one more; on the meta device, where they take no memory."""
    queries = torch.empty(2, 3, device="meta"), torch.empty(2, dtype=torch.int64, device="meta")
    offsets = torch.empty(2, dtype=torch.int64, device="meta")
    assert ball_query(torch.empty(MAX_POINTS, 3, device="meta"), offsets, *queries, 0.1, 4).shape == (2, 4)
    with pytest.raises(ValueError, match=f"at most {MAX_POINTS} points"):
        ball_query(torch.empty(MAX_POINTS + 1, 3, device="meta"), offsets, *queries, 0.1, 4)


@compiled_only
def test_operator_checks_what_torch_ops_is_given():
    """The public function checks first; the kernel checks again for whoever calls torch.ops."""
    xyz, offsets = ragged()
    for radius, k, text in [
        (0.0, 4, "radius must be above 0"),
        (math.inf, 4, "finite"),
        (1.0, 0, "k must be at least 1"),
    ]:
        with pytest.raises(RuntimeError, match=text):
            OPERATOR(xyz, offsets, xyz, offsets, radius, k, False, False)


@compiled_only
def test_same_rows_whatever_the_number_of_threads():
    xyz, offsets = ragged([1000, 9000, 5, 3000])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = ball_query(xyz, offsets, xyz, offsets, 0.3, 20)
        torch.set_num_threads(4)
        assert torch.equal(one, ball_query(xyz, offsets, xyz, offsets, 0.3, 20))
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def portable():
    """ball_query without code for particular processors, as machines without AVX-512 run it."""
    if reason := build.missing():
        pytest.skip(reason)
    sources = [build.CSRC / "library.cpp", build.CSRC / "cpu" / "ball_query.cpp"]
    name = "pctransformer_portable_ball_query"
    torch.ops.load_library(build.build("_portable_ball_query", sources, name, ["-DPCT_PORTABLE"]))
    return torch.ops.pctransformer_portable_ball_query.ball_query


@pytest.mark.parametrize("radius", [0.06, 0.7])
def test_same_rows_without_avx512(portable, radius):
    xyz, offsets = ragged([700, 0, 1, 2500, 2, 50])
    batches = [(xyz, offsets, *queries_of(xyz, offsets))]
    batches += [(x, offsets_of([2500]), x[:200], offsets_of([200])) for x in hostile(2500).values()]
    for batch in batches:
        for k in (5, 300):
            assert torch.equal(portable(*batch, radius, k, False, False), by_reference(*batch, radius, k))


@pytest.mark.cuda
def test_cuda_equals_cpu():
    batches = [ragged([3000, 0, 1, 700, 20000, 2])] + [(x, offsets_of([20000])) for x in hostile(20000).values()]
    for xyz, offsets in batches:
        for radius in (1e-3, 0.06, 1.0, 2.0, 3e5, 1e25):
            for k, closed, pad in [(5, False, "none"), (40, True, "first")]:
                queries = queries_of(xyz, offsets) if len(offsets) > 2 else (xyz, offsets)
                args = xyz, offsets, *queries
                ours = ball_query(*(x.cuda() for x in args), radius, k, closed=closed, pad=pad)
                assert torch.equal(ours.cpu(), ball_query(*args, radius, k, closed=closed, pad=pad))


@pytest.mark.cuda
@pytest.mark.parametrize("n", [500, 50000])
def test_cuda_nan_is_in_no_ball(n):
    xyz, offsets = ragged([n])
    xyz[[3, 77]] = torch.nan
    found = ball_query(xyz.cuda(), offsets.cuda(), xyz[:500].cuda(), offsets_of([500]).cuda(), 100.0, n).cpu()
    assert (found[[3, 77]] == -1).all()
    others = torch.tensor([row for row in range(n) if row not in (3, 77)])
    assert torch.equal(found[0, : n - 2], others)
