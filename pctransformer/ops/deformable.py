"""Attention to a few places of maps, sampled between their cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from pctransformer.ops import _checks, _library
from pctransformer.ops.grouping import _sum_back_sorted

MAX_LEVELS = 16  # kMaxLevels of csrc/common/deformable.h


def deformable_attention(
    value: Tensor, level_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Multi-scale deformable attention: each query sums samples of maps at places of its own, weighted by its weights.

    The maps of all levels lie one after another in `value`, each row by row, and a query may look at any place of any
    level: memory grows with the samples, not with queries times cells. Values between cells are bilinear, and a map is
    surrounded by zeros: `grid_sample(..., padding_mode="zeros", align_corners=False)`. Weights are used as they are;
    the softmax over levels and points is the caller's. Maps are dense, so batches of them, and of queries, have one
    size: pad queries at their door.

    An infinite place is outside of its map. A place that is NaN makes the sums of its query and head NaN, and its own
    gradients; NaN in a cell reaches the samples within one cell of it. Once differentiable in value, locations and
    weights. The gradient of value is summed in the order of the queries on CPU, whatever the number of threads; on CUDA
    in an order that varies from run to run unless `torch.use_deterministic_algorithms(True)` is set, which takes more
    time and memory. Where a place lies exactly on the line between two cells' centres, the gradient of its location is
    that towards larger x and y.

    Args:
        value: (B, S, H, D) float32 or float64: S cells of all levels, H heads of D channels.
        level_shapes: (height, width) of each of 1 to 16 levels, S cells together. Cell (i, j) of a level is row
            start + i * width + j of value.
        locations: (B, Q, H, L, P, 2) x and y, 0 to 1 from border to border of the level: cell (i, j) has its centre at
            x = (j + 0.5) / width, y = (i + 0.5) / height.
        weights: (B, Q, H, L, P).

    Returns:
        (B, Q, H * D): [b, q, h * D + d] is the sum over l and p of weights[b, q, h, l, p] times channel d of head h of
        level l at locations[b, q, h, l, p].

    Raises:
        ValueError: shapes that do not fit together, or levels with another number of cells than value has rows.
        TypeError: dtypes other than those above, or mixed ones. Under autocast all become float32.

    Source: Zhu et al., Deformable DETR, 2021, equation 3.
    """
    sizes = _check(value, level_shapes, locations, weights)
    return _library.call(_deformable_attention, value.contiguous(), sizes, locations.contiguous(), weights.contiguous())


def _check(value: Tensor, level_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> list[int]:
    """What the contract says; returns height, width, height, width, ... of the levels."""
    for tensor, name in ((value, "value"), (locations, "locations"), (weights, "weights")):
        _checks.tensor(tensor, name)
        _check_dtype(tensor, name, value)
        _checks.same_device(tensor, name, value, "value")
    if value.dim() != 4 or value.shape[2] < 1 or value.shape[3] < 1:
        raise ValueError(
            f"value must be (B, S, H, D), cells of all levels, heads and their channels, got {tuple(value.shape)};"
            " a map (B, H * D, height, width) becomes one level with .flatten(2).transpose(1, 2).unflatten(2, (H, D))"
        )
    if isinstance(level_shapes, Tensor):
        raise TypeError("level_shapes must be pairs of whole numbers, got a torch.Tensor; call .tolist()")
    pairs = [tuple(shape) if isinstance(shape, (tuple, list)) else () for shape in level_shapes]
    if not 1 <= len(pairs) <= MAX_LEVELS or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"level_shapes must be (height, width) of 1 to {MAX_LEVELS} levels, got {level_shapes}")
    for pair in pairs:
        for side in pair:
            _checks.integer(side, "sides in level_shapes", 1)
    cells = sum(height * width for height, width in pairs)
    if cells != value.shape[1]:
        raise ValueError(
            f"level_shapes {pairs} have {cells} cells, value has {value.shape[1]}; the maps of all levels lie one after"
            " another in value"
        )
    batch, _, heads, _ = value.shape
    expected = f"(B, Q, H, L, P{{}}) with B = {batch}, H = {heads}, L = {len(pairs)}"
    if weights.dim() != 5 or (weights.shape[0], *weights.shape[2:4]) != (batch, heads, len(pairs)):
        raise ValueError(f"weights must be {expected.format('')}, got {tuple(weights.shape)}")
    if locations.shape != (*weights.shape, 2):
        raise ValueError(
            f"locations must be {expected.format(', 2')} and shaped as weights {tuple(weights.shape)}, got"
            f" {tuple(locations.shape)}"
        )
    return [side for pair in pairs for side in pair]


