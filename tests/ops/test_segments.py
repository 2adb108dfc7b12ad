import functools
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pctransformer.ops import _library, reference, scatter, scatter_softmax, segment, segment_softmax
from tests.ops.clouds import RAGGED_SIZES, offsets_of

OPERATORS = torch.ops.pctransformer
REDUCE = ("sum", "mean", "max")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def close(dtype):
    """Tolerances: sums are taken in another order by the reference, then rounded to dtype."""
    eps = torch.finfo(dtype).eps
    return {"rtol": 4 * eps, "atol": 16 * max(eps, torch.finfo(torch.float32).eps if dtype != torch.float64 else eps)}


def ragged_values(columns=5, sizes=RAGGED_SIZES, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(sum(sizes), columns, generator=generator).to(dtype), offsets_of(sizes)


def random_index(rows, size, seed=0):
    return torch.randint(-1, size, (rows,), generator=torch.Generator().manual_seed(seed))


def test_segments_by_hand():
    values = torch.tensor([[1.0, 8], [2, 4], [6, 4]])
    offsets = torch.tensor([0, 2, 2, 3])
    assert segment(values, offsets).tolist() == [[3, 12], [0, 0], [6, 4]]
    assert segment(values, offsets, "mean").tolist() == [[1.5, 6], [0, 0], [6, 4]]
    assert segment(values, offsets, "max").tolist() == [[2, 8], [0, 0], [6, 4]]
    assert segment(values[:, 0], offsets, "max").tolist() == [2, 0, 6]
    thirds = torch.tensor([0.0, 0, 0]).log_softmax(0)  # any equal values
    assert segment_softmax(thirds, torch.tensor([0, 1, 3])).tolist() == [1, 0.5, 0.5]


def test_groups_by_hand():
    values = torch.tensor([[1.0], [2], [3], [4], [5]])
    index = torch.tensor([2, 0, 2, -1, 0])
    assert scatter(values, index, 4).tolist() == [[7], [0], [4], [0]]
    assert scatter(values, index, 4, "mean").tolist() == [[3.5], [0], [2], [0]]
    assert scatter(values, index, 4, "max").tolist() == [[5], [0], [3], [0]]
    equal = scatter_softmax(torch.ones(5), index, 4)
    assert equal.tolist() == [0.5, 0.5, 0.5, 0, 0.5]


def test_order_by_hand():
    order, offsets = OPERATORS.sort_index(torch.tensor([2, 0, 2, -1, 0]), 4)
    assert order.tolist() == [1, 4, 0, 2, 3]
    assert offsets.tolist() == [0, 2, 2, 4, 4]


def test_gradient_of_a_maximum_goes_to_the_first_row_that_holds_it():
    values = torch.tensor([[1.0, 7], [5, 7], [5, 2]], requires_grad=True)
    segment(values, torch.tensor([0, 3]), "max").sum().backward()
    assert values.grad.tolist() == [[0, 1], [1, 0], [0, 0]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 3, 16, 64, 65, 150])
@pytest.mark.parametrize("ordered", [False, True], ids=["runs", "order"])
def test_operators_equal_reference(ordered, columns, dtype):
    values, offsets = ragged_values(columns, [*RAGGED_SIZES, 300], dtype)
    order = None
    if ordered:
        order, offsets = OPERATORS.sort_index(random_index(len(values), 8), 8)
    segments, rows = len(offsets) - 1, len(values)
    per_segment = values[:segments].contiguous()
    _, argrow = reference.segment_max(values, offsets, order)
    softmax = reference.segment_softmax(values, offsets, order)
    calls = {
        "segment_sum": (values, offsets, order, True),
        "segment_spread": (per_segment, offsets, order, rows, True),
        "segment_max": (values, offsets, order),
        "segment_max_backward": (per_segment, argrow, offsets, order, rows),
        "segment_softmax": (values, offsets, order),
        "segment_softmax_backward": (values, softmax, offsets, order),
    }
    for name, arguments in calls.items():
        ours, expected = getattr(OPERATORS, name)(*arguments), reference.OPERATORS[name](*arguments)
        if name == "segment_max":
            assert torch.equal(ours[0], expected[0])
            assert torch.equal(ours[1], expected[1])
        else:
            torch.testing.assert_close(ours, expected, **close(dtype), msg=lambda text: f"{name}: {text}")  # noqa: B023


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 70), st.integers(0, 2**20))
def test_equals_reference(sizes, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-3, 4, (sum(sizes), columns), generator=generator).float()  # ties; sums are exact
    offsets, index = offsets_of(sizes), random_index(sum(sizes), 5, seed)
    order, ends = reference.sort_index(index, 5)
    assert all(torch.equal(a, b) for a, b in zip(OPERATORS.sort_index(index, 5), (order, ends)))
    for reduce in ("sum", "mean"):
        expected = reference.segment_sum(values, offsets, None, reduce == "mean")
        assert torch.equal(segment(values, offsets, reduce), expected)
        assert torch.equal(
            scatter(values, index, 5, reduce), reference.segment_sum(values, ends, order, reduce == "mean")
        )
    for run, place in ((offsets, None), (ends, order)):
        for ours, expected in zip(OPERATORS.segment_max(values, run, place), reference.segment_max(values, run, place)):
            assert torch.equal(ours, expected)
    torch.testing.assert_close(segment_softmax(values, offsets), reference.segment_softmax(values, offsets, None))
    torch.testing.assert_close(scatter_softmax(values, index, 5), reference.segment_softmax(values, ends, order))


