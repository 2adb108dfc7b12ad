from __future__ import annotations

import torch
from torch import Tensor

from pctransformer.ops.reference._values import accumulator, check_index


def _rows(features: Tensor, index: Tensor, op: str) -> Tensor:
    """Rows of features for an index of any shape, zeros where it is -1."""
    check_index(index, -1, features.shape[0], op, "index")
    zero = features.new_zeros(1, *features.shape[1:])
    return torch.cat([features, zero])[index]  # row -1 is the last one


def gather(features: Tensor, index: Tensor) -> Tensor:
    return _rows(features, index, "gather")


def gather_backward(grad: Tensor, index: Tensor, weight: Tensor | None, rows: int) -> Tensor:
    """Row n is the sum of weight[m, j] * grad[m] over all m, j with index[m, j] == n."""
    check_index(index, -1, rows, "gather_backward", "index")
    wide = grad.to(accumulator(grad.dtype))
    terms = wide[:, None].expand(-1, index.shape[1], -1)
    if weight is not None:
        terms = terms * weight[..., None]
    total = wide.new_zeros(rows + 1, grad.shape[1])  # the last row takes what index -1 leaves out
    total.index_add_(0, torch.where(index < 0, rows, index).reshape(-1), terms.flatten(0, 1))
    return total[:rows].to(grad.dtype)


def gather_dot(grad: Tensor, features: Tensor, index: Tensor) -> Tensor:
    """Entry m, j is the inner product of grad[m] and features[index[m, j]]."""
    wide = accumulator(grad.dtype)
    return (grad[:, None].to(wide) * _rows(features, index, "gather_dot").to(wide)).sum(-1)


def group(xyz: Tensor, query_xyz: Tensor, index: Tensor, features: Tensor | None, radius: float) -> Tensor:
    points = _rows(xyz, index, "group")
    relative = (points - query_xyz[:, None]) / radius
    relative = torch.where(index[..., None] < 0, 0.0, relative)
    if features is None:
        return relative
    return torch.cat([relative.to(features.dtype), _rows(features, index, "group")], -1)


def weighted_gather(features: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Row m is the sum over j of weight[m, j] * features[index[m, j]]."""
    rows = _rows(features, index, "weighted_gather").to(weight.dtype)
    used = torch.where(index < 0, 0, weight)
    return (rows * used[..., None]).sum(1).to(features.dtype)
