import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from pctransformer.ops import _library, deformable_attention, reference
from pctransformer.ops.deformable import MAX_LEVELS, _sum_to_cells
from tests.cuda_emulation import build

FORWARD = torch.ops.pctransformer.deformable_attention.default
BACKWARD = torch.ops.pctransformer.deformable_attention_backward.default
SHAPES = [(7, 5), (1, 3), (4, 4), (1, 1)]
"""Higher than wide, one row, square, one cell."""

compiled_only = pytest.mark.skipif(_library.missing["cpu"] is not None, reason="nothing compiled")


def samples(shapes=SHAPES, batch=2, queries=11, heads=3, dim=5, points=4, dtype=torch.float32, seed=0):
    """value, level_shapes as the operator takes them, locations from outside to outside, weights"""
    draw = torch.Generator().manual_seed(seed)
    cells = sum(height * width for height, width in shapes)
    value = torch.randn(batch, cells, heads, dim, generator=draw, dtype=dtype)
    locations = torch.rand(batch, queries, heads, len(shapes), points, 2, generator=draw, dtype=dtype) * 1.6 - 0.3
    weights = torch.randn(batch, queries, heads, len(shapes), points, generator=draw, dtype=dtype)
    return value, [side for shape in shapes for side in shape], locations, weights


def on_lines(seed=0, dtype=torch.float32):
    """Places on cells' centres, on the lines between them, and on borders, which eighths hit exactly."""
    value, sizes, locations, weights = samples([(4, 8), (2, 2), (8, 1)], queries=200, seed=seed, dtype=dtype)
    eighths = torch.randint(-8, 25, locations.shape, generator=torch.Generator().manual_seed(seed)) / 16
    return value, sizes, eighths.to(dtype), weights


def pairs(sizes):
    return list(zip(sizes[::2], sizes[1::2]))


def close(ours, theirs):
    """grid_sample moves places to -1 ... 1 and back; slopes are differences of values times the size of a map."""
    exact = theirs.dtype == torch.float64
    torch.testing.assert_close(ours, theirs, rtol=1e-9 if exact else 1e-4, atol=1e-11 if exact else 1e-4)


def check_against_reference(arguments, forward=FORWARD, backward=BACKWARD, check=close):
    output = forward(*arguments)
    check(output, reference.deformable_attention(*arguments))
    grad = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(
        backward(grad, *arguments), reference.deformable_attention_backward(grad, *arguments), strict=True
    ):
        check(ours, theirs)


# ---- by hand ---------------------------------------------------------------------------------------------------------
def attend_to(cells, x, y):
    """One head with one channel looks at one place of one map."""
    value = torch.tensor(cells).flatten()[None, :, None, None]
    shape = len(cells), len(cells[0])
    return deformable_attention(value, [shape], torch.tensor([x, y]).view(1, 1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1, 1))


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.125, 0.25, 1.0),  # the centre of the first cell
        (0.375, 0.25, 2.0),  # x runs along a row
        (0.125, 0.75, 10.0),  # y from row to row
        (0.25, 0.25, 1.5),  # between two cells
        (0.25, 0.5, 8.25),  # between four: 1, 2, 10, 20
        (0.3125, 0.25, 1.75),  # three quarters of the way
        (0.0, 0.25, 0.5),  # on the border half is outside
        (0.0, 0.0, 0.25),  # in the corner three quarters
        (1.0, 1.0, 10.0),  # the last cell, 40
        (-0.125, 0.25, 0.0),  # one cell beyond the border
        (-7.0, 0.25, 0.0),
        (0.125, 1e30, 0.0),
    ],
)
def test_a_place_by_hand(x, y, expected):
    assert attend_to([[1.0, 2, 3, 4], [10.0, 20, 30, 40]], x, y).item() == expected


def test_levels_heads_points_and_weights_by_hand():
    """Two levels of one cell, two heads of two channels, two points on each."""
    value = torch.tensor([[[1.0, 2], [3, 4]], [[10, 20], [30, 40]]])[None]  # (1, S = 2, H = 2, D = 2)
    weights = torch.tensor([[[1.0, 1], [1, 0]], [[0, 2], [3, 0]]])[None, None]  # (1, 1, H, L, P)
    output = deformable_attention(value, [(1, 1), (1, 1)], torch.full((1, 1, 2, 2, 2, 2), 0.5), weights)
    assert output.tolist() == [[[2 + 10, 4 + 20, 6 + 90, 8 + 120]]]


