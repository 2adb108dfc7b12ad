"""The query head: a set of queries looks at tokens, and each answers with one object or with none.

    map or tokens -> tokens (at most `max_tokens`) -> decoder: queries look at each other, then at the tokens
                  -> after every layer, of every query: class or "no object", box

No anchors, no suppression: each object belongs to one query, by a matching of the whole set in training, so that the
others learn to keep silent about it. Source: Carion et al., End-to-end object detection with transformers (DETR), 2020,
arXiv:2005.12872; on points Misra et al., An end-to-end transformer model for 3D object detection (3DETR), 2021,
arXiv:2109.08141.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pctransformer.boxes import BoxBatch
from pctransformer.heads.assignment import draw_centers, real_objects
from pctransformer.heads.box_coding import decode_around, encode_around
from pctransformer.heads.losses import full_precision, heatmap_focal_loss, turned_giou
from pctransformer.heads.matching import BOX_WEIGHT, CLASS_WEIGHT, OVERLAP_WEIGHT, match, matching_costs
from pctransformer.heads.object_queries import Heatmap, LearnedQueries
from pctransformer.heads.selection import detections, nearest_box, top_candidates
from pctransformer.layers.attention import MultiHeadAttention
from pctransformer.layers.mlp import MLP
from pctransformer.layers.position import FourierPosition, RotaryPosition
from pctransformer.layers.recording import RecordedLayer
from pctransformer.layers.residual import Residual
from pctransformer.layers.transformer import DecoderLayer
from pctransformer.ops import _checks, knn
from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap

NO_OBJECT_WEIGHT = 0.1
DIRECTION_WEIGHT = 0.2
"""As in the anchor head."""
_FREQUENCY = 0.05  # cycles per metre of position codes: a metre is a third of a radian, twenty come round again
_UNIT = 1.0  # metres per radian of the fastest pair of channels that attention turns


class QueryOutput(NamedTuple):
    """What each of N queries says after each of L layers; the last layer is the answer.

    Attributes:
        class_logits: (B, L, N, num_classes + 1), a softmax; the last is "no object".
        box_codes: (B, L, N, 9), see `encode_around`; the last is a logit.
        references: (B, L, N, 3) the points that codes are relative to, metres.
        heatmap: by which queries were chosen, or None.
    """

    class_logits: Tensor
    box_codes: Tensor
    references: Tensor
    heatmap: Heatmap | None = None


class SetPrediction(RecordedLayer):
    """What every head of queries has: their answers, the loss of a set, and the boxes that it means.

    Subclasses set the attributes and write `forward`.
    """

    num_classes: int
    """Without "no object"."""
    queries: nn.Module
    """One of `pctransformer.heads.object_queries`."""
    range: tuple[float, ...]
    """(x, y, z) of the lowest corner of the detection range, then of the highest, metres: objects whose centre is
    beyond its sides have no effect, as beside the maps of other heads."""
    norm: nn.Module
    """In front of all predictors, and after each layer the same."""
    classify: nn.Module
    """Queries (B, N, dim) to logits (B, N, num_classes + 1)."""
    box: nn.Module
    """Queries (B, N, dim) to what codes say of the box and its axis (B, N, 8)."""
    direction: nn.Module
    """Queries (B, N, dim) to the logit of the direction (B, N, 1). It has a hidden layer of its own: in one shared with
    the other codes, whose gradients are some ten times larger, it is hardly learned."""

    def record_queries(self, references: Tensor, tokens: PointBatch) -> None:
        """Hand over which token each query begins as: the one that lies nearest; learned queries begin as none.

        Args:
            references: (B, N, 3).
            tokens: of the same clouds, those that queries then look at.
        """
        clouds, count, _ = references.shape
        offsets = torch.arange(clouds + 1, device=references.device) * count
        nearest, _ = knn(tokens.xyz, tokens.offsets, references.detach().flatten(0, 1).type_as(tokens.xyz), offsets, 1)
        rows = torch.full_like(nearest, -1) if isinstance(self.queries, LearnedQueries) else nearest
        self.record_mean(rows)

    def answer(self, x: Tensor, references: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits, box codes and references of queries (B, N, dim) behind a layer."""
        x = self.norm(x)
        return self.classify(x), torch.cat([self.box(x), self.direction(x)], -1), references

    def loss(self, output: QueryOutput, boxes: BoxBatch) -> dict[str, Tensor]:
        """How far the output is from the objects that are there.

        After each layer by itself, objects are matched with queries (`pctransformer.heads.matching`). Of all queries,
        the cross entropy of classes and "no object", whose weight of 0.1 keeps a hundred silent queries from drowning
        ten objects; mean by weights. Of matched ones, L1 of codes, 1 - GIoU (`turned_giou`) and the binary cross
        entropy of the direction, summed and divided by the number of objects matched, at least 1, over the batch;
        weighted 0.5, 1 and 0.2. The loss is that of the last layer and, with the same weight, those of all before it;
        and that of the heat map (see `CenterHead.loss`) where there is one. In float32, under autocast too.

        A softmax with "no object" rather than a focal loss of each class: one query is to find one object, or none.

        Args:
            output: of `forward`.
            boxes: the objects of the same clouds; those of label -1 are left out, so that they count as background,
                and so are those beyond the sides of the range. Where a cloud has more than N, the N that match best are
                found, and the others have no effect.

        Returns:
            "loss", the sum of the weighted "class", "box", "overlap", "direction", "auxiliary" (layers before the last,
            0 if there are none) and, with a heat map, "heatmap": scalars with gradients.

        Raises:
            ValueError: another number of clouds; on CPU: boxes that `assign_anchors` refuses.
            FloatingPointError: the output holds NaN or infinity, so that nothing can be matched.
        """
        clouds, layers, queries, classes = output.class_logits.shape
        if len(boxes) != clouds:
            raise ValueError(f"the output is of {clouds} clouds, the boxes are of {len(boxes)}")
        low, high = boxes.boxes.new_tensor(self.range).view(2, 3)[:, :2]
        centers = boxes.boxes[:, :2]
        real = real_objects(boxes, self.num_classes) & ((centers >= low) & (centers < high)).all(1)
        query = match(matching_costs(*output[:3], boxes, real), boxes, real)  # (M, L)
        there = query >= 0
        layer = torch.arange(layers, device=query.device)
        row = torch.where(there, (boxes.batch_index[:, None] * layers + layer) * queries + query, -1)

        nowhere = clouds * layers * queries
        target = torch.full((nowhere + 1,), classes - 1, device=row.device)
        target = target.scatter(0, torch.where(there, row, nowhere).flatten(), boxes.labels.repeat_interleave(layers))
        target = target[:-1].view(clouds, layers, queries)
        weight = torch.where(target == classes - 1, NO_OBJECT_WEIGHT, 1.0)
        logits = full_precision(output.class_logits)
        entropy = nn.functional.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none")
        class_loss = (entropy.view_as(weight) * weight).sum((0, 2)) / weight.sum((0, 2))  # (L,)

        own = row.clamp(min=0).flatten()
        codes = full_precision(output.box_codes.flatten(0, 2).index_select(0, own)).unflatten(0, row.shape)
        points = output.references.flatten(0, 2).index_select(0, own).unflatten(0, row.shape)  # (M, L, 3)
        rows = torch.where(real[:, None], boxes.boxes, 1)[:, None]  # (M, 1, 7)
        matched = there.sum(0).clamp(min=1)
        target_codes = encode_around(rows, points)
        distance = (codes - target_codes)[..., :8].abs().sum(-1)
        box_loss = torch.where(there, distance, 0).sum(0) / matched
        apart = 1 - turned_giou(decode_around(codes, points), rows)
        overlap_loss = torch.where(there, apart, 0).sum(0) / matched
        doubt = nn.functional.binary_cross_entropy_with_logits(codes[..., 8], target_codes[..., 8], reduction="none")
        direction_loss = torch.where(there, doubt, 0).sum(0) / matched

        each = {
            "class": CLASS_WEIGHT * class_loss,
            "box": BOX_WEIGHT * box_loss,
            "overlap": OVERLAP_WEIGHT * overlap_loss,
            "direction": DIRECTION_WEIGHT * direction_loss,
        }
        parts = {name: values[-1] for name, values in each.items()}
        parts["auxiliary"] = torch.stack([values[:-1].sum() for values in each.values()]).sum()
        if output.heatmap is not None:
            drawn = draw_centers(output.heatmap.grid, boxes, self.num_classes).heatmap
            parts["heatmap"] = heatmap_focal_loss(output.heatmap.logits, drawn).sum() / (drawn == 1).sum().clamp(min=1)
        return {"loss": torch.stack([*parts.values()]).sum(), **parts}

    def score_of(self, output: QueryOutput, box: Tensor) -> tuple[Tensor, int | None]:
        """The score before its softmax of a box that was found in the first cloud, and by which query.

        Args:
            output: of `forward`.
            box: (7,) one of `predict`: that query answers for it whose box is nearest.

        Returns:
            the logit of its best class, a scalar with a gradient, and the row of the query.
        """
        boxes = decode_around(full_precision(output.box_codes[0, -1]), output.references[0, -1])
        row = int(nearest_box(boxes, box))
        return output.class_logits[0, -1, row, :-1].max(), row

    @torch.no_grad()
    def predict(
        self,
        output: QueryOutput,
        *,
        score_threshold: float = 0.1,
        nms_threshold: float | None = None,
        max_outputs: int = 500,
    ) -> BoxBatch:
        """The objects found: of each query the best class, unless it scores too little.

        Args:
            output: of `forward`.
            score_threshold: least score, the probability of the class (see `probabilities`), in [0, 1].
            nms_threshold: overlap seen from above, in [0, 1], above which the box that scores less is dropped, whatever
                its class. None: all stay, as queries have learned to keep silent about each other's objects.
            max_outputs: boxes of each cloud, at most.

        Returns:
            boxes with scores, by descending score within each cloud, headings in [-pi, pi].

        Raises:
            ValueError: the output holds NaN, or an infinite box; a threshold is outside of its range.
        """
        logits, codes, points = (values[:, -1] for values in output[:3])
        top_candidates(logits.flatten(1), 1)  # refuses NaN
        scores, labels = probabilities(full_precision(logits)).max(-1)
        return detections(
            decode_around(full_precision(codes), points),
            scores,
            labels,
            score_threshold=score_threshold,
            nms_threshold=1.0 if nms_threshold is None else nms_threshold,  # no overlap is above 1
            max_outputs=max_outputs,
        )


