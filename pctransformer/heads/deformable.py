"""The query head on maps at several resolutions: queries look at a few places of each, around where they are.

    levels -> queries, at the peaks of a heat map on the first -> decoder -> after every layer, of each: class, box

Each layer's queries move to the centres that the layer before found, so that they look around their object. Loss and
boxes are those of `QueryHead`. Source: Zhu et al., Deformable DETR, 2021, arXiv:2010.04159; heat map: Bai et al.,
TransFusion, 2022.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pctransformer.heads.query import QueryOutput, SetPrediction, as_tokens, collected, perceptron
from pctransformer.layers.attention import MultiHeadAttention
from pctransformer.layers.deformable import (
    DeformableDecoder,
    DeformableDecoderLayer,
    MapLevels,
    MultiScaleDeformableAttention,
)
from pctransformer.layers.mlp import MLP
from pctransformer.layers.position import FourierPosition, RotaryPosition
from pctransformer.layers.residual import Residual
from pctransformer.ops import _checks
from pctransformer.points import PointBatch

_FREQUENCY = 0.05  # as in heads.query
_UNIT = 1.0


class DeformableQueryHead(SetPrediction):
    """Queries, a deformable decoder and three predictors.

    What differs from the paper: queries come from a heat map and begin with what the map holds there, as boxes from
    above are small and many cells are empty; layers are pre-norm; attention among queries knows where they lie from
    each other by rotary codes; references are points, not boxes, so that offsets are in cells; and the loss is that of
    `QueryHead`.

    Args:
        num_classes: without "no object".
        queries: one of `pctransformer.heads.object_queries`, of `dim` channels, made from the first level.
        range: see `QueryHead`.
        dim: channels of queries and levels.
        num_levels: maps.
        depth: decoder layers.
        num_heads: of attention.
        num_points: places that each head looks at on each level.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        queries: nn.Module,
        range: Sequence[float],
        dim: int,
        num_levels: int,
        depth: int = 3,
        num_heads: int = 4,
        num_points: int = 4,
    ) -> None:
        super().__init__()
        _checks.integer(num_classes, "num_classes", 1)
        _checks.integer(depth, "depth", 1)
        self.num_classes, self.range, self.queries = num_classes, tuple(range), queries
        self.position = nn.Sequential(
            FourierPosition(dim, frequency=_FREQUENCY), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)
        )
        self.decoder = _decoder(dim, depth, num_heads, num_levels, num_points)
        self.norm = nn.LayerNorm(dim)
        self.classify = nn.Linear(dim, num_classes + 1)
        self.box, self.direction = perceptron(dim, 8), perceptron(dim, 1)

    def forward(self, levels: MapLevels) -> QueryOutput:
        """What every query says, from maps with `dim` channels."""
        first = levels.to_maps()[0]
        tokens = as_tokens(first, math.prod(first.grid.shape))
        references, x, heatmap = self.queries(first, tokens)
        if self.is_recorded:
            cells = levels.centers().expand(len(levels), -1, -1)  # (B, S, 3), those of the first level in front
            self.record_queries(references, _packed(cells))
        x = x + self.position(references)
        seen = self.decoder(x, references, levels, self._locate)
        return collected([self.answer(x, references) for x, references in seen], heatmap)

    def _locate(self, x: Tensor, references: Tensor) -> Tensor:
        with torch.no_grad():
            return references + self.box(self.norm(x))[..., :3]


def _packed(cells: Tensor) -> PointBatch:
    """Cells (B, S, 3) as tokens without features."""
    clouds, count, _ = cells.shape
    return PointBatch(cells.flatten(0, 1), torch.arange(clouds + 1, device=cells.device) * count, None, count)


def _decoder(dim: int, depth: int, num_heads: int, num_levels: int, num_points: int) -> DeformableDecoder:
    """Its layers, pre-norm."""

    def layer() -> DeformableDecoderLayer:
        return DeformableDecoderLayer(
            MultiHeadAttention(dim, num_heads, rotary=RotaryPosition(dim // num_heads, unit=_UNIT)),
            MultiScaleDeformableAttention(dim, num_heads, num_levels=num_levels, num_points=num_points),
            MLP(dim, 2 * dim, activation=nn.ReLU),
            lambda: Residual(nn.LayerNorm(dim)),
        )

    return DeformableDecoder(layer() for _ in range(depth))
