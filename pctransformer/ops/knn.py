"""The k nearest points of each query."""

from __future__ import annotations

import torch
from torch import Tensor

from pctransformer.ops import _checks, _library

_MAX_NEIGHBORS = 256  # kMaxNeighbors in csrc/checks.h


def knn(xyz: Tensor, offsets: Tensor, query_xyz: Tensor, query_offsets: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k nearest points of each query, cloud by cloud.

    Distances are exact and Euclidean, nearest first. Equal distances are ordered by lower row, also at the cut: of
    equally far points the lowest rows are kept, on CPU and CUDA alike. A cloud with fewer than k points gives rows that
    end in -1. A query that is itself a point of the cloud finds itself, or the lowest row that coincides with it. Use
    `ball_query` when a fixed radius matters more than a fixed count.

    Args:
        xyz: clouds to search, packed (N, 3) float32, metres. float64 is taken too, but compares every query with every
            point: for checks of gradients and for small clouds.
        offsets: (B + 1,) int64, cloud b is rows offsets[b]:offsets[b + 1].
        query_xyz: points to search from, packed (M, 3), of the same dtype. Giving the tensor `xyz` itself saves time.
        query_offsets: (B + 1,) int64, the queries into cloud b are rows query_offsets[b]:query_offsets[b + 1].
        k: neighbours per query, 1 <= k <= 256.

    Returns:
        index (M, k) int64: index[m, j] = n means that xyz[n] is the j-th nearest point of query m; -1 where there is
            none.
        squared_distance (M, k): square metres; +inf where index is -1. Differentiable by xyz and query_xyz.

    Raises:
        ValueError: xyz or query_xyz is not (N, 3), the offsets describe different numbers of clouds, k is outside its
            range, on CPU: NaN or infinite coordinates, offsets that decrease. On CUDA NaN is infinitely far: a NaN
            point is never found, a NaN query finds nothing.
        TypeError: xyz and query_xyz are not both float32 or both float64, offsets are not int64.

    Source: on CPU a packed tree of boxes along a Hilbert curve, after Kamel and Faloutsos, On packing R-trees, 1993.
    """
    _checks.search(xyz, offsets, query_xyz, query_offsets, float64_too=True)
    _checks.integer(k, "k", 1, _MAX_NEIGHBORS)
    return _library.call(
        _knn, xyz.contiguous(), offsets.contiguous(), query_xyz.contiguous(), query_offsets.contiguous(), k
    )


def _fake(xyz, offsets, query_xyz, query_offsets, k):
    shape = (query_xyz.shape[0], k)
    return query_xyz.new_empty(shape, dtype=torch.int64), query_xyz.new_empty(shape)


def _setup_context(ctx, inputs, output):
    xyz, _, query_xyz, _, _ = inputs
    ctx.save_for_backward(xyz, query_xyz, output[0])


def _backward(ctx, _, grad):
    """d |q - x|^2 = 2 (q - x) (dq - dx)"""
    xyz, query_xyz, index = ctx.saved_tensors
    if xyz.shape[0] == 0:
        return torch.zeros_like(xyz), None, torch.zeros_like(query_xyz), None, None
    rows = index.clamp(min=0).flatten()
    difference = query_xyz[:, None] - xyz.index_select(0, rows).view(*index.shape, 3)
    grad_query = 2 * torch.where(index < 0, 0, grad)[..., None] * difference
    grad_xyz = torch.zeros_like(xyz).index_add(0, rows, -grad_query.flatten(0, 1)) if ctx.needs_input_grad[0] else None
    return grad_xyz, None, grad_query.sum(1), None, None


_knn = _library.register("knn", fake=_fake, backward=_backward, setup_context=_setup_context)
