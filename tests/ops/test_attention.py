import math
import resource

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from pctransformer.ops import _library, ragged_attention, reference
from pctransformer.ops.attention import MAX_HEAD_DIM
from tests.cuda_emulation import build
from tests.ops.clouds import offsets_of

FORWARD = torch.ops.pctransformer.ragged_attention.default
BACKWARD = torch.ops.pctransformer.ragged_attention_backward.default
QUERY_SIZES = [3, 0, 1, 70, 5, 1, 20, 0]
KEY_SIZES = [5, 4, 1, 33, 0, 290, 20, 0]
"""Both, and either without the other; one token; more and fewer keys than queries; above and below kernels' tiles."""

compiled_only = pytest.mark.skipif(_library.missing["cpu"] is not None, reason="nothing compiled")


def features(query_sizes=QUERY_SIZES, key_sizes=KEY_SIZES, heads=2, dim=5, value_dim=7, dtype=torch.float32, seed=0):
    """query, key, value, query_offsets, key_offsets"""
    draw = torch.Generator().manual_seed(seed)
    q, k = sum(query_sizes), sum(key_sizes)
    shapes = (q, heads, dim), (k, heads, dim), (k, heads, value_dim)
    tensors = [torch.randn(shape, generator=draw, dtype=dtype) for shape in shapes]
    return *tensors, offsets_of(query_sizes), offsets_of(key_sizes)


def bias(query, key, window=(4, 3, 2), seed=0):
    """bias_table, query_coordinates, key_coordinates, by name"""
    draw = torch.Generator().manual_seed(seed)
    size = [2 * w - 1 for w in window]
    table = torch.randn(query.shape[1], *size, generator=draw, dtype=query.dtype)
    coordinates = [
        torch.stack([torch.randint(0, w, (len(x),), generator=draw) for w in window], 1) for x in (query, key)
    ]
    return {"bias_table": table, "query_coordinates": coordinates[0].int(), "key_coordinates": coordinates[1].int()}


def arguments(inputs, extra, causal=False):
    """Those of the operator, in order."""
    names = ("bias_table", "query_coordinates", "key_coordinates")
    return *inputs, *(extra.get(name) for name in names), inputs[0].shape[2] ** -0.5, causal


def close(ours, theirs):
    """Sums of some hundred products, of a size of ten, in another order; they may cancel to nothing."""
    exact = theirs.dtype == torch.float64
    torch.testing.assert_close(ours, theirs, rtol=1e-9 if exact else 2e-5, atol=1e-10 if exact else 1e-5)


def peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ---- by hand ---------------------------------------------------------------------------------------------------------
def test_two_keys_by_hand():
    """Scores log 1 and log 3 give weights 1/4 and 3/4; the second sequence has one key, the third none."""
    query = torch.ones(4, 1, 1)
    key = torch.tensor([1.0, 3.0, 5.0]).log()[:, None, None]
    value = torch.tensor([0.0, 4.0, 9.0])[:, None, None]
    output = ragged_attention(query, key, value, offsets_of([2, 1, 1]), offsets_of([2, 1, 0]))
    torch.testing.assert_close(output.flatten(), torch.tensor([3.0, 3.0, 9.0, 0.0]))


def test_scale_by_hand():
    """The default is 1 / sqrt(D): 4 equal products of 1 and log 9 / 4 give log 9 before, log 3 after scaling."""
    query, offsets = torch.ones(1, 1, 4), offsets_of([1])
    key = torch.stack([torch.zeros(1, 4), torch.full((1, 4), math.log(9) / 4)])
    value = torch.tensor([0.0, 1.0])[:, None, None]
    assert ragged_attention(query, key, value, offsets, offsets_of([2])).item() == pytest.approx(3 / 4)
    assert ragged_attention(query, key, value, offsets, offsets_of([2]), scale=1).item() == pytest.approx(9 / 10)


def test_causal_by_hand():
    """Without scores each query gives the mean of the values it sees, counted from the start of its sequence."""
    zeros = torch.zeros(5, 1, 2)
    value = torch.tensor([1.0, 3.0, 10.0, 20.0, 60.0])[:, None, None]
    output = ragged_attention(zeros, zeros, value, offsets_of([1, 4]), offsets_of([2, 3]), causal=True)
    torch.testing.assert_close(output.flatten(), torch.tensor([1.0, 10, 15, 30, 30]))


