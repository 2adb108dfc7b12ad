from __future__ import annotations

import torch
from torch import Tensor

from pctransformer.ops.reference._values import check_finite, check_offsets, spans, squared_norm


def farthest_point_sample(
    xyz: Tensor, offsets: Tensor, sample_offsets: Tensor, start: Tensor, total: int, skip_near_origin: bool
) -> Tensor:
    """The greedy loop: take the point whose distance to all points taken so far is largest, lowest row first."""
    op = "farthest_point_sample"
    check_offsets(offsets, xyz.shape[0], op, "offsets")
    check_offsets(sample_offsets, total, op, "sample_offsets")
    check_finite(xyz, op, "xyz")
    index = torch.full((total,), -1, dtype=torch.int64, device=xyz.device)
    for b, ((begin, end), (first, last)) in enumerate(zip(spans(offsets), spans(sample_offsets))):
        if begin == end:
            continue
        points, chosen = xyz[begin:end], int(start[b])
        if not 0 <= chosen < end - begin:
            raise ValueError(f"{op}: start[{b}] = {chosen}, but cloud {b} has {end - begin} points")
        eligible = torch.ones(end - begin, dtype=torch.bool, device=xyz.device)
        if skip_near_origin:
            eligible = squared_norm(points).double() > 1e-3
        nearest = torch.full((end - begin,), torch.inf, device=xyz.device)
        for j in range(first, min(last, first + end - begin)):
            index[j] = begin + chosen
            nearest = torch.minimum(nearest, squared_norm(points - points[chosen]))
            if not eligible.any():
                break
            farthest = torch.where(eligible, nearest, -1.0)
            chosen = int((farthest == farthest.max()).nonzero()[0])
    return index
