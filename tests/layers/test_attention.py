import contextlib
import math

import pytest
import torch

from pctransformer.layers.attention import MultiHeadAttention
from pctransformer.layers.position import RotaryPosition, WindowBias
from pctransformer.layers.recording import record_attention
from tests.ops.clouds import offsets_of

LENGTHS = [5, 0, 1, 9]
KEY_LENGTHS = [3, 4, 0, 7]
"""Both, a context alone, tokens alone (which then see nothing), and both again."""


def layer(seed: int = 0, **options) -> MultiHeadAttention:
    torch.manual_seed(seed)
    return MultiHeadAttention(24, 3, **options).eval()


def maybe_recorded(layer: MultiHeadAttention, recorded: bool):
    return record_attention(layer) if recorded else contextlib.nullcontext()


def with_positions(kind: str | None) -> dict:
    """Options of a layer, and what draws positions for it."""
    if kind == "rotary":
        return {"rotary": RotaryPosition(8, unit=0.5)}
    if kind == "bias":
        return {"window_bias": WindowBias(3, (4, 3, 2))}
    return {}


def positions(kind: str | None, rows: int) -> torch.Tensor | None:
    if kind == "rotary":
        return torch.randn(rows, 3)
    if kind == "bias":
        return torch.stack([torch.randint(0, w, (rows,)) for w in (4, 3, 2)], 1).int()
    return None


