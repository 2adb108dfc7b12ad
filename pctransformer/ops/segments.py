"""Reducing groups of rows: sum, mean, maximum and softmax over packed segments and scattered indices."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from pctransformer.ops import _checks, _library

Reduce = Literal["sum", "mean", "max"]
Backend = Literal["native", "torch_scatter"]


def segment(values: Tensor, offsets: Tensor, reduce: Reduce = "sum", *, backend: Backend = "native") -> Tensor:
    """Reduce runs of rows: one row out for each segment, per trailing channel.

    Summation runs in the order of rows, so results do not depend on the number of threads; half precision is summed in
    float32. An empty segment gives 0, for the maximum too. The gradient of a maximum goes to the first row that holds
    it. Values are not checked: NaN stays within its segment, and is the maximum of it. Use `scatter` for groups whose
    rows are not neighbours. Twice differentiable.

    Args:
        values: (N, ...), segments one after another.
        offsets: (S + 1,) int64, segment s is rows offsets[s]:offsets[s + 1].
        reduce: "sum", "mean" or "max".
        backend: "torch_scatter" calls that package's `segment_csr` instead, for comparison.

    Returns:
        (S, ...): row s is the sum, mean or maximum of values[offsets[s]:offsets[s + 1]].

    Raises:
        ValueError: on CPU: offsets that decrease or do not end with N. On CUDA they are clamped.
        TypeError: values are not floating, offsets are not int64.
        ImportError: backend="torch_scatter" where that package is not installed.
    """
    _check_values(values)
    _checks.offsets(offsets, values, like_name="values")
    _checks.choice(reduce, "reduce", ("sum", "mean", "max"))
    if _use_torch_scatter(backend):
        return _torch_scatter().segment_csr(values, offsets, reduce=reduce)
    return _reduce(values, offsets, None, reduce)


def segment_softmax(values: Tensor, offsets: Tensor, *, backend: Backend = "native") -> Tensor:
    """Softmax over the rows of each segment, for every trailing channel by itself.

    The largest value is subtracted first, so large values do not overflow. NaN, +inf, or -inf in all rows of a segment
    give NaN in that segment and channel, as `torch.softmax` does. Use `scatter_softmax` for groups whose rows are not
    neighbours. Twice differentiable.

    Args:
        values: (N, ...), segments one after another.
        offsets: (S + 1,) int64, segment s is rows offsets[s]:offsets[s + 1].
        backend: "torch_scatter" calls that package's `scatter_softmax` instead, for comparison.

    Returns:
        (N, ...): positive, and each segment's rows sum to 1.

    Raises:
        As `segment`.
    """
    _check_values(values)
    _checks.offsets(offsets, values, like_name="values")
    if _use_torch_scatter(backend):
        index = torch.arange(len(offsets) - 1, device=offsets.device).repeat_interleave(offsets.diff())
        return _torch_scatter().composite.scatter_softmax(values, index, dim=0, dim_size=len(offsets) - 1)
    return _softmax(values, offsets, None)


def scatter(values: Tensor, index: Tensor, size: int, reduce: Reduce = "sum", *, backend: Backend = "native") -> Tensor:
    """Reduce rows by group: one row out for each of `size` groups, per trailing channel.

    Rows are first brought into the order of their groups, by a stable sort, and then reduced as `segment` does: in the
    order of rows, equal on every number of threads. An empty group gives 0. Use `segment` when groups are runs already.

    Args:
        values: (N, ...).
        index: (N,) int64: index[n] = g means that row n belongs to group g; -1 leaves the row out.
        size: number of groups.
        reduce: "sum", "mean" or "max".
        backend: "torch_scatter" calls that package's `scatter` instead, for comparison.

    Returns:
        (size, ...): row g is the sum, mean or maximum of the rows with index g.

    Raises:
        ValueError: shapes differ, on CPU: an index outside [-1, size). On CUDA such rows are left out.
        TypeError: values are not floating, index is not int64.
        ImportError: backend="torch_scatter" where that package is not installed.
    """
    _check_scatter(values, index, size)
    _checks.choice(reduce, "reduce", ("sum", "mean", "max"))
    if _use_torch_scatter(backend):
        rest = torch.where(index < 0, size, index)
        return _torch_scatter().scatter(values, rest, dim=0, dim_size=size + 1, reduce=reduce)[:size]
    order, offsets = _library.call(_sort_index, index.contiguous(), size)
    return _reduce(values, offsets, order, reduce)


def scatter_softmax(values: Tensor, index: Tensor, size: int, *, backend: Backend = "native") -> Tensor:
    """Softmax over the rows of each group, for every trailing channel by itself; rows with index -1 get 0.

    Otherwise as `segment_softmax`, which is the one to use when groups are runs of rows.

    Args:
        values: (N, ...).
        index: (N,) int64: index[n] = g means that row n belongs to group g; -1 leaves the row out.
        size: number of groups.
        backend: "torch_scatter" calls that package's `scatter_softmax` instead, for comparison.

    Returns:
        (N, ...): not negative; the rows of each group sum to 1.

    Raises:
        As `scatter`.
    """
    _check_scatter(values, index, size)
    if _use_torch_scatter(backend):
        rest = torch.where(index < 0, size, index)
        softmax = _torch_scatter().composite.scatter_softmax(values, rest, dim=0, dim_size=size + 1)
        return torch.where((index < 0).view(-1, *[1] * (values.dim() - 1)), 0, softmax)
    order, offsets = _library.call(_sort_index, index.contiguous(), size)
    return _softmax(values, offsets, order)


# ---- below the contract ----------------------------------------------------------------------------------------------
def _check_values(values: Tensor) -> None:
    _checks.tensor(values, "values")
    if values.dim() < 1:
        raise ValueError("values must be (N, ...), got a single number")
    if not values.is_floating_point():
        raise TypeError(f"values must be floating, got {values.dtype}; convert with .float()")


def _check_scatter(values: Tensor, index: Tensor, size: int) -> None:
    _check_values(values)
    _checks.index(index, values, like_name="values")
    if index.shape != values.shape[:1]:
        raise ValueError(
            f"index must hold one group for each of {values.shape[0]} rows, got shape {tuple(index.shape)}"
        )
    _checks.integer(size, "size", 0)


def _use_torch_scatter(backend: str) -> bool:
    _checks.choice(backend, "backend", ("native", "torch_scatter"))
    return backend == "torch_scatter"


def _torch_scatter() -> Any:
    try:
        import torch_scatter
    except ImportError as error:
        raise ImportError(
            'backend="torch_scatter" needs that package: pip install --no-build-isolation torch-scatter, after torch'
        ) from error
    return torch_scatter


def _rows(values: Tensor) -> Tensor:
    """(N, ...) as contiguous (N, C)."""
    return values.contiguous().view(values.shape[0], math.prod(values.shape[1:]))


def _reduce(values: Tensor, offsets: Tensor, order: Tensor | None, reduce: str) -> Tensor:
    if reduce == "max":
        out, _ = _library.call(_segment_max, _rows(values), offsets.contiguous(), order)
    else:
        out = _library.call(_segment_sum, _rows(values), offsets.contiguous(), order, reduce == "mean")
    return out.view(out.shape[0], *values.shape[1:])


def _softmax(values: Tensor, offsets: Tensor, order: Tensor | None) -> Tensor:
    return _library.call(_segment_softmax, _rows(values), offsets.contiguous(), order).view(values.shape)


# sort_index: (order, offsets) such that the rows of group g are order[offsets[g]:offsets[g + 1]]
def _sort_index_fake(index, size):
    return torch.empty_like(index), index.new_empty((size + 1,))


_sort_index = _library.register("sort_index", fake=_sort_index_fake, autocast=False)


# segment_sum and segment_spread: each is the gradient of the other
def _segment_sum_fake(values, offsets, order, mean):
    return values.new_empty((offsets.shape[0] - 1, values.shape[1]))


def _segment_sum_context(ctx, inputs, output):
    values, offsets, order, ctx.mean = inputs
    ctx.rows = values.shape[0]
    ctx.save_for_backward(offsets, order)


def _segment_sum_backward(ctx, grad):
    return _segment_spread(grad.contiguous(), *ctx.saved_tensors, ctx.rows, ctx.mean), None, None, None


def _segment_spread_fake(values, offsets, order, rows, mean):
    return values.new_empty((rows, values.shape[1]))


def _segment_spread_context(ctx, inputs, output):
    _, offsets, order, _, ctx.mean = inputs
    ctx.save_for_backward(offsets, order)


def _segment_spread_backward(ctx, grad):
    return _segment_sum(grad.contiguous(), *ctx.saved_tensors, ctx.mean), None, None, None, None


_segment_sum = _library.register(
    "segment_sum", fake=_segment_sum_fake, backward=_segment_sum_backward, setup_context=_segment_sum_context
)
_segment_spread = _library.register(
    "segment_spread",
    fake=_segment_spread_fake,
    backward=_segment_spread_backward,
    setup_context=_segment_spread_context,
)


# segment_max: its gradient goes to the rows it came from
def _segment_max_fake(values, offsets, order):
    out = values.new_empty((offsets.shape[0] - 1, values.shape[1]))
    return out, torch.empty_like(out, dtype=torch.int64)


def _segment_max_context(ctx, inputs, output):
    values, offsets, order = inputs
    ctx.rows = values.shape[0]
    ctx.save_for_backward(output[1], offsets, order)


def _segment_max_backward_formula(ctx, grad, _):
    return _segment_max_backward(grad.contiguous(), *ctx.saved_tensors, ctx.rows), None, None


def _segment_max_backward_fake(grad, argrow, offsets, order, rows):
    return grad.new_empty((rows, grad.shape[1]))


def _segment_max_backward_context(ctx, inputs, output):
    ctx.save_for_backward(inputs[1])


def _segment_max_backward_backward(ctx, grad):
    (argrow,) = ctx.saved_tensors
    if grad.shape[0] == 0:
        return grad.new_zeros(argrow.shape), None, None, None, None
    return grad.gather(0, argrow.clamp(min=0)).masked_fill(argrow < 0, 0), None, None, None, None


_segment_max = _library.register(
    "segment_max", fake=_segment_max_fake, backward=_segment_max_backward_formula, setup_context=_segment_max_context
)
_segment_max_backward = _library.register(
    "segment_max_backward",
    fake=_segment_max_backward_fake,
    backward=_segment_max_backward_backward,
    setup_context=_segment_max_backward_context,
)


# segment_softmax: with y the softmax and S a segment's sum, spread over its rows, the gradient is y (g - S(y g))
def _segment_softmax_fake(values, offsets, order):
    return torch.empty_like(values)


def _segment_softmax_context(ctx, inputs, output):
    _, offsets, order = inputs
    ctx.save_for_backward(output, offsets, order)


def _segment_softmax_backward_formula(ctx, grad):
    return _segment_softmax_backward(grad.contiguous(), *ctx.saved_tensors), None, None


def _segment_softmax_backward_fake(grad, softmax, offsets, order):
    return torch.empty_like(grad)


def _segment_softmax_backward_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _segment_softmax_backward_backward(ctx, outer):
    grad, softmax, offsets, order = ctx.saved_tensors

    def spread_sum(values):
        total = _segment_sum(values.contiguous(), offsets, order, False)
        return _segment_spread(total, offsets, order, values.shape[0], False)

    to_grad = _segment_softmax_backward(outer.contiguous(), softmax, offsets, order)
    to_softmax = outer * (grad - spread_sum(softmax * grad)) - grad * spread_sum(softmax * outer)
    return to_grad, to_softmax, None, None


_segment_softmax = _library.register(
    "segment_softmax",
    fake=_segment_softmax_fake,
    backward=_segment_softmax_backward_formula,
    setup_context=_segment_softmax_context,
)
_segment_softmax_backward = _library.register(
    "segment_softmax_backward",
    fake=_segment_softmax_backward_fake,
    backward=_segment_softmax_backward_backward,
    setup_context=_segment_softmax_backward_context,
)
