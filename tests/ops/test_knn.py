import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pctransformer.ops import _library, knn, reference
from tests.cuda_emulation import build
from tests.ops.clouds import hostile, offsets_of, packed_clouds, ragged

OPERATOR = torch.ops.pctransformer.knn.default
QUERY_SIZES = [30, 7, 0, 60, 1, 0, 5]  # queries into empty clouds, and clouds without queries


def assert_equals_reference(xyz, offsets, query_xyz, query_offsets, k):
    index, squared_distance = knn(xyz, offsets, query_xyz, query_offsets, k)
    expected_index, expected_distance = reference.knn(xyz, offsets, query_xyz, query_offsets, k)
    assert torch.equal(index, expected_index)
    assert torch.equal(squared_distance, expected_distance)  # every bit


def test_points_on_a_line_by_hand():
    """Points at 0, 1, 3, 6 and 3 again on the x axis; a second cloud of one point."""
    xyz = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [6, 0, 0], [3, 0, 0], [9, 9, 9]])
    query = torch.tensor([[2.0, 0, 0], [6, 4, 0], [9, 9, 7]])
    index, squared_distance = knn(xyz, offsets_of([5, 1]), query, offsets_of([2, 1]), 3)
    assert index.tolist() == [[1, 2, 4], [3, 2, 4], [5, -1, -1]]  # ties: the lower row first
    assert squared_distance.tolist() == [[1, 1, 1], [16, 25, 25], [4, torch.inf, torch.inf]]
    index, _ = knn(xyz, offsets_of([5, 1]), query, offsets_of([2, 1]), 2)
    assert index.tolist() == [[1, 2], [3, 2], [5, -1]]  # and at the cut the lowest row is kept


@pytest.mark.parametrize("k", [1, 3, 16, 17, 32, 40, 256])
def test_equals_reference_on_ragged_batch(k):
    xyz, offsets = ragged()
    query, query_offsets = ragged(QUERY_SIZES, seed=1)
    assert_equals_reference(xyz, offsets, query, query_offsets, k)
    assert_equals_reference(xyz, offsets, xyz, offsets, k)


@pytest.mark.parametrize("k", [1, 16, 20])
def test_equals_reference_on_clouds_of_all_heights_of_the_tree(k):
    xyz, offsets = ragged([15, 16, 17, 255, 256, 257, 4096, 4097, 10_000])
    query, query_offsets = ragged([100] * 9, seed=1)
    assert_equals_reference(xyz, offsets, query, query_offsets, k)
    assert_equals_reference(xyz, offsets, query * 100, query_offsets, k)  # most queries far outside


@pytest.mark.parametrize("name", hostile())
@pytest.mark.parametrize(("n", "k"), [(60, 1), (60, 60), (60, 61), (300, 256), (5000, 3), (5000, 16), (5000, 100)])
def test_equals_reference_on_hostile_clouds(name, n, k):
    xyz, query = hostile(n)[name], hostile(200, seed=1)[name]
    assert_equals_reference(xyz, offsets_of([n]), query, offsets_of([len(query)]), k)
    assert_equals_reference(xyz, offsets_of([n]), xyz[:400], offsets_of([min(n, 400)]), k)


@given(packed_clouds(max_clouds=3), packed_clouds(max_clouds=3), st.sampled_from([1, 2, 7, 16, 17, 80, 256]))
def test_equals_reference(clouds, queries, k):
    (xyz, offsets), (query, query_offsets) = clouds, queries
    assert_equals_reference(xyz, offsets, xyz, offsets, k)
    if len(offsets) == len(query_offsets):
        assert_equals_reference(xyz, offsets, query, query_offsets, k)


def test_a_far_outlier_does_not_make_it_slow():
    """One point 1e7 away leaves all others in one cell of the space-filling curve, which must be refined."""
    xyz = torch.cat([ragged([30_000])[0], torch.tensor([[1e7, 0, 0]])])
    query = torch.cat([xyz[:60], xyz[-1:]])
    assert_equals_reference(xyz, offsets_of([30_001]), query, offsets_of([61]), 16)


@pytest.mark.skipif(_library.missing["cpu"] is not None, reason="nothing compiled")
def test_many_coinciding_points_keep_the_lowest_rows_and_are_not_slow():
    xyz, offsets = torch.zeros(100_000, 3), offsets_of([50_000, 50_000])  # comparing all pairs would take minutes
    index, squared_distance = knn(xyz, offsets, xyz, offsets, 20)
    first_rows = 50_000 * (torch.arange(100_000) >= 50_000)
    assert torch.equal(index, first_rows[:, None] + torch.arange(20))
    assert not squared_distance.any()


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e38])  # squares underflow, squares overflow, differences overflow
def test_equals_reference_where_float32_ends(scale):
    xyz = ragged([500])[0].clamp(-3, 3) * scale
    assert_equals_reference(xyz, offsets_of([500]), xyz, offsets_of([500]), 20)


