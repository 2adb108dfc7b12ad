from __future__ import annotations

import torch
from torch import Tensor

from pctransformer.ops.reference._values import check_finite, check_offsets, spans, squared_norm

_PAIRS = 1 << 22  # distances held at once


def ball_query(
    xyz: Tensor,
    offsets: Tensor,
    query_xyz: Tensor,
    query_offsets: Tensor,
    radius: float,
    k: int,
    closed: bool,
    pad_first: bool,
) -> Tensor:
    """Compare every query with every point of its cloud, and keep the first k that are inside."""
    op = "ball_query"
    check_offsets(offsets, xyz.shape[0], op, "offsets")
    check_offsets(query_offsets, query_xyz.shape[0], op, "query_offsets")
    check_finite(xyz, op, "xyz")
    check_finite(query_xyz, op, "query_xyz")
    squared_radius = torch.tensor(radius, dtype=torch.float32).square().to(xyz.device)
    index = torch.full((query_xyz.shape[0], k), -1, dtype=torch.int64, device=xyz.device)
    for (begin, end), (first, last) in zip(spans(offsets), spans(query_offsets)):
        if begin == end:
            continue
        step = max(1, _PAIRS // (end - begin))
        for q in range(first, last, step):
            queries = query_xyz[q : min(q + step, last)]
            squared = squared_norm(xyz[begin:end] - queries[:, None])
            # A distance that overflows is in no ball.
            inside = ((squared <= squared_radius) if closed else (squared < squared_radius)) & squared.isfinite()
            place = inside.cumsum(1) - 1  # a point inside is preceded by so many others
            query, row = (inside & (place < k)).nonzero(as_tuple=True)
            index[q + query, place[query, row]] = begin + row
    if pad_first:
        index = torch.where(index < 0, index[:, :1], index)
    return index
