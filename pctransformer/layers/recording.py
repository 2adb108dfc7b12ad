"""Looking at attention: how layers hand over what they attended to.

    with record_attention(model) as maps:
        logits = model(points)
    maps[0].layer, maps[0].weights

    with record_attention(model, layers="*.5.*", heads="mean", top_k=8) as maps:  # less of it, for large clouds
        logits = model(points)

Nothing is global: the names of lists to fill are put on the layers of that one model, and taken off again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pctransformer.layers.attention_map import AttentionMap, Choice, Keys, joined
from pctransformer.ops import scatter
from pctransformer.ops.grouping import interpolation_weights
from pctransformer.points import PointBatch

__all__ = [
    "AttentionMap",
    "RecordedAttention",
    "RecordedLayer",
    "is_recorded",
    "record_attention",
    "shares_of_maximum",
    "unwrapped",
]

_BLOCK = 256  # queries whose weights are computed at once where not all of them are kept


@dataclasses.dataclass(frozen=True, eq=False)
class _Recorder:
    layer: str
    maps: list[AttentionMap]
    choice: Choice


class RecordedLayer(nn.Module):
    """A layer whose weights can be looked at. While `is_recorded`, it computes them and calls `record`."""

    _recorders: tuple[_Recorder, ...] = ()

    @property
    def is_recorded(self) -> bool:
        """Whether somebody looks."""
        return bool(self._recorders)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and files of the layer hold: not who looks, who would never stop looking at a copy."""
        return {name: value for name, value in vars(self).items() if name != "_recorders"}

    @property
    def is_recorded_whole(self) -> bool:
        """Whether somebody looks at the weights of all queries to all keys: else `record_blocks` will do."""
        return any(not recorder.choice.has_blocks for recorder in self._recorders)

    def record(
        self,
        weights: Tensor,
        keys: Keys = "tokens",
        query_index: Tensor | None = None,
        key_index: Tensor | None = None,
        num_queries: int | None = None,
    ) -> None:
        """Hand over one `AttentionMap`, see there."""
        for recorder in self._recorders:
            found = AttentionMap(recorder.layer, keys, weights, query_index, key_index, num_queries)
            recorder.maps.append(recorder.choice.of(found))

    def record_blocks(
        self,
        weights_of: Callable[[Tensor], Tensor],
        like: Tensor,
        keys: Keys,
        query_index: Tensor | None = None,
        key_index: Tensor | None = None,
    ) -> None:
        """Hand over one `AttentionMap` whose weights are never all there at once. Only if not `is_recorded_whole`.

        Args:
            weights_of: (q,) int64 places of queries in their groups to their weights (G, H, q, K).
            like: (G, H, Q, D) what weights are computed from: how many groups and queries there are.
            keys, query_index, key_index: see `AttentionMap`.
        """
        groups, _, queries, _ = like.shape
        rows = query_index
        if rows is None:
            rows = torch.arange(groups * queries, device=like.device).view(groups, queries)
        total = len(AttentionMap("", keys, like, query_index))
        for recorder in self._recorders:
            wanted = torch.ones(queries, dtype=torch.bool, device=like.device)
            if recorder.choice.queries is not None:
                wanted = torch.isin(rows, recorder.choice.queries.to(rows.device)).any(0)
            places = wanted.nonzero()[:, 0]
            blocks = []
            for place in places.split(_BLOCK) or (places,):
                weights = weights_of(place)
                keys_of = key_index
                if keys_of is None and keys != "memory":
                    keys_of = torch.arange(groups * weights.shape[3], device=like.device).view(groups, -1)
                block = AttentionMap(recorder.layer, keys, weights, rows.index_select(1, place), keys_of, total)
                blocks.append(recorder.choice.of(block))
            recorder.maps.append(joined(blocks))

    def record_mean(self, key_index: Tensor) -> None:
        """Hand over that each query saw all of its children, and none more than another: convolutions, plain means.

        Args:
            key_index: (M, k) rows of the children, -1 for none.
        """
        real = (key_index >= 0).float()
        weights = real / real.sum(1, keepdim=True)
        self.record(weights[:, None, None], "children", key_index=key_index)

    def record_pairs(self, query: Tensor, key: Tensor, weights: Tensor, num_queries: int) -> None:
        """Hand over children one by one, where some tokens have many and most few.

        Args:
            query: (E,) rows of the tokens that were made.
            key: (E,) rows of one child each.
            weights: (E,).
            num_queries: M tokens were made.
        """
        self.record(weights.float()[:, None, None, None], "children", query[:, None], key[:, None], num_queries)

    def record_cells(self, cell_of_point: Tensor, count: int) -> None:
        """Hand over which points are in which cell, all alike: means.

        Args:
            cell_of_point: (N,) row of each point's cell, -1 for none.
            count: M cells.
        """
        inside = (cell_of_point >= 0).nonzero()[:, 0]
        cell = cell_of_point.index_select(0, inside)
        points = torch.bincount(cell, minlength=count)
        self.record_pairs(cell, inside, 1 / points.index_select(0, cell), count)

    def record_cells_of_map(self, shape: Sequence[int], kernel: int, stride: int, padding: int = 0) -> None:
        """Hand over which cells of a map each cell of a coarser one saw, all alike: convolutions with a stride.

        Args:
            shape: (B, H, W) of the finer map.
            kernel, stride, padding: of the convolution, along both axes.
        """
        clouds, *sides = shape
        device = self._device()
        axes = []
        for side in sides:
            first = torch.arange((side + 2 * padding - kernel) // stride + 1, device=device) * stride - padding
            place = first[:, None] + torch.arange(kernel, device=device)
            axes.append(torch.where((place >= 0) & (place < side), place, -1))
        rows, columns = axes[0][:, None, :, None], axes[1][:, None, :]  # (H', 1, k, 1), (W', 1, k)
        cell = torch.where((rows >= 0) & (columns >= 0), rows * sides[1] + columns, -1).flatten(2).flatten(0, 1)
        first_of_map = torch.arange(clouds, device=device)[:, None, None] * (sides[0] * sides[1])
        self.record_mean(torch.where(cell >= 0, cell + first_of_map, -1).flatten(0, 1))

    def record_enlarged_map(self, shape: Sequence[int], factor: int, share: float = 1.0) -> None:
        """Hand over that each cell of a map became a square of factor x factor, which has `share` of its content from
        there; the rest is what `record_skip` hands over next.

        Args:
            shape: (B, H, W) of the coarser map.
        """
        rows = torch.arange(math.prod(shape), device=self._device()).view(*shape)
        rows = rows.repeat_interleave(factor, 1).repeat_interleave(factor, 2).flatten()
        weights = torch.full_like(rows, share, dtype=torch.float32)
        self.record(weights[:, None, None, None], "children", key_index=rows[:, None])

    def record_skip(self, count: int, share: float) -> None:
        """Hand over that tokens, which were just recorded as made of coarser ones, have `share` of their content from
        the tokens of their own level on the way down, row by row.

        Args:
            count: of the tokens.
            share: the weights that were just recorded add up to the rest.
        """
        rows = torch.arange(count, device=self._device())
        weights = torch.full_like(rows, share, dtype=torch.float32)
        self.record(weights[:, None, None, None], "skip", key_index=rows[:, None])

    def record_interpolation(self, coarse: PointBatch, fine: PointBatch, *, power: Literal[1, 2]) -> None:
        """Hand over that points were made half of the nearest of a coarser level, as `ops.interpolate` does, and half
        of what they were themselves on the way down."""
        index, weights = interpolation_weights(coarse.xyz, coarse.offsets, fine.xyz, fine.offsets, k=3, power=power)
        self.record(0.5 * weights.detach()[:, None, None], "children", key_index=index)
        self.record_skip(len(index), 0.5)

    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def record_maximum_of_pairs(self, values: Tensor, query: Tensor, key: Tensor, num_queries: int) -> None:
        """Hand over which children a maximum came from, where some tokens have many and most few. Equal ones share, so
        that their order does not matter.

        Args:
            values: (E, C) of children, of which the layer takes the maximum over those of one token.
            query: (E,) row of the token that each helped to make.
            key: (E,) row of each child.
            num_queries: M tokens were made.
        """
        values = values.detach().float()
        wins = (values == scatter(values, query, num_queries, "max").index_select(0, query)).float()
        shares = wins / scatter(wins, query, num_queries, "sum").index_select(0, query)
        self.record_pairs(query, key, shares.mean(1), num_queries)

    def record_maximum(self, candidates: Tensor, key_index: Tensor | None = None) -> None:
        """Hand over which children a maximum over them came from: each one's share of the channels.

        Args:
            candidates: (M, k, C) values of the children of each query, of which the layer takes `amax(1)`.
            key_index: (M, k) rows of the children, -1 for none. None: row m * k + j.
        """
        self.record(shares_of_maximum(candidates, key_index)[:, None, None], "children", key_index=key_index)


class RecordedAttention(RecordedLayer):
    """A layer of attention: one that `record_attention` may be told to leave out. Others hand over what tokens are made
    of, and are always recorded."""


def shares_of_maximum(candidates: Tensor, key_index: Tensor | None = None) -> Tensor:
    """(M, k): each child's share of the channels of a maximum, for arguments as `record_maximum` takes them."""
    candidates = candidates.detach()
    if key_index is not None:
        candidates = candidates.masked_fill((key_index < 0)[..., None], -torch.inf)
    winner = candidates.argmax(1)  # (M, C)
    share = torch.full_like(winner, 1 / winner.shape[1], dtype=torch.float32)
    return share.new_zeros(candidates.shape[:2]).scatter_add(1, winner, share)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself where torch.compile, DistributedDataParallel or DataParallel wraps it."""
    model = getattr(model, "_orig_mod", model)
    while isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        model = model.module
    return model


def is_recorded(module: nn.Module) -> bool:
    """Whether any layer in a module is being looked at."""
    return any(isinstance(layer, RecordedLayer) and layer.is_recorded for layer in module.modules())


@contextlib.contextmanager
def record_attention(
    model: nn.Module,
    *,
    layers: str | Sequence[str] = "*",
    heads: Literal["all", "mean"] | Sequence[int] = "all",
    queries: Sequence[int] | Tensor | None = None,
    top_k: int | None = None,
) -> Iterator[list[AttentionMap]]:
    """Record the weights of attention and pooling layers of a model while the block runs.

    Recorded layers compute their weights explicitly instead of in a fused kernel: their outputs agree to float
    tolerance, and cost time and memory. Packed sequences are laid side by side for it, filled up to the longest, since
    a map holds all of them in one tensor; rows in the maps are those of the packed tokens. Layers that nobody records
    cost nothing more than a look at an empty tuple. Blocks may be nested, of one model too: each gets its own maps. A
    block that ends by an error is closed like any other.

    What is kept can be bounded: dense attention of L layers with H heads among S tokens keeps L H S² numbers. `layers`
    bounds L, `heads` H, and `queries` and `top_k` make S² into S times few. With one of the latter,
    `MultiHeadAttention` never holds S² of them, either: it computes its output in a fused kernel, and the weights
    beside it, 256 queries after another; the output has no gradient by these. Other layers, whose weights are those of
    windows, patches, neighbours or samples, or that need the whole matrix to normalise it (PCT's), compute all of them
    and let go of what was not chosen, layer by layer. Weights of the largest keys do not add up to one.

    Pooling layers, and whatever else hands over what tokens are made of, are always recorded, whole: their weights are
    as many as the points or tokens, and by them maps are followed down to the points.

    Layers that mix tokens in other ways than by weights of pairs have no maps: MLPs along the tokens, recurrent layers,
    shifts. `pctransformer.visualization.rollout.passed_over` names them.

    Args:
        model: any module; its layers are found by type, also in one that torch.compile or DistributedDataParallel
            wraps, whose prefixes names do not have.
        layers: names of attention layers as `named_modules` gives them, or shell patterns of them, "encoder.*"; of a
            name, the layers inside of it count too. Others run as if nobody looked.
        heads: "all"; "mean" of them; or which.
        queries: rows of queries of each chosen layer, see `AttentionMap`, those that it has. None: all.
        top_k: how many keys of each query and head to keep, those with the largest weights. None: all.

    Yields:
        maps: filled call by call, in the order in which layers ran.

    Raises:
        ValueError: no layer of the model can be recorded, none has such a name, or numbers are out of range; while the
            model runs: a layer has no such head.
    """
    model = unwrapped(model)
    named = [
        (name.replace("_orig_mod.", ""), layer)  # of parts that torch.compile wraps
        for name, layer in model.named_modules()
        if isinstance(layer, RecordedLayer)
    ]
    if not named:
        raise ValueError(
            f"{type(model).__name__} has no layer whose attention can be recorded; such layers derive from"
            " pctransformer.layers.recording.RecordedLayer"
        )
    patterns = [layers] if isinstance(layers, str) else list(layers)
    chosen = [
        (name, layer) for name, layer in named if not isinstance(layer, RecordedAttention) or _matches(name, patterns)
    ]
    attention = [name for name, layer in named if isinstance(layer, RecordedAttention)]
    if patterns != ["*"] and not any(_matches(name, patterns) for name in attention):
        raise ValueError(
            f"no attention layer is called {' or '.join(patterns)}; there are {', '.join(attention) or 'none'}"
        )
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if heads not in ("all", "mean") and (isinstance(heads, (str, int)) or not len(heads)):
        raise ValueError(f'heads must be "all", "mean", or numbers of heads, got {heads!r}')
    rows = None if queries is None else torch.as_tensor(queries, dtype=torch.int64).flatten()
    if rows is not None and (rows < 0).any():  # -1 is padding
        raise ValueError(f"queries must be rows of queries, counted from 0, got {int(rows.min())}")
    choice = Choice(heads if isinstance(heads, str) else tuple(heads), rows, top_k)
    maps: list[AttentionMap] = []
    for name, layer in chosen:
        layer._recorders = (*layer._recorders, _Recorder(name, maps, choice))
    try:
        yield maps
    finally:
        for _, layer in chosen:
            layer._recorders = tuple(recorder for recorder in layer._recorders if recorder.maps is not maps)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}.") for pattern in patterns)