@pytest.mark.parametrize("length", [127, 128, 129, 3000])
def test_long_segments(length):
    """On both sides of the number of rows whose exponentials are kept."""
    values, offsets = ragged_values(70, [length, 2])
    torch.testing.assert_close(segment_softmax(values, offsets), reference.segment_softmax(values, offsets, None))


@pytest.mark.skipif(_library.missing["cpu"] is not None, reason="nothing compiled")
def test_maximum_far_into_a_segment():
    """Rows are counted from slabs of 2^20."""
    rows = (1 << 20) + 5
    values = torch.zeros(rows, 1)
    values[[3, rows - 2]] = torch.tensor([[1.0], [2.0]])
    largest, argrow = OPERATORS.segment_max(values, torch.tensor([0, rows]), None)
    assert (largest.item(), argrow.item()) == (2.0, rows - 2)
    values[rows - 2] = 1
    assert OPERATORS.segment_max(values, torch.tensor([0, rows]), None)[1].item() == 3


@pytest.mark.parametrize("shape", [(0,), (0, 4), (7, 0), (7, 2, 3)])
def test_any_trailing_shape(shape):
    values, index = torch.rand(shape), random_index(shape[0], 3)
    offsets = torch.tensor([0, 0, shape[0]])
    for reduce in REDUCE:
        assert segment(values, offsets, reduce).shape == (2, *shape[1:])
        assert scatter(values, index, 3, reduce).shape == (3, *shape[1:])
    assert segment_softmax(values, offsets).shape == scatter_softmax(values, index, 3).shape == shape
    if shape == (7, 2, 3):
        torch.testing.assert_close(segment(values, offsets)[1, 1], segment(values[:, 1], offsets)[1])


def test_no_segments():
    assert segment(torch.rand(0, 3), torch.tensor([0])).shape == (0, 3)
    assert scatter(torch.rand(2, 3), torch.tensor([-1, -1]), 0).shape == (0, 3)


def as_functions():
    offsets, index = offsets_of([3, 0, 1, 4]), torch.tensor([2, -1, 0, 2, 2, 0, -1, 3])
    functions = {}
    for reduce in REDUCE:
        functions[f"segment {reduce}"] = functools.partial(segment, offsets=offsets, reduce=reduce)
        functions[f"scatter {reduce}"] = functools.partial(scatter, index=index, size=5, reduce=reduce)
    functions["segment_softmax"] = functools.partial(segment_softmax, offsets=offsets)
    functions["scatter_softmax"] = functools.partial(scatter_softmax, index=index, size=5)
    return functions


