from __future__ import annotations

import torch
from torch import Tensor

from pctransformer.ops.reference._values import accumulator, check_index, check_offsets


def sort_index(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(order, offsets): the rows of group g are order[offsets[g]:offsets[g + 1]], ascending; rows with -1 come last."""
    check_index(index, -1, size, "sort_index", "index")
    group, order = torch.where(index < 0, size, index).sort(stable=True)
    return order, torch.searchsorted(group, torch.arange(size + 1, device=index.device))


def _members(offsets: Tensor, order: Tensor | None, rows: int, op: str) -> list[Tensor]:
    """Row numbers of every segment."""
    covered = rows if order is None else min(rows, int(offsets[-1]))
    check_offsets(offsets, covered, op, "offsets")
    if order is None:
        order = torch.arange(rows, device=offsets.device)
    else:
        check_index(order, 0, rows, op, "order")
    return list(order[:covered].split(offsets.diff().tolist()))


def segment_sum(values: Tensor, offsets: Tensor, order: Tensor | None, mean: bool) -> Tensor:
    wide = values.to(accumulator(values.dtype))
    out = wide.new_zeros(offsets.shape[0] - 1, values.shape[1])
    for s, rows in enumerate(_members(offsets, order, values.shape[0], "segment_sum")):
        out[s] = wide[rows].sum(0) / (max(1, len(rows)) if mean else 1)
    return out.to(values.dtype)


def segment_spread(values: Tensor, offsets: Tensor, order: Tensor | None, rows: int, mean: bool) -> Tensor:
    """Every row gets the value of its segment, for a mean its share; zeros where a row is in no segment."""
    out = values.new_zeros(rows, values.shape[1])
    for s, members in enumerate(_members(offsets, order, rows, "segment_spread")):
        out[members] = values[s] / (max(1, len(members)) if mean else 1)
    return out


def segment_max(values: Tensor, offsets: Tensor, order: Tensor | None) -> tuple[Tensor, Tensor]:
    """(largest, argrow): per segment and column the largest value, NaN above all, and the first row that holds it."""
    largest = values.new_zeros(offsets.shape[0] - 1, values.shape[1])
    argrow = torch.full_like(largest, -1, dtype=torch.int64)
    for s, rows in enumerate(_members(offsets, order, values.shape[0], "segment_max")):
        if len(rows) == 0:
            continue
        members = values[rows]
        largest[s] = members.amax(0)
        holds = (members == largest[s]) | members.isnan()
        argrow[s] = rows[holds.int().argmax(0)]
    return largest, argrow


def segment_max_backward(grad: Tensor, argrow: Tensor, offsets: Tensor, order: Tensor | None, rows: int) -> Tensor:
    check_index(argrow, -1, rows, "segment_max_backward", "argrow")
    _members(offsets, order, rows, "segment_max_backward")
    out = grad.new_zeros(rows + 1, grad.shape[1])  # the last row takes the gradient of empty segments
    out.scatter_(0, torch.where(argrow < 0, rows, argrow), grad)
    return out[:rows].clone()


def segment_softmax(values: Tensor, offsets: Tensor, order: Tensor | None) -> Tensor:
    out = torch.zeros_like(values)
    for rows in _members(offsets, order, values.shape[0], "segment_softmax"):
        out[rows] = values[rows].to(accumulator(values.dtype)).softmax(0).to(values.dtype)
    return out


def segment_softmax_backward(grad: Tensor, softmax: Tensor, offsets: Tensor, order: Tensor | None) -> Tensor:
    wide = accumulator(grad.dtype)
    out = torch.zeros_like(grad)
    for rows in _members(offsets, order, grad.shape[0], "segment_softmax_backward"):
        y, g = softmax[rows].to(wide), grad[rows].to(wide)
        out[rows] = (y * (g - (y * g).sum(0))).to(grad.dtype)
    return out