def test_float64_equals_reference_and_float32_where_exact():
    xyz = torch.randint(-20, 20, (300, 3)).double()
    offsets = offsets_of([100, 0, 200])
    assert_equals_reference(xyz, offsets, xyz, offsets, 9)
    assert torch.equal(knn(xyz, offsets, xyz, offsets, 9)[0], knn(xyz.float(), offsets, xyz.float(), offsets, 9)[0])
    nearby = torch.tensor([[1.0 + 1e-12, 0, 0], [1, 0, 0]], dtype=torch.float64)
    assert knn(nearby, offsets_of([2]), nearby * 0, offsets_of([2]), 2)[0].tolist() == [[1, 0], [1, 0]]


def test_gradients():
    xyz = ragged([20, 0, 3])[0].double().requires_grad_()
    query = ragged([4, 1, 2], seed=1)[0].double().requires_grad_()
    offsets, query_offsets = offsets_of([20, 0, 3]), offsets_of([4, 1, 2])

    def finite_distances(xyz, query):
        squared_distance = knn(xyz, offsets, query, query_offsets, 5)[1]
        return squared_distance.masked_fill(squared_distance.isinf(), 0)

    assert torch.autograd.gradcheck(finite_distances, (xyz, query))
    assert torch.autograd.gradgradcheck(finite_distances, (xyz, query))


def test_gradient_of_padding_is_zero():
    xyz = torch.tensor([[1.0, 0, 0]], requires_grad=True)
    query = torch.zeros(1, 3, requires_grad=True)
    knn(xyz, offsets_of([1]), query, offsets_of([1]), 4)[1].sum().backward()
    assert xyz.grad is not None
    assert query.grad is not None
    assert xyz.grad.tolist() == [[2, 0, 0]]
    assert query.grad.tolist() == [[-2, 0, 0]]


def test_gradient_without_points():
    query = torch.rand(2, 3, requires_grad=True)
    knn(torch.rand(0, 3), offsets_of([0]), query, offsets_of([2]), 4)[1].sum().backward()
    assert query.grad is not None
    assert not query.grad.any()


def test_permuting_points_permutes_indices():
    xyz, query = ragged([700])[0], ragged([90], seed=1)[0]
    order = torch.randperm(700)
    index, squared_distance = knn(xyz, offsets_of([700]), query, offsets_of([90]), 20)
    permuted, same_distance = knn(xyz[order], offsets_of([700]), query, offsets_of([90]), 20)
    assert torch.equal(order[permuted], index)
    assert torch.equal(same_distance, squared_distance)


def test_dense_is_the_equal_length_case():
    dense = torch.randn(4, 50, 3)
    packed, _ = knn(dense.flatten(0, 1), offsets_of([50] * 4), dense.flatten(0, 1), offsets_of([50] * 4), 8)
    alone = torch.stack([knn(cloud, offsets_of([50]), cloud, offsets_of([50]), 8)[0] for cloud in dense])
    assert torch.equal(packed.view(4, 50, 8), alone + 50 * torch.arange(4)[:, None, None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype):
    xyz, offsets = ragged()
    query, query_offsets = ragged(QUERY_SIZES, seed=1)
    arguments = (xyz.to(dtype), offsets, query.to(dtype), query_offsets, 5)
    torch.library.opcheck(OPERATOR, arguments)
    # With gradients opcheck adds a float sum to the int64 index and fails; test_compiles looks at the traced gradient.
    arguments = (xyz.to(dtype).requires_grad_(), offsets, query.to(dtype).requires_grad_(), query_offsets, 5)
    torch.library.opcheck(OPERATOR, arguments, test_utils=("test_schema", "test_autograd_registration"))


def test_compiles():
    offsets = offsets_of([40, 0, 20])

    def nearest(xyz):
        return knn(xyz, offsets, xyz[:60] * 2, offsets, 5)

    compiled = torch.compile(nearest, fullgraph=True, backend="aot_eager")
    gradients = []
    for function in (nearest, compiled):
        xyz = ragged([40, 0, 20])[0].requires_grad_()
        index, squared_distance = function(xyz)
        assert torch.equal(index, nearest(xyz)[0])
        assert torch.equal(squared_distance, nearest(xyz)[1])
        squared_distance[:40].sum().backward()
        gradients.append(xyz.grad)
    torch.testing.assert_close(*gradients)  # sums in another order


def test_autocast_measures_in_float32():
    xyz, offsets = ragged()
    half = xyz.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        index, squared_distance = knn(half, offsets, half, offsets, 5)
    expected_index, expected_distance = knn(half.float(), offsets, half.float(), offsets, 5)
    assert torch.equal(index, expected_index)
    assert torch.equal(squared_distance, expected_distance)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"xyz": torch.rand(2, 10, 3)}, ValueError, "PointBatch.from_dense"),
        ({"query_xyz": torch.rand(20, 4)}, ValueError, r"query_xyz must be packed \(N, 3\)"),
        ({"xyz": torch.rand(20, 3, dtype=torch.float64)}, TypeError, "one dtype"),
        ({"xyz": torch.rand(20, 3).half()}, TypeError, "float32"),
        ({"query_xyz": [[0.0, 0, 0]]}, TypeError, "torch.Tensor"),
        ({"xyz": torch.rand(20, 3).index_fill(0, torch.tensor(13), torch.nan)}, ValueError, "xyz holds NaN.*row 13"),
        ({"query_xyz": torch.full((8, 3), torch.inf)}, ValueError, "query_xyz holds NaN or infinity.*row 0"),
        ({"offsets": torch.tensor([0, 10, 20], dtype=torch.int32)}, TypeError, "int64"),
        ({"offsets": torch.tensor([0, 20])}, ValueError, "1 clouds, query_offsets 2"),
        ({"query_offsets": torch.tensor([0, 9, 8])}, ValueError, "query_offsets must not decrease"),
        ({"query_offsets": torch.tensor([0, 4, 7])}, ValueError, "number of rows, 8"),
        ({"k": 0}, ValueError, "k must be between 1 and 256, got 0"),
        ({"k": 257}, ValueError, "k must be between 1 and 256, got 257"),
        ({"k": 2.0}, TypeError, "whole number"),
    ],
)
def test_bad_input_is_explained(change, error, text):
    good = {"xyz": torch.rand(20, 3), "offsets": torch.tensor([0, 10, 20])}
    good |= {"query_xyz": torch.rand(8, 3), "query_offsets": torch.tensor([0, 4, 8]), "k": 4}
    with pytest.raises(error, match=text):
        knn(**(good | change))


