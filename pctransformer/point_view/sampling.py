"""From one level of a hierarchy to the next: which points stay, and whom they see."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pctransformer.ops import farthest_point_sample, knn, segment
from pctransformer.point_view.curve_order import curve_order
from pctransformer.points import PointBatch

Order = Literal["sampled", "morton", "hilbert"]


def sample(
    batch: PointBatch, num_samples: int, *, skip_near_origin: bool = False, order: Order = "sampled"
) -> tuple[PointBatch, Tensor]:
    """The same number of points from every cloud, by farthest point sampling.

    A cloud with fewer points, or fewer that may be sampled, gives all of them, again from the start until there are
    enough, so that every cloud has equally many tokens. An empty cloud gives rows of zeros.

    Args:
        batch: clouds.
        num_samples: points wanted from each.
        skip_near_origin: see `farthest_point_sample`.
        order: "sampled" leaves the samples of a cloud as they were taken, "morton" and "hilbert" sort them along that
            curve, for whatever needs neighbours in space to be neighbours in the sequence.

    Returns:
        the samples as a dense batch without features, and index (B * num_samples,) int64 of their rows in `batch`.
    """
    clouds = len(batch)
    index = farthest_point_sample(batch.xyz, batch.offsets, num_samples, skip_near_origin=skip_near_origin)
    if skip_near_origin or batch.max_points is None or not batch.is_dense or batch.max_points < num_samples:
        found = (index >= 0).view(clouds, num_samples).sum(1, keepdim=True)
        again = torch.arange(num_samples, device=batch.device) % found.clamp(min=1)
        index = index.view(clouds, num_samples).gather(1, again).flatten()
    offsets = torch.arange(clouds + 1, device=batch.device) * num_samples
    samples = _chosen(batch, index, offsets, num_samples)
    if order != "sampled":
        rows = curve_order(samples, order)
        samples, index = samples.replace(xyz=samples.xyz.index_select(0, rows)), index.index_select(0, rows)
    return samples, index


def sample_fraction(batch: PointBatch, stride: int) -> tuple[PointBatch, Tensor]:
    """Every stride-th point of each cloud, but one at least of a cloud that has any, by farthest point sampling.

    Clouds of different sizes stay different; their sizes are read on the host then, which on CUDA waits for the device.

    Returns:
        the samples as a batch without features, and index (M,) int64 of their rows in `batch`.
    """
    if batch.is_dense and batch.max_points is not None:
        count = max(batch.max_points // stride, min(batch.max_points, 1))
        index = farthest_point_sample(batch.xyz, batch.offsets, count)
        return _chosen(batch, index, torch.arange(len(batch) + 1, device=batch.device) * count, count), index
    counts = [max(n // stride, min(n, 1)) for n in batch.lengths.tolist()]
    index = farthest_point_sample(batch.xyz, batch.offsets, counts)
    offsets = torch.tensor([0, *counts], device=batch.device).cumsum(0)
    return _chosen(batch, index, offsets, max(counts, default=0)), index


def neighbors(batch: PointBatch, queries: PointBatch, k: int) -> Tensor:
    """The k nearest points of each query: index (M, k) of rows in `batch`, -1 in small clouds."""
    return knn(batch.xyz, batch.offsets, queries.xyz, queries.offsets, k)[0]


def max_over_neighbors(grouped: Tensor) -> Tensor:
    """The channel-wise maximum (M, C) of neighbourhoods (M, k, C).

    Its gradient goes to the first neighbour that holds the maximum. `grouped.amax(1)` shares it among equal ones, which
    takes torch eight times as long, a sixth of a training step of PCT.
    """
    offsets = torch.arange(grouped.shape[0] + 1, device=grouped.device) * grouped.shape[1]
    return segment(grouped.flatten(0, 1), offsets, "max")


def _chosen(batch: PointBatch, index: Tensor, offsets: Tensor, max_points: int) -> PointBatch:
    rows = batch.xyz.index_select(0, index.clamp(min=0)) if batch.xyz.shape[0] else batch.xyz.new_zeros(len(index), 3)
    return PointBatch(rows * (index >= 0)[:, None], offsets, None, max_points, batch.origin)