def test_bias_by_hand():
    """In a window of 2 x 1 x 1 the table holds the biases of the differences -1, 0 and 1 of query minus key."""
    zeros = torch.zeros(2, 1, 1)
    value = torch.tensor([0.0, 1.0])[:, None, None]
    table = torch.tensor([2.0, 1.0, 5.0]).log().view(1, 3, 1, 1)
    places = torch.tensor([[0, 0, 0], [1, 0, 0]], dtype=torch.int32)
    output = ragged_attention(
        zeros, zeros, value, offsets_of([2]), offsets_of([2]),
        bias_table=table, query_coordinates=places, key_coordinates=places,
    )  # fmt: skip
    torch.testing.assert_close(output.flatten(), torch.tensor([2 / 3, 1 / 6]))


def test_bias_axes_are_not_swapped():
    """All pairs of a 2 x 3 x 4 window against the formula of the docstring."""
    places = torch.cartesian_prod(*[torch.arange(w) for w in (2, 3, 4)]).int()
    query, key, _, *offsets = features([24], [24], heads=3)
    table = torch.randn(3, 3, 5, 7)
    output = ragged_attention(
        query, key, torch.eye(24)[:, None].expand(-1, 3, -1), *offsets,
        bias_table=table, query_coordinates=places, key_coordinates=places,
    )  # fmt: skip
    x, y, z = (places[:, None] - places[None] + torch.tensor([1, 2, 3])).long().unbind(-1)
    scores = torch.einsum("qhd,khd->qhk", query, key) / math.sqrt(5) + table[:, x, y, z].transpose(0, 1)
    close(output, scores.softmax(-1))


# ---- against the reference and torch ---------------------------------------------------------------------------------
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("dim", "value_dim"), [(5, 7), (16, 16), (64, 33), (1, 1)])
def test_equals_reference_on_ragged_batch(dim, value_dim, dtype, biased, causal):
    inputs = features(dim=dim, value_dim=value_dim, dtype=dtype)
    args = arguments(inputs, bias(*inputs[:2]) if biased else {}, causal)
    output, logsumexp = FORWARD(*args)
    for ours, theirs in zip((output, logsumexp), reference.ragged_attention(*args)):
        close(ours, theirs)
    grad = torch.randn(output.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    args = grad, *args[:3], output, logsumexp, *args[3:]
    for ours, theirs in zip(BACKWARD(*args), reference.ragged_attention_backward(*args)):
        close(ours, theirs)


@given(st.data())
def test_equals_reference(data):
    sizes = st.lists(st.integers(0, 40), min_size=1, max_size=4)
    query_sizes = data.draw(sizes)
    key_sizes = data.draw(st.lists(st.integers(0, 200), min_size=len(query_sizes), max_size=len(query_sizes)))
    heads, dim, value_dim = (data.draw(st.integers(1, n)) for n in (3, 20, 20))
    inputs = features(query_sizes, key_sizes, heads, dim, value_dim, seed=data.draw(st.integers(0, 1000)))
    window = data.draw(st.none() | st.tuples(*[st.integers(1, 5)] * 3))
    args = arguments(inputs, {} if window is None else bias(*inputs[:2], window), data.draw(st.booleans()))
    output, logsumexp = FORWARD(*args)
    for ours, theirs in zip((output, logsumexp), reference.ragged_attention(*args)):
        close(ours, theirs)
    args = torch.ones_like(output), *args[:3], output, logsumexp, *args[3:]
    for ours, theirs in zip(BACKWARD(*args), reference.ragged_attention_backward(*args)):
        close(ours, theirs)


@pytest.mark.parametrize("causal", [False, True])
def test_equals_torch_sequence_by_sequence(causal):
    inputs = features()
    leaves = [x.requires_grad_() for x in inputs[:3]]
    output = ragged_attention(*inputs, causal=causal)
    pieces = []
    for q, k in zip(QUERY_SIZES, KEY_SIZES):
        begin = sum(x.shape[0] for x in pieces), sum(KEY_SIZES[: len(pieces)])
        one = leaves[0][begin[0] : begin[0] + q], *(x[begin[1] : begin[1] + k] for x in leaves[1:])
        heads_first = [x.transpose(0, 1)[None] for x in one]
        attended = F.scaled_dot_product_attention(*heads_first, is_causal=causal) if k else torch.zeros(1, 2, q, 7)
        pieces.append(attended[0].transpose(0, 1))
    expected = torch.cat(pieces)
    close(output, expected)
    weight = torch.randn(expected.shape)
    for ours, theirs in zip(torch.autograd.grad(output, leaves, weight), torch.autograd.grad(expected, leaves, weight)):
        close(ours, theirs)


def test_dense_is_the_equal_length_case():
    query, key, value = torch.randn(3, 4, 50, 2, 8).unbind()
    offsets = offsets_of([50] * 4)
    packed = ragged_attention(*(x.flatten(0, 1) for x in (query, key, value)), offsets, offsets)
    dense = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value))).transpose(1, 2)
    close(packed.view_as(dense), dense)