@pytest.mark.skipif(_library.missing["cpu"] is not None, reason="nothing compiled")
def test_operator_protects_memory_from_direct_callers():
    xyz, offsets = ragged([20])
    with pytest.raises(RuntimeError, match="k must be between 1 and 256, got 257"):
        OPERATOR(xyz, offsets, xyz, offsets, 257)
    with pytest.raises(RuntimeError, match="same dtype"):
        OPERATOR(xyz, offsets, xyz.double(), offsets, 4)
    with pytest.raises(RuntimeError, match="contiguous"):
        OPERATOR(xyz[:, [0, 1, 2]].t().contiguous().t(), offsets, xyz, offsets, 4)


@pytest.mark.skipif(_library.missing["cpu"] is not None, reason="nothing compiled")
def test_same_neighbours_whatever_the_number_of_threads():
    xyz, offsets = ragged([1000, 2000, 500, 3000])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = knn(xyz, offsets, xyz, offsets, 16)
        torch.set_num_threads(3)
        three = knn(xyz, offsets, xyz, offsets, 16)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one[0], three[0])
    assert torch.equal(one[1], three[1])


@pytest.fixture(scope="module")
def portable():
    """knn without code for particular processors, as machines without AVX-512 run it."""
    if reason := build.missing():
        pytest.skip(reason)
    sources = [build.CSRC / "library.cpp", build.CSRC / "cpu" / "knn.cpp"]
    torch.ops.load_library(build.build("_portable_knn", sources, "pctransformer_portable_knn", ["-DPCT_PORTABLE"]))
    return torch.ops.pctransformer_portable_knn.knn


@pytest.mark.parametrize("k", [1, 16, 20, 256])
def test_same_neighbours_without_avx512(portable, k):
    batches = [(*ragged([3000, 0, 1, 700, 2]), *ragged([500, 3, 1, 0, 9], seed=1))]
    batches += [(x, offsets_of([2000]), x[:200], offsets_of([200])) for x in hostile(2000).values()]
    for batch in batches:
        for ours, expected in zip(portable(*batch, k), reference.knn(*batch, k)):
            assert torch.equal(ours, expected)


@pytest.mark.cuda
@pytest.mark.parametrize("k", [1, 16, 20, 64, 256])
def test_cuda_equals_cpu(k):
    batches = [(*ragged([3000, 0, 1, 700, 50_000, 2]), *ragged([500, 3, 1, 0, 2000, 9], seed=1))]
    batches += [(x, offsets_of([6000]), x[:1000], offsets_of([1000])) for x in hostile(6000).values()]
    batches += [(x, offsets_of([40_000]), x[:1000], offsets_of([1000])) for x in hostile(40_000).values()]
    for batch in batches:
        on_cuda = knn(*(tensor.cuda() for tensor in batch), k)
        for ours, expected in zip(on_cuda, knn(*batch, k)):
            assert torch.equal(ours.cpu(), expected)


@pytest.mark.cuda
@pytest.mark.parametrize("n", [500, 40_000])
def test_cuda_treats_nan_as_infinitely_far(n):
    xyz, offsets = ragged([n])
    query = xyz[:100].clone()
    expected_xyz = xyz.clone()
    xyz[[3, 77]], expected_xyz[[3, 77]], query[5] = torch.nan, 1e9, torch.nan
    index, squared_distance = knn(xyz.cuda(), offsets.cuda(), query.cuda(), offsets_of([100]).cuda(), 16)
    expected, _ = knn(expected_xyz, offsets, query.nan_to_num(), offsets_of([100]), 16)
    valid = torch.arange(100) != 5
    assert torch.equal(index.cpu()[valid], expected[valid])
    assert (index[5] == -1).all()
    assert (squared_distance[5] == torch.inf).all()
