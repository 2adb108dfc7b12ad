"""Set abstraction and feature propagation: the way down and up a hierarchy of points, PointNet++.

Source of the whole file: Qi, Yi, Su, Guibas, PointNet++, 2017, arXiv:1706.02413.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from pctransformer.layers.recording import RecordedLayer, shares_of_maximum
from pctransformer.ops import ball_query, gather, group, interpolate, segment
from pctransformer.point_view.sampling import Order, max_over_neighbors, sample
from pctransformer.points import PointBatch, pad_packed, padded_rows


def shared_perceptron(*widths: int) -> nn.Sequential:
    """Linear, BatchNorm, ReLU from each width to the next, for every row by itself."""
    layers: list[nn.Module] = []
    for in_dim, out_dim in pairwise(widths):
        layers += [nn.Linear(in_dim, out_dim), nn.BatchNorm1d(out_dim), nn.ReLU()]
    return nn.Sequential(*layers)


class BallPointNet(nn.Module):
    """One scale: the points within a radius of each centre, a perceptron on each of them, their maximum (section 3.2).

    Args:
        in_dim: C, channels of the points' features; their coordinates relative to the centre come on top.
        widths: output channels of the layers.
        radius: metres, or whatever unit the clouds have; public networks are for clouds in the unit sphere.
        k: points of a ball, the first by index where there are more.
        closed: whether a point on the sphere is inside, see `pctransformer.ops.ball_query`.
        pad: "none" runs the layers on the points that are there, and on CUDA waits for the device to know how many.
            "first" repeats the first of them up to k, as public code does. Outputs are the same, but in training
            repeated points weigh more in the statistics of BatchNorm. Shapes of ModelNet40 with 1024 points fill 70 to
            99 % of the places in PointNet++'s balls.
    """

    def __init__(
        self,
        in_dim: int,
        widths: Sequence[int],
        *,
        radius: float,
        k: int,
        closed: bool = False,
        pad: Literal["none", "first"] = "none",
    ) -> None:
        super().__init__()
        self.radius, self.k, self.closed, self.pad = radius, k, closed, pad
        self.layers = shared_perceptron(3 + in_dim, *widths)

    def forward(self, batch: PointBatch, centers: PointBatch) -> tuple[Tensor, Tensor, Tensor]:
        """
        Returns:
            features (M, widths[-1]) of M centres; zeros where nothing is within the radius.
            index (M, k) int64 rows of the points in each ball, -1 for none.
            values: what the features are the maximum of, (M, k, widths[-1]), or without padding (E, widths[-1]): one
                row for each index that is not -1.
        """
        index = ball_query(
            batch.xyz, batch.offsets, centers.xyz, centers.offsets, self.radius, self.k,
            closed=self.closed, pad=self.pad,
        )  # fmt: skip
        found = index >= 0  # (M, k)
        if self.pad == "first":
            grouped = group(batch.xyz, centers.xyz, index, batch.features)  # (M, k, 3 + C)
            values = self.layers(grouped.flatten(0, 1)).view(*index.shape, -1)
            return max_over_neighbors(values).masked_fill(~found[:, :1], 0), index, values
        count = found.sum(1)
        pairs = index[found]  # (E,) all points of the first centre, then those of the second, ...
        own_center = centers.xyz.repeat_interleave(count, 0, output_size=len(pairs))
        grouped = group(batch.xyz, own_center, pairs[:, None], batch.features)[:, 0]  # (E, 3 + C)
        values = self.layers(grouped)
        return segment(values, nn.functional.pad(count.cumsum(0), (1, 0)), "max"), index, values


class SetAbstraction(RecordedLayer):
    """Fewer points, each with the features of its surroundings at one scale or at several side by side (section 3.3).

    Centres are the same number from each cloud, by farthest point sampling; a smaller cloud repeats its points.

    Args:
        in_dim: C, channels of the points' features, 0 for none.
        num_samples: centres in each cloud.
        radii: of each scale.
        ks: points of a ball, for each scale.
        widths: output channels of the layers, for each scale.
        closed: see `BallPointNet`.
        pad: see `BallPointNet`.
        order: of the centres, see `sample`.
    """

    def __init__(
        self,
        in_dim: int,
        *,
        num_samples: int,
        radii: Sequence[float],
        ks: Sequence[int],
        widths: Sequence[Sequence[int]],
        closed: bool = False,
        pad: Literal["none", "first"] = "none",
        order: Order = "sampled",
    ) -> None:
        super().__init__()
        self.num_samples, self.order = num_samples, order
        self.out_dim = sum(width[-1] for width in widths)
        self.scales = nn.ModuleList(
            BallPointNet(in_dim, width, radius=radius, k=k, closed=closed, pad=pad)
            for radius, k, width in zip(radii, ks, widths, strict=True)
        )

    def forward(self, batch: PointBatch) -> PointBatch:
        """`num_samples` points of each cloud with `out_dim` features, a dense batch."""
        centers, _ = sample(batch, self.num_samples, order=self.order)
        scales = [scale(batch, centers) for scale in self.scales]
        if self.is_recorded:
            self._record_scales(scales)
        return centers.replace(features=torch.cat([features for features, _, _ in scales], 1))

    def _record_scales(self, scales: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Hand over each point's share in all channels of a centre, those of all scales together."""
        shares = []
        for _, index, values in scales:
            if values.dim() == 2:  # one row for each point that is there
                there = index >= 0
                values = gather(values, torch.where(there, there.flatten().cumsum(0).view_as(index) - 1, -1))
            shares.append(shares_of_maximum(values, index) * values.shape[2] / self.out_dim)
        self.record(torch.cat(shares, 1)[:, None, None], "children", key_index=torch.cat([i for _, i, _ in scales], 1))