class QueryHead(SetPrediction):
    """Queries, a decoder and three predictors, their loss, and the boxes that they mean.

    Layers are pre-norm, with one norm and the same predictors behind all of them. Where tokens and queries are, they
    are told in two ways: a Fourier code, which is added at the start as 3DETR does, and a rotary code in every
    attention, in place of the sums that DETR repeats in every layer: so a query finds tokens by where they lie from it.

    Args:
        in_channels: of the map or tokens.
        num_classes: without "no object".
        queries: one of `pctransformer.heads.object_queries`, of `dim` channels.
        range: (x, y, z) of the lowest corner of the detection range, then of the highest, metres: objects whose centre
            is beyond its sides have no effect, as beside the maps of other heads.
        dim: channels of queries and tokens.
        depth: decoder layers.
        num_heads: of attention.
        refine: whether each layer's queries move to the centres that the layer before found, with no gradient through
            the move (Zhu et al., Deformable DETR, 2021, section 4.2).
        max_tokens: of a map; see `as_tokens`.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        queries: nn.Module,
        range: Sequence[float],
        dim: int = 128,
        depth: int = 3,
        num_heads: int = 4,
        refine: bool = False,
        max_tokens: int = 1600,
    ) -> None:
        super().__init__()
        _checks.integer(num_classes, "num_classes", 1)
        _checks.integer(depth, "depth", 1)
        _checks.integer(max_tokens, "max_tokens", 1)
        self.num_classes, self.range, self.refine, self.max_tokens = num_classes, tuple(range), refine, max_tokens
        self.project = nn.Linear(in_channels, dim)
        self.position = nn.Sequential(
            FourierPosition(dim, frequency=_FREQUENCY), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)
        )
        self.memory_norm = nn.LayerNorm(dim)
        self.queries = queries
        self.layers = _decoder(dim, depth, num_heads)
        self.norm = nn.LayerNorm(dim)
        self.classify = nn.Linear(dim, num_classes + 1)
        self.box, self.direction = perceptron(dim, 8), perceptron(dim, 1)

    def forward(self, features: BevMap | PointBatch) -> QueryOutput:
        """What every query says, from a map or from tokens with `in_channels`.

        Raises:
            ValueError: tokens have no features, or queries need a map and there is none.
        """
        bare = as_tokens(features, self.max_tokens)
        tokens = bare.replace(features=self.project(bare.features))
        references, x, heatmap = self.queries(features, tokens)  # (B, N, 3), (B, N, dim)
        if self.is_recorded:
            if isinstance(features, BevMap):
                self.record_mean(_squares(features, self.max_tokens))
            self.record_queries(references, tokens)
        memory = self.memory_norm(tokens.features + self.position(tokens.xyz))
        x = x + self.position(references)
        said: list[tuple[Tensor, Tensor, Tensor]] = []
        for layer in self.layers:
            x = _look(layer, x, references, memory, tokens)
            said.append(self.answer(x, references))
            if self.refine:
                references = (references + said[-1][1][..., :3]).detach()
        return collected(said, heatmap)


def probabilities(logits: Tensor) -> Tensor:
    """How probable each class is to a query, (..., num_classes), from logits (..., num_classes + 1).

    The loss counts a query without object as `NO_OBJECT_WEIGHT` queries, so that their softmax makes objects as many
    times too probable, and among queries of which only one is to speak the more so; the odds are set right here.

    Source: Saerens et al., Adjusting the Outputs of a Classifier to New a Priori Probabilities, 2002, section 2.
    """
    rare = torch.cat([logits[..., :-1], logits[..., -1:] - math.log(NO_OBJECT_WEIGHT)], -1)
    return rare.softmax(-1)[..., :-1]


def perceptron(dim: int, out_dim: int) -> nn.Sequential:
    """Predicts a part of the codes, (..., dim) to (..., out_dim); 3DETR has one for each of centre, size and angle."""
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, out_dim))


def collected(said: Sequence[tuple[Tensor, Tensor, Tensor]], heatmap: Heatmap | None) -> QueryOutput:
    """The answers after each layer, together."""
    logits, codes, references = (torch.stack(parts, 1) for parts in zip(*said, strict=True))
    return QueryOutput(logits, codes, references, heatmap)


def as_tokens(features: BevMap | PointBatch, max_tokens: int) -> PointBatch:
    """The one door to queries: tokens with positions and features, from tokens or from a map.

    Tokens stay as they are. The cells of a map are tokens, at half its height; a map of too many is cut into squares of
    as few cells as will do, and each becomes the mean of its cells, at their middle. A square of p cells is narrower on
    the last row and column where the sides are no multiples of p.

    Args:
        features: a map, or tokens with features.
        max_tokens: of each map.
    """
    if isinstance(features, PointBatch):
        if features.features is None:
            raise ValueError("queries look at the features of tokens, got a batch of bare points")
        return features
    clouds, channels, ny, nx = features.features.shape
    size = _square(ny, nx, max_tokens)
    pooled = _pooled(features.features, size)
    grid, device = features.grid.flattened(), features.device
    cells = torch.stack(torch.meshgrid(*(torch.arange(n, device=device) for n in (1, ny, nx)), indexing="ij"), -1)
    centers = grid.centers(cells.flatten(0, 2)).view(1, ny, nx, 3).permute(0, 3, 1, 2)
    xyz = _pooled(centers, size).permute(0, 2, 3, 1).reshape(-1, 3)  # (S, 3)
    count = len(xyz)
    return PointBatch(
        xyz.repeat(clouds, 1),
        torch.arange(clouds + 1, device=device) * count,
        pooled.permute(0, 2, 3, 1).reshape(-1, channels),
        count,
    )


def _square(ny: int, nx: int, max_tokens: int) -> int:
    """How many cells a token is wide."""
    size = 1
    while math.ceil(ny / size) * math.ceil(nx / size) > max_tokens:
        size += 1
    return size


def _squares(bev: BevMap, max_tokens: int) -> Tensor:
    """(T, p * p) the cells of each token that `as_tokens` makes, -1 beyond the map's sides."""
    clouds, _, ny, nx = bev.features.shape
    size = _square(ny, nx, max_tokens)
    cells = torch.arange(clouds * ny * nx, device=bev.device).view(clouds, ny, nx)
    cells = nn.functional.pad(cells, (0, -nx % size, 0, -ny % size), value=-1)
    return cells.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3).flatten(3).flatten(0, 2)