def _check_dtype(tensor: Tensor, name: str, value: Tensor) -> None:
    if _checks.under_autocast(value):
        return
    if tensor.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{name} must be float32 or float64, got {tensor.dtype}; convert with .float(), or run under torch.autocast"
        )
    if tensor.dtype != value.dtype:
        raise TypeError(f"{name} is {tensor.dtype}, value {value.dtype}; they must be the same")


def cells_of_samples(
    level_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Which cells `deformable_attention` sums, and with what factors: sample by sample, without the values.

    Args:
        level_shapes, locations, weights: as there.

    Returns:
        index (B, Q, H, 4LP) int64: cells among the S of all levels, -1 outside.
        share (B, Q, H, 4LP): weight times bilinear share, 0 outside. Differentiable in locations and weights.
    """
    indices, shares, start = [], [], 0
    for level, (height, width) in enumerate(level_shapes):
        place = locations[:, :, :, level] * locations.new_tensor([width, height]) - 0.5  # (B, Q, H, P, 2)
        corner = place.floor().detach()
        for down in (0, 1):
            for right in (0, 1):
                cell = corner + corner.new_tensor([right, down])
                share = (1 - (place - cell).abs()).prod(-1) * weights[:, :, :, level]
                inside = (cell >= 0).all(-1) & (cell[..., 0] < width) & (cell[..., 1] < height)  # not where NaN
                x, y = torch.where(inside[..., None], cell, 0).long().unbind(-1)
                indices.append(torch.where(inside, start + y * width + x, -1))
                shares.append(torch.where(inside, share, 0))
        start += height * width
    return torch.cat(indices, -1), torch.cat(shares, -1)


def _sum_to_cells(grad_output: Tensor, value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor):
    """The gradient of value again, as sums over the places that each cell's value went to, in their order."""
    batch, cells, heads, dim = value.shape
    index, share = cells_of_samples(list(zip(sizes[::2], sizes[1::2])), locations, weights)
    # cell s of head h of batch element b is row (b * S + s) * H + h
    b, h = torch.arange(batch, device=index.device), torch.arange(heads, device=index.device)
    row = (b[:, None, None, None] * cells + index) * heads + h[:, None]
    row = torch.where(index < 0, -1, row).flatten(0, 2)  # (BQH, 4LP)
    grad = grad_output.reshape(-1, dim)  # (BQH, D)
    return _sum_back_sorted(grad, row, share.flatten(0, 2), batch * cells * heads).view(value.shape)


def _fake(value, level_shapes, locations, weights):
    return value.new_empty((*weights.shape[:2], value.shape[2] * value.shape[3]))


def _fake_backward(grad_output, value, level_shapes, locations, weights):
    return torch.empty_like(value), torch.empty_like(locations), torch.empty_like(weights)


def _setup_context(ctx, inputs, output):
    value, ctx.level_shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


@once_differentiable
def _backward(ctx, grad_output):
    value, locations, weights = ctx.saved_tensors
    grad_output = grad_output.contiguous()
    grad_value, grad_locations, grad_weights = _deformable_attention_backward(
        grad_output, value, ctx.level_shapes, locations, weights
    )
    if value.is_cuda and torch.are_deterministic_algorithms_enabled():
        grad_value = _sum_to_cells(grad_output, value, ctx.level_shapes, locations, weights)
    return grad_value, None, grad_locations, grad_weights


_deformable_attention_backward = _library.register("deformable_attention_backward", fake=_fake_backward)
_deformable_attention = _library.register(
    "deformable_attention", fake=_fake, backward=_backward, setup_context=_setup_context
)


@register_flop_formula(torch.ops.pctransformer.deformable_attention, get_raw=True)
def _flops(value, level_shapes, locations, weights, out_val=None) -> int:
    """Two for every multiply-add of a sample's four cells."""
    return 2 * 4 * weights.numel() * value.shape[3]


@register_flop_formula(torch.ops.pctransformer.deformable_attention_backward, get_raw=True)
def _flops_backward(grad_output, value, level_shapes, locations, weights, out_val=None) -> int:
    """The products with the four cells once more, and the sums back into them."""
    return 2 * _flops(value, level_shapes, locations, weights)
