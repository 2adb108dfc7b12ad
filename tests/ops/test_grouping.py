import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pctransformer.ops import _library, gather, group, interpolate, reference
from pctransformer.ops.grouping import _sum_back, _sum_back_sorted
from tests.ops.clouds import RAGGED_SIZES, offsets_of, packed_clouds, ragged

OPERATORS = torch.ops.pctransformer
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def random_index(*shape, rows, seed=0):
    return torch.randint(-1, rows, shape, generator=torch.Generator().manual_seed(seed))


def neighbourhoods(points=30, queries=7, neighbors=4, columns=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    xyz, query_xyz = torch.randn(points, 3, generator=generator), torch.randn(queries, 3, generator=generator)
    features = torch.randn(points, columns, generator=generator).to(dtype)
    return xyz, query_xyz, random_index(queries, neighbors, rows=points), features


def test_gather_by_hand():
    features = torch.tensor([[1.0, 2], [3, 4], [5, 6]], requires_grad=True)
    index = torch.tensor([[2, 0], [-1, 2]])
    rows = gather(features, index)
    assert rows.tolist() == [[[5, 6], [1, 2]], [[0, 0], [5, 6]]]
    (rows * torch.tensor([[[1.0], [10]], [[100], [1000]]])).sum().backward()
    assert features.grad.tolist() == [[10, 10], [0, 0], [1001, 1001]]


def test_group_by_hand():
    xyz = torch.tensor([[1.0, 2, 3], [5, 5, 5]])
    query_xyz = torch.tensor([[1.0, 1, 1], [5, 5, 4]])
    index = torch.tensor([[0, -1], [1, 0]])
    features = torch.tensor([[7.0], [8]])
    assert group(xyz, query_xyz, index).tolist() == [[[0, 1, 2], [0, 0, 0]], [[0, 0, 1], [-4, -3, -1]]]
    halved = [[[0, 0.5, 1, 7], [0, 0, 0, 0]], [[0, 0, 0.5, 8], [-2, -1.5, -0.5, 7]]]
    assert group(xyz, query_xyz, index, features, radius=2.0).tolist() == halved


def test_weighted_gather_by_hand():
    features = torch.tensor([[1.0, 2], [3, 4]])
    index, weight = torch.tensor([[0, 1], [1, -1]]), torch.tensor([[1.0, 10], [2, torch.nan]])  # -1 is never looked at
    assert OPERATORS.weighted_gather(features, index, weight).tolist() == [[31, 42], [6, 8]]
    assert OPERATORS.gather_dot(torch.tensor([[1.0, 1], [0, 5]]), features, index).tolist() == [[3, 7], [20, 0]]
    back = OPERATORS.gather_backward(torch.tensor([[1.0, 1], [0, 5]]), index, weight, 3)
    assert back.tolist() == [[1, 1], [10, 20], [0, 0]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [0, 1, 3, 16, 64, 67, 150])
def test_operators_equal_reference(columns, dtype):
    xyz, query_xyz, index, features = neighbourhoods(columns=columns, dtype=dtype)
    grad = features[-7:].flip(1).contiguous()
    weight = torch.rand(7, 4, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    calls = {
        "gather": (features, index.view(-1)),
        "group": (xyz, query_xyz, index, features, 0.3),
        "weighted_gather": (features, index, weight),
        "gather_backward": (grad, index, weight, 30),
        "gather_dot": (grad, features, index),
    }
    for name, arguments in calls.items():
        ours, expected = getattr(OPERATORS, name)(*arguments), reference.OPERATORS[name](*arguments)
        if name in ("gather", "group"):
            assert torch.equal(ours, expected)
        else:  # the reference sums up to 150 terms of about 1 in another order, before rounding to dtype
            eps = torch.finfo(ours.dtype).eps
            torch.testing.assert_close(ours, expected, rtol=4 * eps, atol=150 * min(eps, 1e-7) + 4 * eps)


@given(st.integers(1, 50), st.integers(0, 40), st.integers(1, 9), st.integers(1, 70), st.integers(0, 2**20))
def test_equals_reference(points, queries, neighbors, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    index = random_index(queries, neighbors, rows=points, seed=seed)
    features = torch.randint(-9, 10, (points, columns), generator=generator).float()  # sums are exact
    grad = torch.randint(-9, 10, (queries * neighbors, columns), generator=generator).float()
    assert torch.equal(gather(features, index), reference.gather(features, index))
    flat = index.view(-1, 1)
    assert torch.equal(
        OPERATORS.gather_backward(grad, flat, None, points), reference.gather_backward(grad, flat, None, points)
    )


@pytest.mark.parametrize("columns", [64, 61])
def test_large_results_are_streamed(columns):
    """Results of 16 MiB and more take another way to memory: rows of whole cache lines, and others in batches."""
    xyz, query_xyz, index, features = neighbourhoods(500, 2200, 33, columns)
    assert torch.equal(gather(features, index), reference.gather(features, index))
    expected = reference.group(xyz, query_xyz, index, features, 2.0)
    assert torch.equal(group(xyz, query_xyz, index, features, radius=2.0), expected)
    weight = torch.rand(70_000, 1)
    index = random_index(70_000, 1, rows=500)
    expected = reference.weighted_gather(features, index, weight)
    assert torch.equal(OPERATORS.weighted_gather(features, index, weight), expected)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_gather_takes_rows_of_any_type(dtype):
    labels = torch.arange(10).to(dtype)[:, None]
    assert gather(labels, torch.tensor([3, -1]))[:, 0].tolist() == [labels[3, 0].item(), 0]


def test_nothing_to_take():
    none = torch.zeros(0, 3)
    assert gather(none, torch.tensor([-1, -1])).tolist() == [[0, 0, 0]] * 2
    assert gather(torch.rand(3, 5), torch.zeros(0, 4, dtype=torch.int64)).shape == (0, 4, 5)
    assert group(none, torch.rand(2, 3), torch.full((2, 3), -1), none).tolist() == [[[0] * 6] * 3] * 2
    assert group(torch.rand(3, 3), none, torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 2, 3)
    assert OPERATORS.gather_backward(none, torch.zeros(0, 1, dtype=torch.int64), None, 2).tolist() == [[0] * 3] * 2


def test_gradients():
    _, _, index, features = neighbourhoods(dtype=torch.float64)
    features.requires_grad_()
    weight = torch.rand(7, 4, dtype=torch.float64, requires_grad=True)
    grad = torch.rand(7, 5, dtype=torch.float64, requires_grad=True)
    checks = {
        OPERATORS.weighted_gather: (features, index, weight),
        OPERATORS.gather_backward: (grad, index, weight, 30),
        OPERATORS.gather_dot: (grad, features, index),
        gather: (features, index),
    }
    for function, arguments in checks.items():
        assert torch.autograd.gradcheck(function, arguments)
        assert torch.autograd.gradgradcheck(function, arguments)


@pytest.mark.filterwarnings("ignore:.*double precision:UserWarning")
def test_gradients_of_group():
    """Coordinates are float32; but group is linear, and the difference over a step of 1 is exact to rounding."""
    xyz, query_xyz, index, features = (x.requires_grad_(x.is_floating_point()) for x in neighbourhoods())

    def grouped(xyz, query_xyz, features):
        return group(xyz, query_xyz, index, features, radius=0.5)

    assert torch.autograd.gradcheck(grouped, (xyz, query_xyz, features), eps=1.0, atol=1e-5, rtol=1e-5)
    assert torch.autograd.gradcheck(lambda x: group(x, query_xyz, index), xyz, eps=1.0, atol=1e-5, rtol=1e-5)
    assert torch.autograd.gradgradcheck(grouped, (xyz, query_xyz, features), eps=1.0, atol=1e-5, rtol=1e-5)


def test_opcheck():
    xyz, query_xyz, index, features = (x.requires_grad_(x.is_floating_point()) for x in neighbourhoods())
    weight, grad = torch.rand(7, 4, requires_grad=True), torch.rand(7, 5, requires_grad=True)
    torch.library.opcheck(OPERATORS.gather.default, (features, index.view(-1)))
    torch.library.opcheck(OPERATORS.group.default, (xyz, query_xyz, index, features, 0.5))
    torch.library.opcheck(OPERATORS.group.default, (xyz, query_xyz, index, None, 0.5))
    torch.library.opcheck(OPERATORS.weighted_gather.default, (features, index, weight))
    torch.library.opcheck(OPERATORS.gather_backward.default, (grad, index, weight, 30))
    torch.library.opcheck(OPERATORS.gather_backward.default, (grad, index[:, :1].contiguous(), None, 30))
    torch.library.opcheck(OPERATORS.gather_dot.default, (grad, features, index))


def assert_compiles(function, *arguments, backend):
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    expected, ours = function(*arguments), compiled(*arguments)
    assert torch.equal(ours, expected)
    leaves = [x for x in arguments if x.requires_grad]
    seed = torch.rand_like(expected)
    for a, b in zip(*(torch.autograd.grad(result, leaves, seed) for result in (ours, expected))):
        assert torch.equal(a, b)


def test_compiles():
    xyz, query_xyz, index, features = (x.requires_grad_(x.is_floating_point()) for x in neighbourhoods())
    assert_compiles(gather, features, index, backend="aot_eager")
    assert_compiles(group, xyz, query_xyz, index, features, backend="aot_eager")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from inside torch's compiler
def test_compiles_with_inductor():
    _, _, index, features = neighbourhoods()
    assert_compiles(lambda features, index: gather(features * 2, index).relu(), features.requires_grad_(), index,
                    backend="inductor")  # fmt: skip


def test_autocast_copies_and_keeps_coordinates_in_float32():
    xyz, query_xyz, index, features = neighbourhoods(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert gather(features, index).dtype == torch.bfloat16
        half = group(xyz.bfloat16(), query_xyz, index, features)
    assert torch.equal(half, group(xyz.bfloat16().float(), query_xyz, index, features))


def test_group_is_a_gather_of_everything():
    xyz, query_xyz, index, features = neighbourhoods()
    expected = torch.cat([gather(xyz, index) - query_xyz[:, None], gather(features, index)], -1)
    expected[index < 0] = 0
    assert torch.equal(group(xyz, query_xyz, index, features), expected)


def test_dense_is_the_equal_length_case():
    features, index = torch.randn(3, 20, 6), torch.randint(0, 20, (3, 5, 4))
    packed = gather(features.flatten(0, 1), (index + 20 * torch.arange(3).view(3, 1, 1)).flatten(0, 1))
    assert torch.equal(packed.view(3, 5, 4, 6), torch.stack([f[i] for f, i in zip(features, index)]))


def test_nan_goes_where_the_index_takes_it():
    xyz, query_xyz, index, features = neighbourhoods()
    features[3], xyz[4, 1] = torch.nan, torch.nan
    assert torch.equal(gather(features, index).isnan().any(-1), index == 3)
    grouped = group(xyz, query_xyz, index, features)
    assert torch.equal(grouped[..., 3:].isnan().any(-1), index == 3)
    assert torch.equal(grouped[..., 1].isnan(), index == 4)


def test_half_precision_gradients_are_summed_in_float32():
    features = torch.zeros(1, 1, dtype=torch.bfloat16, requires_grad=True)
    gather(features, torch.zeros(4096, dtype=torch.int64)).sum().backward()
    assert features.grad.item() == 4096  # in bfloat16 it would stop at 256


def test_sorted_gradients_are_the_same():
    """What CUDA does under torch.use_deterministic_algorithms; here on the CPU."""
    _, _, index, _ = neighbourhoods()
    grad, weight = torch.randn(7, 5), torch.rand(7, 4)
    assert torch.equal(_sum_back_sorted(grad, index, weight, 30), OPERATORS.gather_backward(grad, index, weight, 30))
    one = index[:, :1].contiguous()
    half = grad.bfloat16()
    assert torch.equal(_sum_back_sorted(half, one, None, 30), OPERATORS.gather_backward(half, one, None, 30))


@pytest.mark.parametrize("order", [_sum_back, _sum_back_sorted])
def test_gradients_come_as_views_too(order):
    index = torch.tensor([[0], [2], [2], [-1]])
    of_a_sum, turned = torch.ones(()).expand(4, 3), torch.arange(12.0).view(3, 4).t()
    assert order(of_a_sum, index, None, 3)[:, 0].tolist() == [1, 0, 2]
    assert order(turned, index, None, 3).tolist() == [[0, 4, 8], [0, 0, 0], [3, 11, 19]]
    assert order(turned, index, torch.full((4, 1), 2.0), 3)[2].tolist() == [6, 22, 38]


def test_an_index_may_be_a_view():
    features = torch.arange(8.0).view(4, 2)
    assert gather(features, torch.tensor([3]).expand(2)).tolist() == [[6, 7], [6, 7]]
    assert gather(features, torch.arange(4)[::2]).tolist() == [[0, 1], [4, 5]]


@pytest.mark.skipif(_library.missing["cpu"] is not None, reason="nothing compiled")
def test_same_results_whatever_the_number_of_threads():
    xyz, query_xyz, index, features = neighbourhoods(500, 2000, 16, 70)

    def results():
        leaves = [x.clone().requires_grad_() for x in (xyz, query_xyz, features)]
        grouped = group(leaves[0], leaves[1], index, leaves[2])
        return [grouped, *torch.autograd.grad((grouped * grouped).sum(), leaves)]

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = results()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, results()))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"features": torch.rand(2, 20, 4)}, ValueError, "flatten"),
        ({"features": [[0.0]]}, TypeError, "torch.Tensor"),
        ({"index": torch.zeros(3, dtype=torch.int32)}, TypeError, "int64"),
        ({"index": torch.tensor(3)}, ValueError, "at least one axis"),
        ({"index": torch.tensor([0, 20])}, ValueError, r"\[-1, 20\), but holds 20"),
        ({"index": torch.tensor([0, -2])}, ValueError, "holds -2; -1 stands for no row"),
    ],
)
def test_bad_input_to_gather_is_explained(change, error, text):
    good = {"features": torch.rand(20, 4), "index": torch.tensor([[0, 1]])}
    with pytest.raises(error, match=text):
        gather(**(good | change))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"xyz": torch.rand(30, 4)}, ValueError, r"packed \(N, 3\)"),
        ({"xyz": torch.rand(30, 3).double()}, TypeError, "float32"),
        ({"index": torch.zeros(7, dtype=torch.int64)}, ValueError, r"\(M, k\) for 7 queries"),
        ({"index": torch.zeros(6, 4, dtype=torch.int64)}, ValueError, r"\(M, k\) for 7 queries"),
        ({"index": torch.full((7, 4), 30)}, ValueError, r"\[-1, 30\), but holds 30"),
        ({"features": torch.rand(29, 5)}, ValueError, "each of 30 points"),
        ({"features": torch.zeros(30, 5, dtype=torch.int64)}, TypeError, "floating"),
        ({"radius": 0.0}, ValueError, "positive"),
        ({"radius": torch.nan}, ValueError, "positive"),
    ],
)
def test_bad_input_to_group_is_explained(change, error, text):
    good = dict(zip(("xyz", "query_xyz", "index", "features"), neighbourhoods()))
    with pytest.raises(error, match=text):
        group(**(good | change))


