"""Where object queries come from: learned, spread over the tokens, or at the peaks of a heat map.

All are called alike, `queries(features, tokens) -> Queries`, so that a head takes any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pctransformer.ops import _checks, farthest_point_sample, gather
from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap, Grid

_HEATMAP_BIAS = -2.19  # score 0.1 everywhere before training


class Heatmap(NamedTuple):
    """Where objects are suspected.

    Attributes:
        logits: (B, num_classes, ny, nx).
        grid: of the map.
    """

    logits: Tensor
    grid: Grid


class Queries(NamedTuple):
    """N queries of each cloud, before they have looked at anything.

    Attributes:
        references: (B, N, 3) the point that each query is about, metres.
        content: (B, N, dim) what else it begins with.
        heatmap: by which they were chosen, or None.
    """

    references: Tensor
    content: Tensor
    heatmap: Heatmap | None = None


class LearnedQueries(nn.Module):
    """The same queries for every cloud: learned points with learned embeddings.

    Args:
        num_queries: N.
        dim: channels.
        range: (x, y, z) of the lowest corner of the detection range, then of the highest, metres: over which points are
            spread before training.

    Source: Carion et al., DETR, 2020, section 3.2; points: Wang et al., Anchor DETR, 2022, section 3.1.
    """

    def __init__(self, num_queries: int, dim: int, *, range: Sequence[float]) -> None:
        super().__init__()
        _checks.integer(num_queries, "num_queries", 1)
        low, high = torch.tensor(range).view(2, 3)
        self.points = nn.Parameter(low + torch.rand(num_queries, 3) * (high - low))
        self.embedding = nn.Parameter(torch.empty(num_queries, dim))
        nn.init.trunc_normal_(self.embedding, std=0.02)

    def forward(self, features: BevMap | PointBatch, tokens: PointBatch) -> Queries:
        points, content = (values.expand(len(tokens), -1, -1) for values in (self.points, self.embedding))
        return Queries(points, content)


class SampledQueries(nn.Module):
    """Tokens of the cloud itself that cover it evenly, by farthest point sampling from the first token on.

    Nothing of them is learned, so that their number may change after training. They begin with what the token knows,
    where those of the paper begin with their place alone. A cloud with fewer tokens gives all of them, again from the
    start until there are enough; the queries of an empty cloud are at the origin, with zeros.

    Args:
        num_queries: N.

    Source: Misra et al., 3DETR, 2021, section 3.2, "non-parametric query embeddings".
    """

    def __init__(self, num_queries: int) -> None:
        super().__init__()
        _checks.integer(num_queries, "num_queries", 1)
        self.num_queries = num_queries

    def forward(self, features: BevMap | PointBatch, tokens: PointBatch) -> Queries:
        assert tokens.features is not None
        index = farthest_point_sample(tokens.xyz, tokens.offsets, self.num_queries).view(len(tokens), -1)  # (B, N)
        found = (index >= 0).sum(1, keepdim=True)
        index = index.gather(1, torch.arange(self.num_queries, device=index.device) % found.clamp(min=1))
        return Queries(gather(tokens.xyz, index), gather(tokens.features, index))


class HeatmapQueries(nn.Module):
    """The best peaks of a heat map of each class, with what the map holds there and the class.

    The heat map is that of a centre head and is trained as one. A peak is a place that none of the eight around it
    exceeds; where there are fewer than N, the best other places follow. They stand at half the height of the map.

    Args:
        num_queries: N, or as many as there are places in all classes' maps.
        in_channels: of the map.
        dim: channels of queries.
        num_classes: heat maps.

    Source: Bai et al., TransFusion, 2022, sections 3.2 and 3.3, its LiDAR part.
    """

    def __init__(self, num_queries: int, in_channels: int, dim: int, *, num_classes: int) -> None:
        super().__init__()
        _checks.integer(num_queries, "num_queries", 1)
        _checks.integer(num_classes, "num_classes", 1)
        self.num_queries = num_queries
        self.shared_conv = nn.Sequential(
            nn.Conv2d(in_channels, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim), nn.ReLU()
        )
        self.heatmap = nn.Conv2d(dim, num_classes, 3, padding=1)
        self.class_embedding = nn.Embedding(num_classes, dim)
        assert self.heatmap.bias is not None
        nn.init.constant_(self.heatmap.bias, _HEATMAP_BIAS)

    def forward(self, features: BevMap | PointBatch, tokens: PointBatch) -> Queries:
        if not isinstance(features, BevMap):
            raise ValueError(
                "queries at the peaks of a heat map need a BevMap, got tokens; BevMap.from_tokens makes one, and"
                " SampledQueries need none"
            )
        shared = self.shared_conv(features.features)  # (B, dim, ny, nx)
        logits = self.heatmap(shared)
        clouds, _, ny, nx = logits.shape
        with torch.no_grad():
            score = logits.float().sigmoid()
            is_peak = score == nn.functional.max_pool2d(score, 3, stride=1, padding=1)
            ranked = (score + is_peak).flatten(1)  # peaks in (1, 2), others in (0, 1)
            # ascending, so that nothing behind depends on which of two is a little better
            index = ranked.topk(min(self.num_queries, ranked.shape[1])).indices.sort(1).values  # (B, N)
            cell, label = index % (ny * nx), index // (ny * nx)
            place = torch.stack([torch.zeros_like(cell), cell // nx, cell % nx], -1)  # (B, N, 3) z, y, x
            references = features.grid.flattened().centers(place.flatten(0, 1))
        row = cell + torch.arange(clouds, device=cell.device)[:, None] * (ny * nx)
        content = gather(shared.permute(0, 2, 3, 1).reshape(clouds * ny * nx, -1), row)  # (B, N, dim)
        return Queries(
            references.view(clouds, -1, 3),
            content + self.class_embedding(label).type_as(content),
            Heatmap(logits, features.grid),
        )