@pytest.mark.parametrize("name", as_functions())
def test_gradients(name):
    function = as_functions()[name]
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(8, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(function, values)
    assert torch.autograd.gradgradcheck(function, values)


def test_opcheck():
    values, offsets = ragged_values()
    order, ends = OPERATORS.sort_index(random_index(len(values), 9), 9)
    torch.library.opcheck(OPERATORS.sort_index.default, (random_index(50, 9), 9))
    for run, place in ((offsets, None), (ends, order)):
        segments = len(run) - 1
        grad = torch.rand(segments, 5, requires_grad=True)
        leaf = values.clone().requires_grad_()
        argrow = OPERATORS.segment_max(values, run, place)[1]
        softmax = OPERATORS.segment_softmax(values, run, place)
        torch.library.opcheck(OPERATORS.segment_sum.default, (leaf, run, place, True))
        torch.library.opcheck(OPERATORS.segment_spread.default, (grad, run, place, len(values), False))
        torch.library.opcheck(OPERATORS.segment_max.default, (leaf, run, place))
        torch.library.opcheck(OPERATORS.segment_max_backward.default, (grad, argrow, run, place, len(values)))
        torch.library.opcheck(OPERATORS.segment_softmax.default, (leaf, run, place))
        torch.library.opcheck(OPERATORS.segment_softmax_backward.default, (leaf, softmax, run, place))


@pytest.mark.parametrize("name", as_functions())
def test_compiles(name):
    function = as_functions()[name]
    values = torch.randn(8, 4, requires_grad=True)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    expected, ours = function(values), compiled(values)
    assert torch.equal(ours, expected)
    weight = torch.rand_like(expected)
    assert torch.equal(*(torch.autograd.grad(result, values, weight)[0] for result in (ours, expected)))


@pytest.mark.skipif(_library.missing["cpu"] is not None, reason="nothing compiled")
def test_same_results_whatever_the_number_of_threads():
    values, offsets = ragged_values(70, [500, 0, 3000, 20])
    index = random_index(len(values), 400)
    weights = torch.randn_like(values)

    def results():
        leaf = values.clone().requires_grad_()
        outputs = [segment(leaf, offsets, r) for r in REDUCE] + [scatter(leaf, index, 400, r) for r in REDUCE]
        softmax = scatter_softmax(leaf, index, 400)
        (softmax * weights).sum().backward()
        return [*outputs, softmax, leaf.grad]

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = results()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, results()))


def test_dense_is_the_equal_length_case():
    dense = torch.randn(6, 32, 8, dtype=torch.float64)
    values, offsets = dense.flatten(0, 1), offsets_of([32] * 6)
    torch.testing.assert_close(segment(values, offsets), dense.sum(1))
    assert torch.equal(segment(values, offsets, "max"), dense.amax(1))
    torch.testing.assert_close(segment_softmax(values, offsets), dense.softmax(1).flatten(0, 1))


def test_scatter_is_segment_of_sorted_rows():
    values, index = torch.randn(200, 3), random_index(200, 20)
    order = index.argsort(stable=True)
    runs = offsets_of([int((index == group).sum()) for group in range(-1, 20)])
    for reduce in REDUCE:
        assert torch.equal(scatter(values, index, 20, reduce), segment(values[order], runs, reduce)[1:])


def test_nan_stays_in_its_segment():
    values, offsets = torch.arange(8.0)[:, None].repeat(1, 3), offsets_of([3, 2, 3])
    values[1, 0] = values[2, 0] = torch.nan
    for reduce in REDUCE:
        bad = segment(values, offsets, reduce).isnan()
        assert bad.nonzero().tolist() == [[0, 0]]
    assert segment_softmax(values, offsets).isnan().nonzero().tolist() == [[0, 0], [1, 0], [2, 0]]
    assert OPERATORS.segment_max(values, offsets, None)[1][0].tolist() == [1, 2, 2]


def test_infinities_in_softmax_are_as_in_torch():
    values = torch.tensor([[-torch.inf, 1.0], [0, torch.inf], [2, 0], [-torch.inf, 3e38]])
    for sizes in ([4], [3, 1], [1, 3]):
        expected = torch.cat([part.softmax(0) for part in values.split(sizes)])
        torch.testing.assert_close(segment_softmax(values, offsets_of(sizes)), expected, equal_nan=True)


def test_softmax_over_its_whole_range():
    """Every difference to the maximum down to where the exponential is 0, subnormal results included."""
    below = torch.linspace(-110, 0, 2001)
    values = torch.stack([below, torch.zeros(2001)])
    ours = segment_softmax(values, torch.tensor([0, 2]))
    expected = values.double().softmax(0)
    torch.testing.assert_close(ours.double(), expected, rtol=4e-7, atol=2e-45)
    assert segment_softmax(values * 1e30, torch.tensor([0, 2])).isfinite().all()


def test_half_precision_is_summed_in_float32():
    ones = torch.ones(4096, 1, dtype=torch.bfloat16)
    assert segment(ones, torch.tensor([0, 4096])).item() == 4096  # in bfloat16 it would stop at 256
    big = torch.full((100, 1), 1000.0, dtype=torch.float16)
    assert segment(big, torch.tensor([0, 100]), "mean").item() == 1000  # the sum is beyond float16