@pytest.mark.parametrize("dim", [MAX_HEAD_DIM, 48, 32, 3])
def test_any_head_dimension(dim):
    inputs = features([40], [300], 1, dim, dim)
    args = arguments(inputs, {})
    close(FORWARD(*args)[0], reference.ragged_attention(*args)[0])


def test_no_head_dimension_above_the_limit():
    with pytest.raises(ValueError, match=f"D <= {MAX_HEAD_DIM}"):
        ragged_attention(*features([4], [4], 1, MAX_HEAD_DIM + 1, 3))
    with pytest.raises(ValueError, match=f"D <= {MAX_HEAD_DIM}"):
        ragged_attention(*features([4], [4], 1, 3, MAX_HEAD_DIM + 1))


# ---- gradients -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_gradcheck(biased, causal):
    query, key, value, *offsets = features([3, 0, 1, 4], [2, 2, 1, 7], 2, 3, 2, torch.float64)
    extra = bias(query, key, (2, 3, 1)) if biased else {}
    leaves = [x.requires_grad_() for x in (query, key, value, *(extra.get(name) for name in ("bias_table",) if biased))]

    def run(query, key, value, table=None):
        changed = {"bias_table": table} if biased else {}
        return ragged_attention(query, key, value, *offsets, causal=causal, **(extra | changed))

    torch.autograd.gradcheck(run, leaves)


def test_a_second_derivative_is_an_error():
    """And not silently zero."""
    query, key, value, *offsets = features([3], [3], 1, 2, 2, torch.float64)
    (grad,) = torch.autograd.grad(
        ragged_attention(query.requires_grad_(), key, value, *offsets).square().sum(), query, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_gradients_of_empty_sequences_are_zero():
    inputs = features([3, 4], [0, 2])
    leaves = [x.requires_grad_() for x in inputs[:3]]
    grad_query, *_ = torch.autograd.grad(ragged_attention(*inputs).sum(), leaves)
    assert torch.equal(grad_query[:3], torch.zeros(3, 2, 5))
    inputs = features([0], [6])
    leaves = [x.requires_grad_() for x in inputs[:3]]
    assert all(not grad.any() for grad in torch.autograd.grad(ragged_attention(*inputs).sum(), leaves))


# ---- torch's machinery -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("biased", [False, True])
def test_opcheck(biased):
    query, key, value, *offsets = features()
    args = arguments((query, key, value, *offsets), bias(query, key) if biased else {})
    output, logsumexp = FORWARD(*args)
    torch.library.opcheck(BACKWARD, (torch.ones_like(output), *args[:3], output, logsumexp, *args[3:]))
    for x in args[:3]:
        x.requires_grad_()
    torch.library.opcheck(FORWARD, args)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # torch's own, inside inductor
def test_compiles_with_inductor():
    query, key, value, *offsets = features()
    extra = bias(query, key)

    def run(query, table):
        mixed = ragged_attention(2 * query, key, value, *offsets, causal=True, **(extra | {"bias_table": table}))
        return (mixed.relu() ** 2).sum()

    leaves = query.requires_grad_(), extra["bias_table"].requires_grad_()
    compiled = torch.compile(run, fullgraph=True)
    for ours, theirs in zip(torch.autograd.grad(compiled(*leaves), leaves), torch.autograd.grad(run(*leaves), leaves)):
        close(ours, theirs)


def test_compiles_for_any_lengths():
    compiled = torch.compile(ragged_attention, fullgraph=True, dynamic=True, backend="aot_eager")
    for sizes in ([3, 9, 0], [70, 1, 2], [5, 5, 5]):
        inputs = features(sizes, sizes)
        assert torch.equal(compiled(*inputs), ragged_attention(*inputs))


def test_autocast_attends_in_float32():
    query, key, value, *offsets = features()
    extra = bias(query, key)
    halves = [x.bfloat16() for x in (query, key, value)]
    full = ragged_attention(*(x.float() for x in halves), *offsets, **extra)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ragged_attention(*halves, *offsets, **extra), full)


