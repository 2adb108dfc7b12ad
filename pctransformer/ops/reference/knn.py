from __future__ import annotations

import torch
from torch import Tensor

from pctransformer.ops.reference._values import check_finite, check_offsets, spans, squared_norm

_PAIRS_AT_ONCE = 1 << 24  # bounds the memory of large clouds


def knn(xyz: Tensor, offsets: Tensor, query_xyz: Tensor, query_offsets: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All distances of a cloud, sorted; the stable sort keeps equal distances in order of their rows."""
    op = "knn"
    check_offsets(offsets, xyz.shape[0], op, "offsets")
    check_offsets(query_offsets, query_xyz.shape[0], op, "query_offsets")
    check_finite(xyz, op, "xyz")
    check_finite(query_xyz, op, "query_xyz")
    index = torch.full((query_xyz.shape[0], k), -1, dtype=torch.int64, device=xyz.device)
    squared_distance = torch.full((query_xyz.shape[0], k), torch.inf, dtype=xyz.dtype, device=xyz.device)
    for (begin, end), (first, last) in zip(spans(offsets), spans(query_offsets)):
        found, step = min(k, end - begin), max(1, _PAIRS_AT_ONCE // max(1, end - begin))
        for row in range(first, last, step):
            queries = query_xyz[row : min(row + step, last)]
            distance, order = squared_norm(queries[:, None] - xyz[None, begin:end]).sort(dim=1, stable=True)
            squared_distance[row : row + len(queries), :found] = distance[:, :found]
            index[row : row + len(queries), :found] = begin + order[:, :found]
    return index, squared_distance