def _pooled(values: Tensor, size: int) -> Tensor:
    """Means over squares of a map (B, C, ny, nx)."""
    return values if size == 1 else nn.functional.avg_pool2d(values, size, ceil_mode=True)


def _decoder(dim: int, depth: int, num_heads: int) -> nn.ModuleList:
    """Its layers, pre-norm."""

    def attention() -> MultiHeadAttention:
        return MultiHeadAttention(dim, num_heads, rotary=RotaryPosition(dim // num_heads, unit=_UNIT))

    def layer() -> DecoderLayer:
        return DecoderLayer(
            attention(), attention(), MLP(dim, 2 * dim, activation=nn.ReLU), lambda: Residual(nn.LayerNorm(dim))
        )

    return nn.ModuleList(layer() for _ in range(depth))


def _look(layer: nn.Module, x: Tensor, references: Tensor, memory: Tensor, tokens: PointBatch) -> Tensor:
    """One decoder layer: (B, N, dim) queries, packed memory (T, dim)."""
    clouds, queries, dim = x.shape
    if tokens.is_dense:
        return layer(
            x,
            memory.view(clouds, -1, dim),
            positions=references,
            memory_positions=tokens.xyz.view(clouds, -1, 3),
        )
    x = layer(
        x.flatten(0, 1),
        memory,
        offsets=torch.arange(clouds + 1, device=x.device) * queries,
        memory_offsets=tokens.offsets,
        positions=references.flatten(0, 1),
        memory_positions=tokens.xyz,
    )
    return x.view(clouds, queries, dim)