# ---- interpolate -----------------------------------------------------------------------------------------------------
def interpolated_by_hand(xyz, offsets, features, query_xyz, query_offsets, k=3, power=1):
    """Query by query, in float64."""
    rows = []
    for b in range(len(offsets) - 1):
        points, values = (x[offsets[b] : offsets[b + 1]].double() for x in (xyz, features))
        for query in query_xyz[query_offsets[b] : query_offsets[b + 1]].double():
            distance, nearest = (points - query).norm(dim=1).sort(stable=True)
            weight = 1 / (distance[:k] ** power + 1e-8)
            rows.append((values[nearest[:k]] * (weight / weight.sum())[:, None]).sum(0))
    return torch.stack(rows) if rows else features.new_zeros(0, features.shape[1]).double()


def test_interpolate_by_hand():
    xyz = torch.tensor([[0.0, 0, 0], [3, 0, 0], [100, 0, 0]])
    features = torch.tensor([[0.0], [30], [7]])
    query = torch.tensor([[1.0, 0, 0], [3, 0, 0]])
    for power, expected in ((1, 10.0), (2, 6.0)):  # weights 2 : 1, and 4 : 1
        out = interpolate(xyz, offsets_of([2, 1]), features, query, offsets_of([2, 0]), k=2, power=power)
        torch.testing.assert_close(out, torch.tensor([[expected], [30]]), rtol=1e-6, atol=1e-6)