def test_flops_are_those_of_the_explicit_products():
    query, key, value, *_ = features([10], [20], 3, 4, 6)
    query.requires_grad_(), key.requires_grad_(), value.requires_grad_()

    def explicit(q, k, v):
        heads_first = [x.transpose(0, 1) for x in (q, k, v)]
        return ((heads_first[0] @ heads_first[1].mT).softmax(-1) @ heads_first[2]).transpose(0, 1)

    def count(function):
        with FlopCounterMode(display=False) as forward:
            output = function(query, key, value)
        with FlopCounterMode(display=False) as backward:
            output.sum().backward()
        return forward.get_total_flops(), backward.get_total_flops()

    offsets = offsets_of([4, 6]), offsets_of([15, 5])
    forward, backward = count(lambda q, k, v: ragged_attention(q, k, v, *offsets))
    first, second = (
        count(lambda q, k, v: explicit(q[:4], k[:15], v[:15])),
        count(lambda q, k, v: explicit(q[4:], k[15:], v[15:])),
    )
    assert forward == first[0] + second[0] == 2 * 3 * (4 * 15 + 6 * 5) * (4 + 6)
    scores = 2 * 3 * (4 * 15 + 6 * 5) * 4  # ours are not kept for the backward pass but computed again
    assert backward == first[1] + second[1] + scores
    causal, _ = count(lambda q, k, v: ragged_attention(q, k, v, *offsets, causal=True))
    assert causal == 2 * 3 * (1 + 2 + 3 + 4 + 1 + 2 + 3 + 4 + 5 + 5) * (4 + 6)


def test_flops_of_traced_tensors_are_a_bound():
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        ragged_attention(*(torch.empty(10, 3, 4) for _ in range(3)), *torch.empty(2, 5, dtype=torch.int64).unbind())
    assert counter.get_total_flops() == 2 * 3 * 10 * 10 * (4 + 4)


# ---- invariances and policies ----------------------------------------------------------------------------------------
def test_order_of_keys_does_not_matter():
    query, key, value, *offsets = features([30, 8], [150, 40])
    extra = bias(query, key)
    order = torch.cat([torch.randperm(150), 150 + torch.randperm(40)])
    shuffled = extra | {"key_coordinates": extra["key_coordinates"][order]}
    close(
        ragged_attention(query, key[order], value[order], *offsets, **shuffled),
        ragged_attention(query, key, value, *offsets, **extra),
    )


def test_order_of_queries_does_not_matter():
    query, key, value, *offsets = features([70], [150])
    order = torch.randperm(70)
    close(ragged_attention(query[order], key, value, *offsets), ragged_attention(query, key, value, *offsets)[order])


def test_moving_all_coordinates_does_not_matter():
    query, key, value, *offsets = features()
    extra = bias(query, key, (3, 3, 3))
    table = torch.nn.functional.pad(extra["bias_table"], [2] * 6, value=100)  # a window of 5 x 5 x 5
    moved = {name: extra[name] + 2 for name in ("query_coordinates", "key_coordinates")}
    close(
        ragged_attention(query, key, value, *offsets, bias_table=table, **moved),
        ragged_attention(query, key, value, *offsets, **extra),
    )


@pytest.mark.parametrize("causal", [False, True])
def test_large_scores_do_not_overflow(causal):
    """Scores of some 1e4: the softmax is all but a maximum."""
    inputs = features([50], [50], 2, 4, 4)
    leaves = [x.requires_grad_() for x in inputs[:3]]
    output = ragged_attention(*inputs, scale=1e4, causal=causal)
    scores = torch.einsum("qhd,khd->qhk", leaves[0], leaves[1])
    if causal:
        scores = scores.masked_fill(torch.ones(50, 50).triu(1).bool()[:, None], -torch.inf)
    best = scores.argmax(-1)
    margin = scores.topk(2, -1).values.diff(dim=-1).squeeze(-1).abs() > 1e-2  # of 100 after scaling
    expected = leaves[2].transpose(0, 1)[torch.arange(2), best]
    close(output[margin], expected[margin])
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(output.sum(), leaves))


def test_nan_stays_in_its_sequence_and_head():
    query, key, value, *offsets = features([40, 40, 40], [50, 50, 50], heads=3)
    clean = ragged_attention(query, key, value, *offsets)
    for features_ in (query, key, value):
        dirty = features_.clone()
        dirty[60, 1] = torch.nan
        output = ragged_attention(*(dirty if x is features_ else x for x in (query, key, value)), *offsets)
        touched = torch.zeros(120, 3, dtype=torch.bool)
        touched[slice(60, 61) if features_ is query else slice(40, 80), 1] = True
        assert output[touched].isnan().all()
        assert torch.equal(output[~touched], clean[~touched])


