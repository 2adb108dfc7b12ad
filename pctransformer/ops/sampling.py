"""Choosing points: farthest point sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pctransformer.ops import _checks, _library


def farthest_point_sample(
    xyz: Tensor,
    offsets: Tensor,
    num_samples: int | Sequence[int],
    *,
    start: int | Tensor = 0,
    skip_near_origin: bool = False,
) -> Tensor:
    """Choose points that cover each cloud evenly: each next point is the one farthest from all chosen before it.

    Exact greedy sampling, on CPU and CUDA alike: distances are Euclidean, and among equally far points the one with
    the lowest index is taken, so duplicates and lattices give the same result everywhere. A cloud with n points fills
    its first min(n, m) of m samples, the others are -1; a cloud whose points coincide repeats its first point. Nothing
    is random: draw `start` yourself for random starts.

    Args:
        xyz: clouds, packed (N, 3) float32, metres.
        offsets: (B + 1,) int64, cloud b is rows offsets[b]:offsets[b + 1].
        num_samples: samples per cloud, one number for all or one for each cloud (B,).
        start: first sample of each cloud, an index within the cloud: one number for all or (B,) int64.
        skip_near_origin: never choose points with |p|^2 <= 1e-3 after the start, as the kernels behind many public
            PointNet++, PCT and Point-MAE checkpoints do. -1 where no other point is left.

    Returns:
        index (M,) int64, the samples of cloud 0, then those of cloud 1, ...; M = B * num_samples, or the sum of the
        numbers given. index[m] = n means that xyz[n] is the m-th sample; -1 where the cloud has no more points. Not
        differentiable.

    Raises:
        ValueError: xyz is not (N, 3), a start lies outside its cloud, on CPU: NaN or infinite coordinates, offsets that
            decrease. On CUDA a point that is not finite is never chosen, unless it is the start, and a start is clamped
            into its cloud.
        TypeError: xyz is not float32, offsets are not int64.

    Source: greedy k-centre after Gonzalez 1985; used for point clouds by Qi et al., PointNet++, 2017. Kernels for large
    clouds prune buckets of a kd-tree after Han et al., QuickFPS, 2023, without approximation.
    """
    _checks.xyz(xyz)
    _checks.offsets(offsets, xyz)
    clouds = offsets.shape[0] - 1
    if isinstance(num_samples, (int, float, torch.SymInt)):
        _checks.integer(num_samples, "num_samples", 0)
        total = clouds * num_samples
        sample_offsets = torch.arange(clouds + 1, device=xyz.device) * num_samples
    else:
        counts = [int(count) for count in num_samples]
        if len(counts) != clouds or min(counts, default=0) < 0:
            raise ValueError(f"num_samples must hold one number >= 0 for each of {clouds} clouds, got {counts}")
        total = sum(counts)
        sample_offsets = torch.tensor([0, *counts], device=xyz.device).cumsum(0)
    if isinstance(start, Tensor):
        _checks.index(start, xyz, "start", "xyz")
        if start.shape != (clouds,):
            raise ValueError(f"start must hold one index for each of {clouds} clouds, got shape {tuple(start.shape)}")
    else:
        _checks.integer(start, "start", 0)
        start = torch.full((clouds,), start, device=xyz.device)
    return _library.call(
        _farthest_point_sample,
        xyz.contiguous(),
        offsets.contiguous(),
        sample_offsets,
        start.contiguous(),
        total,
        skip_near_origin,
    )


def _fake(xyz, offsets, sample_offsets, start, total, skip_near_origin):
    return xyz.new_empty((total,), dtype=torch.int64)


_farthest_point_sample = _library.register("farthest_point_sample", fake=_fake)