def test_gradients_by_hand():
    """A quarter of a cell right of the first of two cells with 3 and 7, weight 2; below it there is nothing."""
    value = torch.tensor([3.0, 7]).view(1, 2, 1, 1).requires_grad_()
    locations = torch.tensor([0.375, 0.5]).view(1, 1, 1, 1, 1, 2).requires_grad_()
    weights = torch.full((1, 1, 1, 1, 1), 2.0, requires_grad=True)
    deformable_attention(value, [(1, 2)], locations, weights).sum().backward()
    assert value.grad.flatten().tolist() == [1.5, 0.5]
    assert weights.grad.item() == 4
    assert locations.grad.flatten().tolist() == [16.0, -8.0]  # 2 * (7 - 3) a cell, 2 cells a unit; 2 * (0 - 4)


# ---- against the reference and torch ---------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 5, 16, 32, 33, 70])
def test_equals_reference(dim, dtype):
    check_against_reference(samples(dim=dim, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_reference_on_lines_and_borders(dtype):
    """Binary fractions: the reference's way to -1 ... 1 and back is exact, and slopes are of the same side."""
    check_against_reference(on_lines(dtype=dtype))


@given(st.data())
def test_equals_reference_on_any_sizes(data):
    side = st.integers(1, 9)
    shapes = data.draw(st.lists(st.tuples(side, side), min_size=1, max_size=4))
    batch, queries, heads, points = (data.draw(st.integers(0, n)) for n in (3, 20, 3, 5))
    dim, seed = data.draw(st.integers(1, 40)), data.draw(st.integers(0, 1000))
    check_against_reference(samples(shapes, batch, queries, max(heads, 1), dim, points, torch.float64, seed))


def test_equals_grid_sample():
    """The reference itself: one level, one head, one point of weight 1."""
    cells = torch.randn(2, 6, 5, 9)
    places = torch.rand(2, 30, 2) * 1.4 - 0.2
    value = cells.flatten(2).transpose(1, 2)[:, :, None]
    ours = deformable_attention(value, [(5, 9)], places.view(2, 30, 1, 1, 1, 2), torch.ones(2, 30, 1, 1, 1))
    theirs = F.grid_sample(cells, 2 * places[:, None] - 1, align_corners=False)[:, :, 0]
    close(ours, theirs.transpose(1, 2))


def test_reference_gradient_is_that_of_the_reference():
    """Autograd through the sums written as the paper writes them."""
    value, sizes, locations, weights = samples(dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (value, locations, weights)]
    output = reference.deformable_attention(value, sizes, locations, weights)
    grad = torch.randn_like(output)
    expected = torch.autograd.grad(output, leaves, grad)
    with torch.no_grad():
        ours = reference.deformable_attention_backward(grad, value, sizes, locations, weights)
    for a, b in zip(ours, expected, strict=True):
        close(a, b)


@pytest.mark.parametrize("empty", ["batch", "queries", "points"])
def test_nothing_to_attend(empty):
    value, sizes, locations, weights = samples(**{empty: 0})
    leaves = [x.requires_grad_() for x in (value, locations, weights)]
    output = deformable_attention(value, pairs(sizes), locations, weights)
    assert output.shape == (*weights.shape[:2], 15)
    assert not output.any()
    for leaf, grad in zip(leaves, torch.autograd.grad(output.sum(), leaves)):
        assert grad.shape == leaf.shape
        assert not grad.any()


def test_as_many_levels_as_there_may_be():
    check_against_reference(samples([(2, 3)] * MAX_LEVELS, queries=3, points=1))
    with pytest.raises(ValueError, match=f"1 to {MAX_LEVELS} levels"):
        deformable_attention(torch.rand(1, 17, 1, 1), [(1, 1)] * 17, torch.rand(1, 1, 1, 17, 1, 2), torch.rand(17))


# ---- gradients -------------------------------------------------------------------------------------------------------
def test_gradcheck():
    """Places stay 1e-3 cells away from the lines on which the slope jumps."""
    value, sizes, locations, weights = samples([(3, 4), (1, 2)], 2, 3, 2, 3, 2, torch.float64)
    cells = torch.tensor(pairs(sizes), dtype=torch.float64).flip(-1)[:, None]
    assert ((locations * cells - 0.5).frac().abs() - 0.5).abs().max() < 0.499
    leaves = [x.requires_grad_() for x in (value, locations, weights)]
    assert torch.autograd.gradcheck(lambda v, x, w: deformable_attention(v, pairs(sizes), x, w), leaves)


def test_a_second_derivative_is_an_error():
    """And not silently zero."""
    value, sizes, locations, weights = samples(dtype=torch.float64)
    output = deformable_attention(value.requires_grad_(), pairs(sizes), locations, weights)
    (grad,) = torch.autograd.grad(output.square().sum(), value, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_gradients_outside_are_zero():
    value, sizes, locations, weights = samples()
    leaves = [x.requires_grad_() for x in (value, (locations + 3).detach(), weights)]
    output = deformable_attention(leaves[0], pairs(sizes), *leaves[1:])
    assert not output.any()
    assert all(not grad.any() for grad in torch.autograd.grad(output.sum(), leaves))


@pytest.mark.parametrize("arguments", [samples(), on_lines()], ids=["anywhere", "on lines"])
def test_the_repeatable_gradient_of_cuda_is_the_same(arguments):
    """Plain torch and sorted sums: it runs anywhere."""
    value, sizes, locations, weights = arguments
    locations.view(-1)[5], locations.view(-1)[22] = torch.nan, torch.inf
    grad = torch.randn(*weights.shape[:2], 15)
    close(_sum_to_cells(grad, value, sizes, locations, weights), BACKWARD(grad, value, sizes, locations, weights)[0])


# ---- torch's machinery -----------------------------------------------------------------------------------------------
def test_opcheck():
    arguments = samples()
    torch.library.opcheck(BACKWARD, (torch.ones_like(FORWARD(*arguments)), *arguments))
    for x in (arguments[0], *arguments[2:]):
        x.requires_grad_()
    torch.library.opcheck(FORWARD, arguments)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # torch's own, inside inductor
def test_compiles_with_inductor():
    value, sizes, locations, weights = samples()

    def run(value, locations, weights):
        return deformable_attention(2 * value, pairs(sizes), locations.sigmoid(), weights.softmax(-1)).square().sum()

    leaves = [x.requires_grad_() for x in (value, locations, weights)]
    compiled = torch.compile(run, fullgraph=True)
    for ours, theirs in zip(torch.autograd.grad(compiled(*leaves), leaves), torch.autograd.grad(run(*leaves), leaves)):
        close(ours, theirs)


def test_compiles_for_any_sizes():
    compiled = torch.compile(deformable_attention, fullgraph=True, dynamic=True, backend="aot_eager")
    for shapes, queries in (([(7, 5), (4, 3)], 6), ([(9, 8), (2, 6)], 30), ([(3, 3), (3, 3)], 4)):
        value, sizes, locations, weights = samples(shapes, queries=queries)
        ours = compiled(value, pairs(sizes), locations, weights)
        assert torch.equal(ours, deformable_attention(value, pairs(sizes), locations, weights))


def test_autocast_attends_in_float32():
    value, sizes, locations, weights = samples()
    halves = value.bfloat16(), pairs(sizes), locations.bfloat16(), weights.bfloat16()
    full = deformable_attention(halves[0].float(), halves[1], halves[2].float(), halves[3].float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(deformable_attention(*halves), full)


def test_flops_are_those_of_four_cells_a_sample():
    value, sizes, locations, weights = samples()
    value.requires_grad_()
    with FlopCounterMode(display=False) as forward:
        output = deformable_attention(value, pairs(sizes), locations, weights)
    with FlopCounterMode(display=False) as backward:
        output.sum().backward()
    assert forward.get_total_flops() == 2 * 4 * (2 * 11 * 3 * 4 * 4) * 5
    assert backward.get_total_flops() == 2 * forward.get_total_flops()


# ---- invariances and policies ----------------------------------------------------------------------------------------
def test_order_of_queries_and_of_points_does_not_matter():
    value, sizes, locations, weights = samples()
    queries, points = torch.randperm(11), torch.randperm(4)
    expected = deformable_attention(value, pairs(sizes), locations, weights)
    ours = deformable_attention(value, pairs(sizes), locations[:, queries], weights[:, queries])
    assert torch.equal(ours, expected[:, queries])
    close(deformable_attention(value, pairs(sizes), locations[..., points, :], weights[..., points]), expected)


def test_views_are_taken():
    value, sizes, locations, weights = samples()
    expected = deformable_attention(value, pairs(sizes), locations, weights)
    strided = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (value, locations, weights)]
    assert not strided[0].is_contiguous()
    assert torch.equal(deformable_attention(strided[0], pairs(sizes), *strided[1:]), expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_place_that_is_nan_makes_its_query_and_head_nan(axis):
    value, sizes, locations, weights = samples()
    clean = deformable_attention(value, pairs(sizes), locations, weights)
    dirty = locations.clone()
    dirty[1, 4, 2, 0, 3, axis] = torch.nan
    check_against_reference((value, sizes, dirty, weights), check=lambda a, b: torch.testing.assert_close(
        a, b, rtol=1e-4, atol=1e-4, equal_nan=True
    ))  # fmt: skip
    output = deformable_attention(value, pairs(sizes), dirty, weights).unflatten(2, (3, 5))
    touched = torch.zeros(2, 11, 3, dtype=torch.bool)
    touched[1, 4, 2] = True
    assert output[touched].isnan().all()
    assert torch.equal(output[~touched], clean.unflatten(2, (3, 5))[~touched])
    grad_value, grad_locations, grad_weights = BACKWARD(torch.ones_like(clean), value, sizes, dirty, weights)
    assert grad_value.isfinite().all()
    assert grad_locations[1, 4, 2, 0, 3].isnan().all()
    assert grad_weights[1, 4, 2, 0, 3].isnan()
    assert grad_locations.isnan().sum() == 2
    assert grad_weights.isnan().sum() == 1


@pytest.mark.parametrize("far", [torch.inf, -torch.inf, 3e38, -3e38, 2.0**40])
def test_far_places_are_outside(far):
    value, sizes, locations, weights = samples()
    away = locations.clone()
    away[0, :, :, 1, :, 1] = far
    without = weights.clone()
    without[0, :, :, 1] = 0
    arguments = value, sizes, away, weights
    check_against_reference(arguments)
    assert torch.equal(FORWARD(*arguments), FORWARD(value, sizes, locations, without))


def test_nan_in_a_cell_reaches_samples_within_one_cell():
    value, sizes, locations, weights = samples([(6, 8)], points=1, queries=300)
    value[0, 2 * 8 + 3, 1] = torch.nan  # centre (3.5, 2.5) in cells
    output = deformable_attention(value, pairs(sizes), locations, weights).unflatten(2, (3, 5)).isnan()
    away = (locations[0, :, 1, 0, 0] * torch.tensor([8, 6]) - torch.tensor([3.5, 2.5])).abs().amax(-1)
    assert torch.equal(output[0, :, 1].all(-1), away < 1)
    output[0, :, 1] = False
    assert not output.any()
    assert (away < 1).any()


@compiled_only
def test_same_bits_whatever_the_number_of_threads(deterministic_algorithms):
    value, sizes, locations, weights = samples([(20, 30), (10, 15)], queries=700, heads=4, dim=8)
    leaves = [x.requires_grad_() for x in (value, locations, weights)]

    def run():
        output = deformable_attention(value, pairs(sizes), locations, weights)
        return output, *torch.autograd.grad(output.square().sum(), leaves)

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run()
        torch.set_num_threads(3)
        assert all(torch.equal(a, b) for a, b in zip(one, run()))
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def portable():
    """The operators as machines with narrower vectors run them."""
    if reason := build.missing():
        pytest.skip(reason)
    sources = [build.CSRC / "library.cpp", build.CSRC / "cpu" / "deformable.cpp"]
    name = "pctransformer_portable_deformable"
    torch.ops.load_library(build.build(f"_{name}", sources, name, ["-DPCT_PORTABLE"]))
    return getattr(torch.ops, name)


@compiled_only
@pytest.mark.parametrize("dim", [5, 16, 70])
def test_same_bits_on_every_processor(portable, dim):
    arguments = samples(dim=dim)
    grad = torch.randn(2, 11, 3 * dim)
    assert torch.equal(portable.deformable_attention(*arguments), FORWARD(*arguments))
    ours = portable.deformable_attention_backward(grad, *arguments)
    assert all(torch.equal(a, b) for a, b in zip(ours, BACKWARD(grad, *arguments), strict=True))


# ---- errors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"value": [1.0]}, TypeError, "torch.Tensor"),
        ({"value": torch.rand(2, 20, 8, 5)}, ValueError, r"must be \(B, Q, H, L, P\) with B = 2, H = 8"),
        ({"value": torch.rand(2, 20, 4)}, ValueError, r"becomes one level with .flatten\(2\)"),
        ({"value": torch.rand(2, 20, 2, 0)}, ValueError, r"\(B, S, H, D\)"),
        ({"value": torch.rand(2, 20, 2, 4).half()}, TypeError, "value must be float32 or float64"),
        ({"value": torch.rand(2, 20, 2, 4).double()}, TypeError, "they must be the same"),
        ({"level_shapes": torch.tensor([[3, 4], [2, 4]])}, TypeError, "call .tolist"),
        ({"level_shapes": [3, 4, 2, 4]}, ValueError, "1 to 16 levels"),
        ({"level_shapes": []}, ValueError, "1 to 16 levels"),
        ({"level_shapes": [(3, 4, 1), (2, 4, 1)]}, ValueError, "1 to 16 levels"),
        ({"level_shapes": [(3, 4), (2, 5)]}, ValueError, "have 22 cells, value has 20"),
        ({"level_shapes": [(5, 4), (0, 4)]}, ValueError, "at least 1, got 0"),
        ({"level_shapes": [(3.0, 4), (2, 4)]}, TypeError, "whole number, got a float"),
        ({"level_shapes": [(5, 4)]}, ValueError, "L = 1"),
        ({"weights": torch.rand(2, 6, 2, 2)}, ValueError, r"got \(2, 6, 2, 2\)"),
        ({"weights": torch.rand(2, 6, 3, 2, 3)}, ValueError, "H = 2"),
        ({"locations": torch.rand(2, 6, 2, 2, 3)}, ValueError, "shaped as weights"),
        ({"locations": torch.rand(2, 7, 2, 2, 3, 2)}, ValueError, "shaped as weights"),
        ({"locations": torch.rand(2, 6, 2, 2, 3, 3)}, ValueError, "shaped as weights"),
    ],
)
def test_bad_input_is_explained(change, error, text):
    good = {"value": torch.rand(2, 20, 2, 4), "level_shapes": [(3, 4), (2, 4)]}
    good |= {"locations": torch.rand(2, 6, 2, 2, 3, 2), "weights": torch.rand(2, 6, 2, 2, 3)}
    with pytest.raises(error, match=text):
        deformable_attention(**(good | change))


@compiled_only
@pytest.mark.parametrize(
    ("position", "bad", "text"),
    [
        (0, torch.rand(2, 20, 8), r"\(B, S, H, D\)"),
        (0, torch.rand(2, 4, 20, 2).permute(0, 2, 3, 1), "contiguous"),
        (1, [3, 4, 2], "got 3 numbers"),
        (1, [], "got 0 numbers"),
        (1, [1, 1] * 17, "1 to 16 levels"),
        (1, [3, 4, -2, -4], "sides must be between 1"),
        (1, [3, 4, 1 << 40, 1 << 40], "sides must be between 1"),
        (1, [3, 4, (1 << 31) - 1, (1 << 31) - 1], "more cells than value"),
        (1, [3, 4, 2, 3], "have 18 cells, value 20 rows"),
        (2, torch.rand(2, 6, 2, 2, 3), "locations must be"),
        (2, torch.rand(2, 5, 2, 2, 3, 2), "axis 1 of locations is 5, of weights 6"),
        (3, torch.rand(2, 6, 2, 1, 3), "2 levels"),
        (3, torch.rand(2, 6, 2, 2, 3).double(), "another dtype"),
    ],
)
def test_the_kernel_protects_memory(position, bad, text):
    good = [torch.rand(2, 20, 2, 4), [3, 4, 2, 4], torch.rand(2, 6, 2, 2, 3, 2), torch.rand(2, 6, 2, 2, 3)]
    good[position] = bad
    with pytest.raises(RuntimeError, match=text):
        FORWARD(*good)
    with pytest.raises(RuntimeError, match=text):
        BACKWARD(torch.rand(2, 6, 8), *good)


@compiled_only
def test_the_kernel_wants_a_gradient_of_the_output():
    arguments = samples()
    with pytest.raises(RuntimeError, match="shape of the output"):
        BACKWARD(torch.rand(2, 11, 14), *arguments)


# ---- CUDA ------------------------------------------------------------------------------------------------------------
def on_cuda(arguments):
    return [x.cuda() if isinstance(x, torch.Tensor) else x for x in arguments]


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 5, 16, 32, 33, 70])
def test_cuda_equals_cpu(dim, dtype):
    for arguments in (
        samples(dim=dim, dtype=dtype),
        samples(queries=0, dim=dim),
        samples([(200, 176)], 1, 5000, 8, dim),
    ):
        output = FORWARD(*arguments)
        close(FORWARD(*on_cuda(arguments)).cpu(), output)
        grad = torch.randn(output.shape, dtype=output.dtype)
        for ours, theirs in zip(BACKWARD(*on_cuda((grad, *arguments))), BACKWARD(grad, *arguments), strict=True):
            close(ours.cpu(), theirs)


@pytest.mark.cuda
def test_cuda_gradients_repeat_where_asked(deterministic_algorithms):
    value, sizes, locations, weights = on_cuda(samples([(3, 3)], queries=2000))
    leaves = [x.requires_grad_() for x in (value, locations, weights)]

    def run():
        return torch.autograd.grad(deformable_attention(value, pairs(sizes), locations, weights).square().sum(), leaves)

    first = run()
    assert all(torch.equal(a, b) for _ in range(5) for a, b in zip(first, run()))