class GroupAll(RecordedLayer):
    """The last abstraction: one point for the whole cloud, at the origin, with the maximum over all points.

    Args:
        in_dim: C, channels of the points' features; their coordinates come on top.
        widths: output channels of the layers.
    """

    def __init__(self, in_dim: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = shared_perceptron(3 + in_dim, *widths)

    def forward(self, batch: PointBatch) -> PointBatch:
        channels = batch.xyz if batch.features is None else torch.cat([batch.xyz, batch.features], 1)
        values = self.layers(channels)
        if self.is_recorded:
            rows = padded_rows(batch.offsets, batch.max_points)  # (B, P)
            self.record_maximum(pad_packed(values, rows), rows)
        features = segment(values, batch.offsets, "max")  # (B, widths[-1])
        offsets = torch.arange(len(batch) + 1, device=batch.device)
        return PointBatch(batch.xyz.new_zeros(len(batch), 3), offsets, features, min(len(batch), 1), batch.origin)


class FeaturePropagation(RecordedLayer):
    """From few points back to many: interpolation, beside the features the many had, and a perceptron (section 3.4).

    Where a model's attention is recorded, both count alike.

    Args:
        coarse_dim: channels of the few points.
        fine_dim: channels that the many have of their own, 0 for none.
        widths: output channels of the layers.
        power: of the distance whose inverse weights the three nearest points, see `pctransformer.ops.interpolate`. 2 is
            the paper's and yanx27's, 1 that of the kernels in pointnet2_ops.
    """

    def __init__(self, coarse_dim: int, fine_dim: int, widths: Sequence[int], *, power: Literal[1, 2] = 2) -> None:
        super().__init__()
        self.power = power
        self.layers = shared_perceptron(fine_dim + coarse_dim, *widths)

    def forward(self, coarse: PointBatch, fine: PointBatch) -> PointBatch:
        """The points of `fine` with `widths[-1]` features."""
        assert coarse.features is not None
        if self.is_recorded:
            self.record_interpolation(coarse, fine, power=self.power)
        carried = interpolate(
            coarse.xyz, coarse.offsets, coarse.features, fine.xyz, fine.offsets, power=self.power
        )  # (N, coarse_dim)
        both = carried if fine.features is None else torch.cat([fine.features, carried], 1)
        return fine.replace(features=self.layers(both))
