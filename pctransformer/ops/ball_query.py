"""Neighbours within a radius: ball query."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pctransformer.ops import _checks, _library

MAX_POINTS = 2**31 - 1
"""Rows are 32-bit numbers inside the kernels (kMaxBallQueryPoints in csrc/checks.h)."""


def ball_query(
    xyz: Tensor,
    offsets: Tensor,
    query_xyz: Tensor,
    query_offsets: Tensor,
    radius: float,
    k: int,
    *,
    closed: bool = False,
    pad: Literal["none", "first"] = "none",
) -> Tensor:
    """Find the first k points, in index order, within a radius of each query, cloud by cloud.

    The meaning PointNet++ gave it: points are taken by ascending index, not by distance, until k are found. Where the
    order of a cloud has a meaning (scan lines), what is kept of a crowded ball is one side of it: shuffle such clouds,
    or use `knn` for the nearest points or for a fixed count. Distances are Euclidean, and compared squared in float32,
    on CPU and CUDA alike. A query that is a point of the cloud is its own neighbour.

    Args:
        xyz: clouds to search, packed (N, 3) float32, metres; N < 2^31.
        offsets: (B + 1,) int64, cloud b is rows offsets[b]:offsets[b + 1].
        query_xyz: clouds to search from, packed (M, 3) float32.
        query_offsets: (B + 1,) int64.
        radius: metres, above 0.
        k: neighbours per query, at least 1.
        closed: whether a point exactly on the sphere is inside; it is outside in public PointNet++ kernels.
        pad: what stands in unused places: "none" is -1; "first" repeats the first neighbour, as public PointNet++
            checkpoints expect, and leaves -1 only where a query has no neighbour at all.

    Returns:
        index (M, k) int64: index[m, j] = n means that xyz[n] is the j-th neighbour of query m, ascending; padding comes
        last. Not differentiable.

    Raises:
        ValueError: the two batches hold different numbers of clouds; radius or k is outside its range; on CPU: NaN or
            infinite coordinates, offsets that decrease. On CUDA a NaN point is in no ball, and a NaN query finds
            nothing.
        TypeError: coordinates are not float32, offsets are not int64.

    Source: Qi et al., PointNet++, 2017. Large clouds are searched on a uniform grid with cells of the radius, as in
    Green, Particle simulation using CUDA, 2010.
    """
    _checks.search(xyz, offsets, query_xyz, query_offsets)
    if xyz.shape[0] > MAX_POINTS:
        raise ValueError(f"xyz must hold at most {MAX_POINTS} points, got {xyz.shape[0]}; split the batch")
    _checks.positive(radius, "radius")
    _checks.integer(k, "k", 1)
    _checks.choice(pad, "pad", ("none", "first"))
    return _library.call(
        _ball_query,
        xyz.contiguous(),
        offsets.contiguous(),
        query_xyz.contiguous(),
        query_offsets.contiguous(),
        float(radius),
        k,
        closed,
        pad == "first",
    )


def _fake(xyz, offsets, query_xyz, query_offsets, radius, k, closed, pad_first):
    return xyz.new_empty((query_xyz.shape[0], k), dtype=torch.int64)


_ball_query = _library.register("ball_query", fake=_fake)