def test_interpolate_with_few_points_or_none():
    xyz, features = torch.rand(2, 3), torch.tensor([[4.0], [9]])
    out = interpolate(xyz, offsets_of([0, 1, 1]), features, torch.rand(3, 3), offsets_of([1, 1, 1]))
    torch.testing.assert_close(out, torch.tensor([[0.0], [4], [9]]))
    empty = interpolate(xyz, offsets_of([2]), features, torch.zeros(0, 3), offsets_of([0]))
    assert empty.shape == (0, 1)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_interpolate_ragged_batch(k, power):
    xyz, offsets = ragged()
    query_sizes = [size and 9 for size in RAGGED_SIZES]  # the hand-made loop does not know empty clouds
    query, query_offsets = ragged(query_sizes, seed=1)
    features = torch.randn(len(xyz), 6, generator=torch.Generator().manual_seed(0))
    ours = interpolate(xyz, offsets, features, query, query_offsets, k=k, power=power)
    expected = interpolated_by_hand(xyz, offsets, features, query, query_offsets, k, power)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-5)  # float32 distances


@given(packed_clouds())
def test_interpolation_stays_between_its_values(clouds):
    xyz, offsets = clouds
    features = torch.linspace(0, 1, len(xyz))[:, None]
    out = interpolate(xyz, offsets, features, xyz, offsets)
    assert ((out >= 0) & (out <= 1 + 1e-6)).all()
    constant = interpolate(xyz, offsets, torch.ones(len(xyz), 2), xyz, offsets, power=2)
    torch.testing.assert_close(constant, torch.ones(len(xyz), 2))


