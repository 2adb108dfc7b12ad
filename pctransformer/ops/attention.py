"""Attention over packed sequences."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from pctransformer.ops import _checks, _library

MAX_HEAD_DIM = 256  # kMaxHeadDim of csrc/common/attention.h


def ragged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_offsets: Tensor,
    key_offsets: Tensor,
    *,
    scale: float | None = None,
    causal: bool = False,
    bias_table: Tensor | None = None,
    query_coordinates: Tensor | None = None,
    key_coordinates: Tensor | None = None,
) -> Tensor:
    """Scaled dot-product attention in which the queries of a sequence see the keys of the same sequence only.

    Sequences of any lengths, windows of any occupancy: nothing is padded, and memory grows with the number of tokens,
    not of pairs. A query of a sequence without keys gives zeros. NaN and infinity are not looked for in features: they
    spread within their own sequence and head, and nowhere else. Use `torch.nn.functional.scaled_dot_product_attention`
    where all sequences have one length, there is no bias, and half precision on a GPU is wanted.

    The relative position bias is that of Swin, exact for any window: a query and a key at coordinates c_q and c_k in
    their window get bias_table[h, c_q - c_k + w - 1] added to their scaled score.

    Args:
        query: packed (Nq, H, D) float32 or float64, H >= 1, 1 <= D <= 256.
        key: packed (Nk, H, D).
        value: packed (Nk, H, Dv), 1 <= Dv <= 256.
        query_offsets: (B + 1,) int64, the queries of sequence b are rows query_offsets[b]:query_offsets[b + 1].
        key_offsets: (B + 1,) int64.
        scale: factor of the scores; None is 1 / sqrt(D).
        causal: query i of a sequence sees its keys 0 to i only, both counted from the start of the sequence.
        bias_table: (H, 2 w0 - 1, 2 w1 - 1, 2 w2 - 1) for windows of w0 x w1 x w2 places; w2 = 1 in two dimensions.
        query_coordinates: (Nq, 3) int32 with 0 <= c[a] < w[a], needed with a table.
        key_coordinates: (Nk, 3) int32, needed with a table.

    Returns:
        output (Nq, H, Dv): output[i, h] is the mean of value[j, h] over the keys j that query i sees, weighted by the
        softmax of scale * query[i, h] . key[j, h] + bias. Differentiable, once, in query, key, value and bias_table.

    Raises:
        ValueError: shapes that do not fit together, a table with an even axis, on CPU: offsets that decrease,
            coordinates outside the window. On CUDA such coordinates are moved to the window's border.
        TypeError: dtypes other than those above, or mixed ones. Under autocast all become float32.

    Source: Vaswani et al., 2017; softmax in one pass after Milakov and Gimelshein, 2018, its gradient from the saved
    logsumexp after Dao et al., FlashAttention, 2022; position bias after Liu et al., Swin Transformer, 2021, eq. 4.
    """
    _check_features(query, key, value)
    _checks.offsets(query_offsets, query, "query_offsets", "query")
    _checks.offsets(key_offsets, query, "key_offsets", "query")
    if query_offsets.shape != key_offsets.shape:
        raise ValueError(
            f"query_offsets describes {query_offsets.shape[0] - 1} sequences, key_offsets {key_offsets.shape[0] - 1};"
            " they must be as many"
        )
    _check_bias(query, key, bias_table, query_coordinates, key_coordinates)
    optional = [x if x is None else x.contiguous() for x in (bias_table, query_coordinates, key_coordinates)]
    output, _ = _library.call(
        _ragged_attention,
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        query_offsets.contiguous(),
        key_offsets.contiguous(),
        *optional,
        query.shape[2] ** -0.5 if scale is None else float(scale),
        causal,
    )
    return output


def _check_features(query: Tensor, key: Tensor, value: Tensor) -> None:
    for features, name in ((query, "query"), (key, "key"), (value, "value")):
        _checks.tensor(features, name)
        shape = tuple(features.shape)
        if len(shape) == 4:
            raise ValueError(
                f"{name} must be packed (N, H, D), got shape {shape}; flatten(0, 1) packs (B, N, H, D), and attention"
                " with heads first (B, H, N, D) needs .transpose(1, 2) before that"
            )
        if len(shape) != 3 or shape[1] < 1 or not 1 <= shape[2] <= MAX_HEAD_DIM:
            raise ValueError(
                f"{name} must be packed (N, H, D) with H >= 1 and 1 <= D <= {MAX_HEAD_DIM}, got shape {shape}"
            )
        _check_dtype(features, name, query)
        _checks.same_device(features, name, query, "query")
    if key.shape[1:] != query.shape[1:]:
        raise ValueError(
            f"query {tuple(query.shape)} and key {tuple(key.shape)} must have the same heads and dimensions"
        )
    if value.shape[:2] != key.shape[:2]:
        raise ValueError(f"key {tuple(key.shape)} and value {tuple(value.shape)} must have the same rows and heads")


def _check_dtype(value: Tensor, name: str, query: Tensor) -> None:
    if _checks.under_autocast(query):
        return
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{name} must be float32 or float64, got {value.dtype}; convert with .float(), or run under torch.autocast"
        )
    if value.dtype != query.dtype:
        raise TypeError(f"{name} is {value.dtype}, query {query.dtype}; they must be the same")


def _check_bias(
    query: Tensor,
    key: Tensor,
    bias_table: Tensor | None,
    query_coordinates: Tensor | None,
    key_coordinates: Tensor | None,
) -> None:
    if bias_table is None:
        if query_coordinates is not None or key_coordinates is not None:
            raise ValueError("coordinates are of use with a bias_table only; give one, or leave them out")
        return
    _checks.tensor(bias_table, "bias_table")
    if (
        bias_table.dim() != 4
        or bias_table.shape[0] != query.shape[1]
        or any(size % 2 == 0 for size in bias_table.shape[1:])
    ):
        raise ValueError(
            f"bias_table must be (H, 2 w0 - 1, 2 w1 - 1, 2 w2 - 1) with H = {query.shape[1]} and odd sizes,"
            f" got shape {tuple(bias_table.shape)}; a two-dimensional window has w2 = 1"
        )
    _check_dtype(bias_table, "bias_table", query)
    _checks.same_device(bias_table, "bias_table", query, "query")
    for coordinates, name, rows in (
        (query_coordinates, "query_coordinates", query.shape[0]),
        (key_coordinates, "key_coordinates", key.shape[0]),
    ):
        if coordinates is None:
            raise ValueError(f"a bias_table needs {name}, the place (N, 3) of each token in its window")
        _checks.tensor(coordinates, name)
        if coordinates.shape != (rows, 3):
            raise ValueError(f"{name} must be ({rows}, 3), one row per token, got shape {tuple(coordinates.shape)}")
        if coordinates.dtype != torch.int32:
            raise TypeError(f"{name} must be int32, got {coordinates.dtype}; convert with .int()")
        _checks.same_device(coordinates, name, query, "query")


def _fake(query, key, value, query_offsets, key_offsets, bias_table, query_coordinates, key_coordinates, scale, causal):
    return query.new_empty((*query.shape[:2], value.shape[2])), query.new_empty(query.shape[:2])


def _fake_backward(grad_output, query, key, value, output, logsumexp, query_offsets, key_offsets, bias_table, *_):
    grads = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    return *grads, query.new_empty((0,)) if bias_table is None else torch.empty_like(bias_table)


def _setup_context(ctx, inputs, output):
    *tensors, ctx.scale, ctx.causal = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


@once_differentiable
def _backward(ctx, grad_output, _):
    query, key, value, query_offsets, key_offsets, table, *coordinates, output, logsumexp = ctx.saved_tensors
    grad_query, grad_key, grad_value, grad_table = _ragged_attention_backward(
        grad_output.contiguous(), query, key, value, output, logsumexp, query_offsets, key_offsets, table, *coordinates,
        ctx.scale, ctx.causal,
    )  # fmt: skip
    return grad_query, grad_key, grad_value, None, None, None if table is None else grad_table, None, None, None, None


_ragged_attention_backward = _library.register("ragged_attention_backward", fake=_fake_backward)
_ragged_attention = _library.register("ragged_attention", fake=_fake, backward=_backward, setup_context=_setup_context)


def _pairs(query_offsets: Tensor, key_offsets: Tensor, queries: int, keys: int, causal: bool) -> int:
    """How many pairs of a query and a key are compared.

    Exact where the offsets hold numbers. While a program is only traced they do not: then the bound for one sequence.
    """
    if isinstance(query_offsets, FakeTensor) or query_offsets.is_meta:
        return queries * keys
    lengths = zip(query_offsets.diff().tolist(), key_offsets.diff().tolist())
    # causal: query i sees min(i + 1, n_k) keys
    return sum((m := min(n_q, n_k)) * (m + 1) // 2 + (n_q - m) * n_k if causal else n_q * n_k for n_q, n_k in lengths)


@register_flop_formula(torch.ops.pctransformer.ragged_attention, get_raw=True)
def _flops(query, key, value, query_offsets, key_offsets, *rest, out_val=None) -> int:
    """Two for every multiply-add of the products query . key and weights . value."""
    pairs = _pairs(query_offsets, key_offsets, query.shape[0], key.shape[0], rest[-1])
    return 2 * pairs * query.shape[1] * (query.shape[2] + value.shape[2])


@register_flop_formula(torch.ops.pctransformer.ragged_attention_backward, get_raw=True)
def _flops_backward(
    grad_output, query, key, value, output, logsumexp, query_offsets, key_offsets, *rest, out_val=None
) -> int:
    """The scores once more, then two products for each of the two of the forward pass."""
    pairs = _pairs(query_offsets, key_offsets, query.shape[0], key.shape[0], rest[-1])
    return 2 * pairs * query.shape[1] * (3 * query.shape[2] + 2 * value.shape[2])
