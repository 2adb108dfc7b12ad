"""Ours behind the plain signatures that comparison scripts of other packages use, dense batches in and out.

fps(x (B, N, 3), m) -> index (B, m); ball_query(x, q (B, M, 3), r, k) -> index (B, M, k), padded with the first hit;
knn(x, q, k) -> (squared distance (B, M, k), index); win_attn(q, k, v (T, H, D), offsets) -> (T, H, D). Indices count
within each cloud.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pctransformer import ops


def _packed(clouds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, offsets, and the first row of each cloud shaped to broadcast against (B, M, k)."""
    count, n, _ = clouds.shape
    offsets = torch.arange(count + 1, device=clouds.device) * n
    return clouds.reshape(-1, 3), offsets, offsets[:-1].view(-1, 1, 1)


def fps(x: Tensor, m: int) -> Tensor:
    xyz, offsets, first = _packed(x)
    return ops.farthest_point_sample(xyz, offsets, m).view(-1, m) - first[..., 0]


def ball_query(x: Tensor, q: Tensor, r: float, k: int) -> Tensor:
    xyz, offsets, first = _packed(x)
    query, query_offsets, _ = _packed(q)
    index = ops.ball_query(xyz, offsets, query, query_offsets, r, k, pad="first").view(*q.shape[:2], k)
    return torch.where(index < 0, 0, index - first)


def knn(x: Tensor, q: Tensor, k: int) -> tuple[Tensor, Tensor]:
    xyz, offsets, first = _packed(x)
    query, query_offsets, _ = _packed(q)
    index, squared_distance = ops.knn(xyz, offsets, query, query_offsets, k)
    return squared_distance.view(*q.shape[:2], k), index.view(*q.shape[:2], k) - first


def win_attn(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor) -> Tensor:
    return ops.ragged_attention(q, k, v, offsets, offsets)


win_attn_train = win_attn