def test_autocast_sums_in_float32():
    values, offsets = ragged_values(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        for function in (segment, segment_softmax):
            assert torch.equal(function(values, offsets), function(values.float(), offsets))


@pytest.mark.parametrize(
    ("function", "change", "error", "text"),
    [
        (segment, {"values": [1.0]}, TypeError, "torch.Tensor"),
        (segment, {"values": torch.tensor(1.0)}, ValueError, "single number"),
        (segment, {"values": torch.ones(4, 2).long()}, TypeError, "floating"),
        (segment, {"offsets": torch.tensor([0, 4], dtype=torch.int32)}, TypeError, "int64"),
        (segment, {"offsets": torch.tensor([1, 4])}, ValueError, "start with 0"),
        (segment, {"offsets": torch.tensor([0, 3, 2, 4])}, ValueError, "must not decrease"),
        (segment, {"offsets": torch.tensor([0, 5])}, ValueError, "number of rows, 4"),
        (segment, {"reduce": "min"}, ValueError, "'sum', 'mean', 'max'"),
        (segment, {"backend": "scatter"}, ValueError, "'native', 'torch_scatter'"),
        (scatter, {"index": torch.tensor([0, 1])}, ValueError, "each of 4 rows"),
        (scatter, {"index": torch.tensor([0.0, 1, 2, 0])}, TypeError, "int64"),
        (scatter, {"index": torch.tensor([0, 1, 3, 0])}, ValueError, r"\[-1, 3\), but holds 3"),
        (scatter, {"index": torch.tensor([0, 1, -2, 0])}, ValueError, "-1 stands for no row"),
        (scatter, {"size": -1}, ValueError, "at least 0"),
        (scatter, {"size": 2.5}, TypeError, "whole number"),
    ],
)
def test_bad_input_is_explained(function, change, error, text):
    good = {"values": torch.rand(4, 2)}
    good |= {"offsets": torch.tensor([0, 1, 4])} if function is segment else {"index": torch.arange(4) % 3, "size": 3}
    with pytest.raises(error, match=text):
        function(**(good | change))


def test_missing_torch_scatter_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_scatter", None)
    with pytest.raises(ImportError, match="pip install --no-build-isolation torch-scatter"):
        segment(torch.rand(4, 2), torch.tensor([0, 4]), backend="torch_scatter")


@pytest.mark.parametrize("name", as_functions())
def test_equals_torch_scatter(name):
    pytest.importorskip("torch_scatter", reason="torch-scatter is not installed")
    function = as_functions()[name]
    values = torch.randn(8, 3, generator=torch.Generator().manual_seed(2), requires_grad=True)
    ours, theirs = function(values), function(values, backend="torch_scatter")
    torch.testing.assert_close(ours, theirs)
    weight = torch.rand_like(ours)
    torch.testing.assert_close(*(torch.autograd.grad(result, values, weight)[0] for result in (ours, theirs)))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_equals_cpu(dtype):
    values, offsets = ragged_values(70, [500, 0, 1, 3000, 20, 511, 512, 2], dtype)
    index = random_index(len(values), 40)

    def results(device):
        leaf = values.to(device).requires_grad_()
        runs, groups = offsets.to(device), index.to(device)
        outputs = [segment(leaf, runs, r) for r in REDUCE] + [scatter(leaf, groups, 40, r) for r in REDUCE]
        outputs += [segment_softmax(leaf, runs), scatter_softmax(leaf, groups, 40)]
        total = sum((out * torch.linspace(-1, 1, out.numel(), device=device).view_as(out)).sum() for out in outputs)
        return [*outputs, *torch.autograd.grad(total, leaf), *OPERATORS.sort_index(groups, 40)]

    for ours, expected in zip(results("cuda"), results("cpu")):
        # long segments are summed by a tree on CUDA
        torch.testing.assert_close(ours.cpu(), expected, rtol=16 * torch.finfo(dtype).eps, atol=1e-4)


@pytest.mark.cuda
def test_cuda_leaves_out_what_is_no_group():
    values = torch.rand(4, 2)
    index = torch.tensor([0, 7, -5, 1])
    assert torch.equal(scatter(values.cuda(), index.cuda(), 2).cpu(), values[[0, 3]])