@pytest.mark.parametrize("power", [1, 2])
def test_gradients_of_interpolate(power):
    generator = torch.Generator().manual_seed(0)
    xyz, query = (torch.randn(n, 3, dtype=torch.float64, generator=generator, requires_grad=True) for n in (12, 5))
    features = torch.randn(12, 2, dtype=torch.float64, generator=generator, requires_grad=True)

    def function(xyz, features, query):
        return interpolate(xyz, offsets_of([10, 2]), features, query, offsets_of([3, 2]), power=power)

    assert torch.autograd.gradcheck(function, (xyz, features, query))


@pytest.mark.parametrize("power", [1, 2])
def test_gradient_at_distance_zero_is_finite(power):
    xyz = torch.rand(5, 3, requires_grad=True)
    query = xyz.detach().clone().requires_grad_()
    features = torch.rand(5, 2)
    interpolate(xyz, offsets_of([5]), features, query, offsets_of([5]), power=power).sum().backward()
    assert xyz.grad.isfinite().all()
    assert query.grad.isfinite().all()
    lonely = torch.zeros(1, 3, requires_grad=True)
    interpolate(lonely, offsets_of([1]), torch.ones(1, 1), lonely, offsets_of([1]), power=power).sum().backward()
    assert lonely.grad.tolist() == [[0, 0, 0]]