def test_biases_of_minus_infinity_hide_keys():
    query, key, value, *offsets = features([6], [6])
    places = torch.zeros(6, 3, dtype=torch.int32)
    places[3:, 0] = 1
    extra = {"query_coordinates": places, "key_coordinates": places}
    table = torch.full((2, 3, 1, 1), -torch.inf)
    assert not ragged_attention(query, key, value, *offsets, bias_table=table, **extra).any()
    table[:, 1] = 0  # keys at the query's own place
    output = ragged_attention(query, key, value, *offsets, bias_table=table, **extra)
    close(output, ragged_attention(query, key, value, offsets_of([3, 3]), offsets_of([3, 3])))


@compiled_only
def test_memory_grows_with_tokens_not_pairs():
    """One float32 per pair would be 3.6 GB."""
    n = 30_000
    inputs = features([n], [n], 1, 2, 2)
    leaves = [x.requires_grad_() for x in inputs[:3]]
    before = peak_memory()
    output = ragged_attention(*inputs, causal=True)
    output.sum().backward()
    assert peak_memory() - before < 200e6
    assert output.isfinite().all()
    row = slice(n - 5, n)
    close(output[row], F.scaled_dot_product_attention(
        *(x.transpose(0, 1) for x in (leaves[0][row], *leaves[1:])), attn_mask=torch.ones(5, n).tril(n - 5).bool()
    ).transpose(0, 1))  # fmt: skip


@compiled_only
@pytest.mark.parametrize("biased", [False, True])
def test_same_bits_whatever_the_number_of_threads(biased):
    query, key, value, *offsets = features([1500, 3, 200, 0, 90], [1400, 3, 200, 7, 90], 2, 8, 8)
    extra = bias(query, key) if biased else {}
    leaves = [x.requires_grad_() for x in (query, key, value, *list(extra.values())[:1])]

    def run():
        output = ragged_attention(query, key, value, *offsets, **extra)
        return output, *torch.autograd.grad(output.square().sum(), leaves)

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, run()))


@pytest.fixture(scope="module", params=["portable", "no_avx512"])
def narrow(request):
    """The operators as machines with narrower vectors run them."""
    if reason := build.missing():
        pytest.skip(reason)
    sources = [build.CSRC / "library.cpp", build.CSRC / "cpu" / "attention.cpp"]
    name = f"pctransformer_{request.param}_attention"
    torch.ops.load_library(build.build(f"_{name}", sources, name, [f"-DPCT_{request.param.upper()}"]))
    return getattr(torch.ops, name)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("dim", "value_dim"), [(5, 7), (16, 16), (64, 33), (1, 1)])
def test_equals_reference_with_narrow_vectors(narrow, dim, value_dim, causal):
    inputs = features(dim=dim, value_dim=value_dim)
    args = arguments(inputs, bias(*inputs[:2]), causal)
    output, logsumexp = narrow.ragged_attention(*args)
    for ours, theirs in zip((output, logsumexp), reference.ragged_attention(*args)):
        close(ours, theirs)
    args = torch.ones_like(output), *args[:3], output, logsumexp, *args[3:]
    for ours, theirs in zip(narrow.ragged_attention_backward(*args), reference.ragged_attention_backward(*args)):
        close(ours, theirs)