def equation_1(layer: MultiHeadAttention, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """One sequence, head by head: softmax(Q K^T / sqrt(D)) V, in float64."""
    w_query, b_query = layer.query.weight.double(), layer.query.bias.double()
    w_key, w_value = layer.key_value.weight.double().chunk(2)
    b_key, b_value = layer.key_value.bias.double().chunk(2)
    query = x.double() @ w_query.T + b_query
    key, value = context.double() @ w_key.T + b_key, context.double() @ w_value.T + b_value
    heads = []
    for q, k, v in zip(query.split(8, 1), key.split(8, 1), value.split(8, 1)):
        scores = q @ k.T / math.sqrt(8)
        if layer.causal:
            scores[torch.ones(scores.shape).triu(1) > 0] = -torch.inf
        heads.append(scores.softmax(1) @ v if len(k) else torch.zeros(len(q), 8, dtype=torch.float64))
    out = torch.cat(heads, 1) @ layer.out.weight.double().T + layer.out.bias.double()
    return out.float()


# ---- the equation, in each layout ------------------------------------------------------------------------------------
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
def test_equation_1_in_every_layout(causal, recorded):
    attention = layer(causal=causal)
    clouds = [torch.randn(n, 24) for n in LENGTHS]
    expected = [equation_1(attention, x, x) for x in clouds]
    padded = torch.full((4, 9, 24), 7.0)  # what stands in padding must not matter
    valid = torch.zeros(4, 9, dtype=torch.bool)
    for b, x in enumerate(clouds):
        padded[b, : len(x)] = x
        valid[b, : len(x)] = True
    with maybe_recorded(attention, recorded):
        dense = attention(clouds[3][None])[0]
        from_padded = attention(padded, valid)[valid]
        packed = attention(torch.cat(clouds), offsets=offsets_of(LENGTHS))
    torch.testing.assert_close(dense, expected[3], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(from_padded, torch.cat(expected), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(packed, torch.cat(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("recorded", [False, True])
def test_cross_attention_in_every_layout(recorded):
    attention = layer(context_dim=10)
    clouds, contexts = [torch.randn(n, 24) for n in LENGTHS], [torch.randn(n, 10) for n in KEY_LENGTHS]
    expected = torch.cat([equation_1(attention, *pair) for pair in zip(clouds, contexts)])
    x, context, valid = torch.zeros(4, 9, 24), torch.randn(4, 7, 10), torch.zeros(4, 7, dtype=torch.bool)
    for b, (tokens, keys) in enumerate(zip(clouds, contexts)):
        x[b, : len(tokens)], context[b, : len(keys)], valid[b, : len(keys)] = tokens, keys, True
    with maybe_recorded(attention, recorded):
        packed = attention(
            torch.cat(clouds), offsets=offsets_of(LENGTHS),
            context=torch.cat(contexts), context_offsets=offsets_of(KEY_LENGTHS),
        )  # fmt: skip
        padded = attention(x, valid, context=context)
    torch.testing.assert_close(packed, expected, rtol=1e-5, atol=1e-5)
    real = torch.arange(9) < torch.tensor(LENGTHS)[:, None]
    torch.testing.assert_close(padded[real], expected, rtol=1e-5, atol=1e-5)


def test_two_keys_by_hand():
    """Scores log 1 and log 3 give weights 1/4 and 3/4, and the mean of values 0 and 4 is 3."""
    attention = MultiHeadAttention(1, 1, qkv_bias=False)
    with torch.no_grad():
        attention.query.weight.fill_(1)
        attention.key_value.weight.copy_(torch.tensor([[math.log(3) / 4], [1.0]]))
        attention.out.weight.fill_(1)
        attention.out.bias.fill_(0)
        assert attention(torch.ones(1, 1, 1), context=torch.tensor([[[0.0], [4.0]]])).item() == pytest.approx(3)


# ---- what nobody sees ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("recorded", [False, True])
def test_pairs_that_do_not_see_each_other(recorded):
    """valid (B, S, Sk) with a triangle is the causal layer; with a row of nothing, that token's mean is zero."""
    causal, free = layer(causal=True), layer()
    x = torch.randn(2, 6, 24)
    triangle = torch.ones(2, 6, 6, dtype=torch.bool).tril()
    with maybe_recorded(free, recorded):
        torch.testing.assert_close(free(x, triangle), causal(x), rtol=1e-5, atol=1e-6)
        triangle[1, 4] = False
        changed = free(x, triangle)
    assert torch.equal(changed[1, 4], free.out.bias)
    torch.testing.assert_close(changed[0], causal(x)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("recorded", [False, True])
def test_causal_and_padded_at_the_start(recorded):
    """A causal sequence whose first token is padding: that token sees nothing, the others what they would without."""
    attention = layer(causal=True)
    x = torch.randn(1, 6, 24)
    valid = torch.tensor([[False, True, True, True, True, True]])
    with maybe_recorded(attention, recorded):
        out = attention(x, valid)
    assert torch.equal(out[0, 0], attention.out.bias)
    torch.testing.assert_close(out[:, 1:], attention(x[:, 1:]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("kind", [None, "rotary", "bias"])
def test_gradients_are_finite_where_nothing_is_seen(kind, recorded):
    attention = layer(**with_positions(kind))
    x = torch.randn(2, 4, 24, requires_grad=True)
    valid = torch.tensor([[True, False, True, True], [False] * 4])
    where = positions(kind, 8)
    with maybe_recorded(attention, recorded):
        attention(x, valid, positions=None if where is None else where.view(2, 4, 3)).square().sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in attention.parameters())
    assert (x.grad[1] == 0).all()
    assert (x.grad[0] != 0).any(1).all()  # the padded token, too, is a query


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0)])
def test_nothing_at_all(shape):
    attention = layer()
    assert attention(torch.randn(*shape, 24)).shape == (*shape, 24)
    assert attention(torch.randn(0, 24), offsets=torch.zeros(3, dtype=torch.int64)).shape == (0, 24)
    with record_attention(attention):
        assert attention(torch.randn(*shape, 24)).shape == (*shape, 24)
        assert attention(torch.randn(0, 24), offsets=torch.zeros(3, dtype=torch.int64)).shape == (0, 24)
        assert attention(torch.randn(0, 24), offsets=torch.zeros(1, dtype=torch.int64)).shape == (0, 24)


# ---- positions -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["rotary", "bias"])
def test_positions_are_the_same_in_every_layout_and_while_recorded(kind):
    attention = layer(**with_positions(kind))
    x, where, offsets = torch.randn(15, 24), positions(kind, 15), offsets_of(LENGTHS)
    packed = attention(x, offsets=offsets, positions=where)
    with record_attention(attention):
        recorded = attention(x, offsets=offsets, positions=where)
    torch.testing.assert_close(recorded, packed, rtol=1e-5, atol=1e-5)
    for begin, end in ((0, 5), (5, 6), (6, 15)):
        dense = attention(x[None, begin:end], positions=where[None, begin:end])[0]
        torch.testing.assert_close(dense, packed[begin:end], rtol=1e-5, atol=1e-5)
    elsewhere = attention(x, offsets=offsets, positions=where.flip(0))
    assert (elsewhere - packed).abs().max() > 1e-3


def test_context_has_its_own_positions():
    """Rotary codes know differences: moving tokens and context together changes nothing, the context alone does."""
    attention = layer(rotary=RotaryPosition(8, unit=0.5))
    x, context, here, there = torch.randn(1, 4, 24), torch.randn(1, 6, 24), torch.randn(1, 4, 3), torch.randn(1, 6, 3)
    step = torch.tensor([1.0, -2.0, 0.5])
    plain = attention(x, positions=here, context=context, context_positions=there)
    together = attention(x, positions=here + step, context=context, context_positions=there + step)
    torch.testing.assert_close(together, plain, rtol=1e-4, atol=1e-5)
    alone = attention(x, positions=here, context=context, context_positions=there + step)
    assert (alone - plain).abs().max() > 1e-3


# ---- precision, compilation, repeatability ---------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [None, "rotary", "bias"])
def test_bfloat16_autocast(kind):
    attention = layer(**with_positions(kind))
    x, where, offsets = torch.randn(15, 24), positions(kind, 15), offsets_of(LENGTHS)
    dense, dense_where = x[None], None if where is None else where[None]
    with torch.autocast("cpu", torch.bfloat16):
        packed = attention(x, offsets=offsets, positions=where)
        together = attention(dense, torch.ones(1, 15, dtype=torch.bool), positions=dense_where)
    # three products in bfloat16, 8 bits each
    expected = attention(x, offsets=offsets, positions=where)
    torch.testing.assert_close(packed.float(), expected, rtol=0.03, atol=0.03)
    torch.testing.assert_close(together.float(), attention(dense, positions=dense_where), rtol=0.03, atol=0.03)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_agree_between_layouts_and_while_recorded(causal):
    attention = layer(causal=causal)
    x = torch.randn(2, 7, 24)

    def gradients(run) -> list[torch.Tensor]:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(run(leaf).square().sum(), [leaf, *attention.parameters()])

    dense = gradients(attention)
    packed = gradients(lambda leaf: attention(leaf.flatten(0, 1), offsets=offsets_of([7, 7])))
    with record_attention(attention):
        explicit = gradients(attention)
        explicit_packed = gradients(lambda leaf: attention(leaf.flatten(0, 1), offsets=offsets_of([7, 7])))
    for other in (packed, explicit, explicit_packed):
        for ours, theirs in zip(other, dense):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_repeats_exactly():
    attention = layer()
    x, valid = torch.randn(3, 40, 24), torch.rand(3, 40) < 0.7

    def gradients() -> list[torch.Tensor]:
        return list(torch.autograd.grad(attention(x, valid).square().sum(), list(attention.parameters())))

    torch.use_deterministic_algorithms(True)
    try:
        assert all(torch.equal(a, b) for a, b in zip(gradients(), gradients()))
    finally:
        torch.use_deterministic_algorithms(False)


# ---- what is refused -------------------------------------------------------------------------------------------------
def test_wrong_arguments_are_explained():
    attention = layer()
    x, packed, offsets = torch.randn(2, 5, 24), torch.randn(10, 24), offsets_of([5, 5])
    with pytest.raises(ValueError, match="multiple of num_heads"):
        MultiHeadAttention(24, 5)
    with pytest.raises(ValueError, match=r"packed .* with offsets"):
        attention(packed)
    with pytest.raises(ValueError, match=r"packed .* with offsets"):
        attention(x, offsets=offsets)
    with pytest.raises(ValueError, match="nothing is padded"):
        attention(packed, torch.ones(10, dtype=torch.bool), offsets=offsets)
    with pytest.raises(ValueError, match="offsets of their context"):
        attention(packed, offsets=offsets, context=packed)
    with pytest.raises(ValueError, match=r"for each key \(2, 5\)"):
        attention(x, torch.ones(2, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match="must be bool"):
        attention(x, torch.ones(2, 5))
    with pytest.raises(ValueError, match="give positions"):
        layer(rotary=RotaryPosition(8, unit=1))(x)