def test_interpolate_compiles_and_keeps_the_type_of_features():
    xyz, offsets = ragged()
    features = torch.randn(len(xyz), 4, requires_grad=True)
    assert_compiles(
        lambda features: interpolate(xyz, offsets, features, xyz + 0.1, offsets), features, backend="aot_eager"
    )
    half = interpolate(xyz, offsets, features.bfloat16(), xyz + 0.1, offsets)
    assert half.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(half, interpolate(xyz, offsets, features.bfloat16(), xyz + 0.1, offsets))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"xyz": torch.rand(2, 4)}, ValueError, r"packed \(N, 3\)"),
        ({"features": torch.rand(3, 1)}, ValueError, "each of 2 points"),
        ({"features": torch.ones(2, 1).long()}, TypeError, "floating"),
        ({"k": 0}, ValueError, "k must be between 1"),
        ({"power": 3}, ValueError, "power must be 1 or 2"),
        ({"query_offsets": torch.tensor([0, 1, 2])}, ValueError, "1 clouds, query_offsets 2"),
    ],
)
def test_bad_input_to_interpolate_is_explained(change, error, text):
    offsets = torch.tensor([0, 2])
    good = {"xyz": torch.rand(2, 3), "offsets": offsets, "features": torch.rand(2, 1)}
    with pytest.raises(error, match=text):
        interpolate(**(good | {"query_xyz": torch.rand(2, 3), "query_offsets": offsets} | change))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("deterministic", [False, True])
def test_cuda_equals_cpu(dtype, deterministic):
    xyz, query_xyz, index, features = neighbourhoods(500, 2000, 16, 70, dtype)
    weight = torch.rand(2000, 16, dtype=torch.float64 if dtype == torch.float64 else torch.float32)

    def results(device):
        leaves = [x.to(device).requires_grad_() for x in (xyz, query_xyz, features, weight)]
        place = index.to(device)
        grouped = group(leaves[0], leaves[1], place, leaves[2], radius=0.5)
        mixed = OPERATORS.weighted_gather(leaves[2], place, leaves[3])
        total = (
            (grouped.float() ** 2).sum() + (mixed.float() ** 2).sum() + (gather(leaves[2], place).float() ** 2).sum()
        )
        return [grouped, mixed, *torch.autograd.grad(total, leaves)]

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        ours, expected = results("cuda"), results("cpu")
        again = results("cuda")
    finally:
        torch.use_deterministic_algorithms(before)
    assert torch.equal(ours[0].cpu(), expected[0])
    for a, b in zip(ours, expected):  # sums in another order
        torch.testing.assert_close(a.cpu(), b, rtol=32 * torch.finfo(dtype).eps, atol=1e-3)
    if deterministic:
        assert all(torch.equal(a, b) for a, b in zip(ours, again))


@pytest.mark.cuda
def test_cuda_counts_what_is_no_row_as_none():
    features = torch.rand(4, 2)
    taken = gather(features.cuda(), torch.tensor([0, 4, -7, 3]).cuda()).cpu()
    assert torch.equal(taken, gather(features, torch.tensor([0, -1, -1, 3])))