# ---- errors ----------------------------------------------------------------------------------------------------------
PLACES = torch.zeros(20, 3, dtype=torch.int32)
BIASED = {"bias_table": torch.zeros(2, 3, 3, 1), "query_coordinates": PLACES, "key_coordinates": PLACES}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"query": torch.rand(2, 10, 2, 4)}, ValueError, r"flatten\(0, 1\) packs"),
        ({"query": torch.rand(20, 8)}, ValueError, r"packed \(N, H, D\)"),
        ({"query": [1.0]}, TypeError, "torch.Tensor"),
        ({"query": torch.rand(20, 2, 0), "key": torch.rand(20, 2, 0)}, ValueError, "1 <= D <= 256"),
        ({"query": torch.rand(20, 2, 4).half()}, TypeError, "query must be float32 or float64"),
        ({"key": torch.rand(20, 2, 4).double()}, TypeError, "they must be the same"),
        ({"key": torch.rand(20, 2, 5)}, ValueError, "the same heads and dimensions"),
        ({"value": torch.rand(19, 2, 4)}, ValueError, "the same rows and heads"),
        ({"query_offsets": torch.tensor([0, 20])}, ValueError, "query_offsets describes 1 sequences"),
        ({"query_offsets": torch.tensor([0, 10, 20]).int()}, TypeError, "int64"),
        ({"query_offsets": torch.tensor([10, 15, 20])}, ValueError, "query_offsets must start with 0"),
        ({"key_offsets": torch.tensor([0, 30, 20])}, ValueError, "key_offsets must not decrease"),
        ({"key_offsets": torch.tensor([0, 10, 19])}, ValueError, "number of rows, 20"),
        ({"query_coordinates": PLACES}, ValueError, "with a bias_table only"),
        ({"bias_table": torch.zeros(2, 3, 3, 1)}, ValueError, "needs query_coordinates"),
        (BIASED | {"bias_table": torch.zeros(2, 4, 3, 1)}, ValueError, "odd sizes"),
        (BIASED | {"bias_table": torch.zeros(3, 3, 3, 1)}, ValueError, "with H = 2"),
        (BIASED | {"bias_table": torch.zeros(2, 3, 3, 1).double()}, TypeError, "they must be the same"),
        (BIASED | {"key_coordinates": PLACES[:19]}, ValueError, "one row per token"),
        (BIASED | {"key_coordinates": PLACES.long()}, TypeError, "must be int32"),
        (BIASED | {"key_coordinates": PLACES.index_fill(0, torch.tensor(7), 2)}, ValueError, r"coordinates\[7\] = \(2"),
        (BIASED | {"query_coordinates": PLACES - 1}, ValueError, r"outside the window \(2, 2, 1\)"),
    ],
)  # fmt: skip
def test_bad_input_is_explained(change, error, text):
    good = dict(zip(("query", "key", "value"), torch.rand(3, 20, 2, 4).unbind()))
    good |= {"query_offsets": torch.tensor([0, 10, 20]), "key_offsets": torch.tensor([0, 10, 20])}
    with pytest.raises(error, match=text):
        ragged_attention(**(good | change))


# ---- CUDA ------------------------------------------------------------------------------------------------------------
def on_cuda(args):
    return [x.cuda() if isinstance(x, torch.Tensor) else x for x in args]


@pytest.mark.cuda
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("dim", "value_dim"), [(5, 7), (16, 16), (64, 33), (MAX_HEAD_DIM, 1)])
def test_cuda_equals_cpu(dim, value_dim, biased, causal):
    for dtype in (torch.float32, torch.float64):
        for sizes in ((QUERY_SIZES, KEY_SIZES), ([0, 0], [0, 0]), ([0], [5]), ([5], [0]), ([2000], [1500])):
            inputs = features(*sizes, dim=dim, value_dim=value_dim, dtype=dtype)
            args = arguments(inputs, bias(*inputs[:2]) if biased else {}, causal)
            output, logsumexp = FORWARD(*args)
            for ours, theirs in zip(FORWARD(*on_cuda(args)), (output, logsumexp)):
                close(ours.cpu(), theirs)
            args = torch.ones_like(output), *args[:3], output, logsumexp, *args[3:]
            for ours, theirs in zip(BACKWARD(*on_cuda(args)), BACKWARD(*args)):
                close(ours.cpu(), theirs)


@pytest.mark.cuda
def test_cuda_moves_coordinates_to_the_border():
    query, key, value, *offsets = features()
    extra = bias(query, key, (3, 2, 2))
    wild = [
        extra[name] + torch.randint(-5, 6, extra[name].shape).int() for name in ("query_coordinates", "key_coordinates")
    ]
    limit = torch.tensor([2, 1, 1], dtype=torch.int32)
    table = extra["bias_table"]
    tame = [torch.minimum(x.clamp_min(0), limit) for x in wild]
    ours = FORWARD(*on_cuda((query, key, value, *offsets, table, *wild, 1.0, False)))[0]
    close(ours.cpu(), FORWARD(query, key, value, *offsets, table, *tame, 1.0, False)[0])


@pytest.mark.cuda
def test_cuda_nan_stays_in_its_sequence_and_head():
    query, key, value, *offsets = features([40, 40, 40], [50, 50, 50], heads=3)
    key[60, 1] = torch.nan
    output = ragged_attention(*on_cuda((query, key, value, *offsets))).cpu()
    touched = torch.zeros(120, 3, dtype=torch.bool)
    touched[40:80, 1] = True
    assert output[touched].isnan().all()
    assert output[~touched].isfinite().all()
