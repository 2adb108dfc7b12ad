"""AttentionMap: what one layer attended to in one call; and which part of it to keep.

`pctransformer.layers.recording` makes them, `pctransformer.visualization.rollout` follows them down to the points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Keys = Literal["tokens", "context", "children", "skip", "memory"]


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionMap:
    """The weights of one call of one layer, in groups of Q queries that see the same K keys.

    In group g and head h, query `query_index[g, i]` takes `weights[g, h, i, j]` of key `key_index[g, j]`. A group is a
    cloud in dense attention, a sequence in packed attention, a window or a patch of a curve where attention is local,
    and one query with its neighbours in attention among those. Indices are rows of the layer's input, the clouds of a
    batch one after another: of packed tokens (N, C), or of `tokens.flatten(0, 1)` of dense ones.

    The weights are those the layer went on with: they have a gradient where the model's output has one. The weights of
    pooling layers ("children") are shares and have none.

    Attributes:
        layer: name of the layer in the model, as `named_modules` gives it.
        keys: what the keys are. "tokens": the queries' own tokens; "context": another sequence, in decoders the one
            that the queries themselves were made of; "children": the finer, or on the way up of a U-net the coarser,
            tokens or points from which each query was made; "skip": what it was besides made of, the tokens of the same
            level on the way down; "memory": learned slots.
        weights: (G, H, Q, K). Where each channel has a weight of its own, every channel is a head.
        query_index: (G, Q) int64 rows of the queries, -1 for padding. None: row g * Q + i.
        key_index: (G, K) int64 rows of the keys, -1 for padding; (G, H, K) where each head sees others. None: row
            g * K + j, or slot j of a memory.
        num_queries: how many rows of queries there are, where the weights do not tell. None: all are in the map.
        is_partial: whether only some of the queries were chosen to be recorded.
    """

    layer: str
    keys: Keys
    weights: Tensor
    query_index: Tensor | None = None
    key_index: Tensor | None = None
    num_queries: int | None = None
    is_partial: bool = False

    def __len__(self) -> int:
        """How many queries there are, recorded or not."""
        if self.num_queries is not None:
            return self.num_queries
        if self.query_index is None:
            return self.weights.shape[0] * self.weights.shape[2]
        return int(self.query_index.max()) + 1 if self.query_index.numel() else 0

    def query_rows(self) -> Tensor:
        """(G, Q) int64 rows of the queries, -1 for padding."""
        groups, _, queries, _ = self.weights.shape
        if self.query_index is not None:
            return self.query_index
        return torch.arange(groups * queries, device=self.weights.device).view(groups, queries)

    def key_rows(self) -> Tensor:
        """(G, K) or (G, H, K) int64 rows of the keys, or slots of a memory, -1 for padding."""
        groups, _, _, keys = self.weights.shape
        if self.key_index is not None:
            return self.key_index
        slot = torch.arange(keys, device=self.weights.device)
        return (
            slot.expand(groups, -1)
            if self.keys == "memory"
            else torch.arange(groups * keys, device=self.weights.device).view(groups, keys)
        )

    def through_memory(self) -> AttentionMap:
        """Of a map to a memory, the product of the weights of every two tokens: A Aᵀ, how far both use the same slots.

        It is no distribution: a row does not add up to one, and it says nothing of a query's choice among tokens, for
        there was none. (Q, Q) for each group and head, made here and not while recording.

        Raises:
            ValueError: the map is no map to a memory.
        """
        if self.keys != "memory":
            raise ValueError(f"{self.layer} attends to {self.keys}, not to a memory")
        rows = self.query_rows()
        product = self.weights @ self.weights.mT
        product = product.masked_fill((rows < 0)[:, None, None], 0).masked_fill((rows < 0)[:, None, :, None], 0)
        return AttentionMap(self.layer, "tokens", product, rows, rows, self.num_queries, self.is_partial)

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Every query with every key it sees, one by one.

        Returns:
            query (E,), key (E,) int64 rows, and their weights (E,), the mean over heads; without padding.
        """
        query, key = self.query_rows(), self.key_rows()
        if key.dim() == 3:
            weights, key = self.weights / self.weights.shape[1], key[:, :, None]  # (G, H, Q, K)
            query = query[:, None, :, None]
        else:
            weights, key = self.weights.mean(1), key[..., None, :]  # (G, Q, K)
            query = query[:, :, None]
        query, key = query.expand_as(weights), key.expand_as(weights)
        real = (query >= 0) & (key >= 0)
        return query[real], key[real], weights[real]


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """What is kept of a map of attention, see `record_attention`."""

    heads: Literal["all", "mean"] | tuple[int, ...] = "all"
    queries: Tensor | None = None
    top_k: int | None = None

    @property
    def has_blocks(self) -> bool:
        """Whether weights can be computed for some queries after others."""
        return self.queries is not None or self.top_k is not None

    def of(self, found: AttentionMap) -> AttentionMap:
        if found.keys in ("children", "skip"):
            return found
        if self.heads != "all":
            found = _with_heads(found, self.heads)
        if self.queries is not None:
            found = _with_queries(found, self.queries)
        return found if self.top_k is None else _with_top(found, self.top_k)


def _with_heads(found: AttentionMap, heads: str | tuple[int, ...]) -> AttentionMap:
    weights, key = found.weights, found.key_index
    count = weights.shape[1]
    each_sees_others = key is not None and key.dim() == 3
    if isinstance(heads, str) and key is not None and each_sees_others:
        weights, key = weights.permute(0, 2, 1, 3).flatten(2)[:, None] / count, key.flatten(1)  # (G, 1, Q, H * K)
    elif isinstance(heads, str):
        weights = weights.mean(1, keepdim=True)
    else:
        if not all(0 <= head < count for head in heads):
            raise ValueError(f"{found.layer} has heads 0 to {count - 1}, got {list(heads)}")
        chosen = torch.tensor(heads, device=weights.device)
        weights = weights.index_select(1, chosen)
        key = key.index_select(1, chosen) if key is not None and each_sees_others else key
    return dataclasses.replace(found, weights=weights, key_index=key)


def _with_queries(found: AttentionMap, queries: Tensor) -> AttentionMap:
    """A group for each of the queries that are in the map."""
    rows = found.query_rows()
    group, place = torch.isin(rows, queries.to(rows.device)).nonzero().unbind(1)
    weights = found.weights.transpose(1, 2)[group, place][:, :, None]  # (E, H, 1, K)
    key = None if found.keys == "memory" else found.key_rows()[group]
    row = rows[group, place][:, None]
    return AttentionMap(found.layer, found.keys, weights, row, key, len(found), is_partial=True)


def _with_top(found: AttentionMap, count: int) -> AttentionMap:
    """A group for each query, with its largest weights."""
    weights, place = found.weights.topk(min(count, found.weights.shape[3]))  # (G, H, Q, k)
    key = found.key_rows()
    key = (key if key.dim() == 3 else key[:, None])[:, :, None].expand_as(found.weights).gather(3, place)
    weights, key = (values.transpose(1, 2).flatten(0, 1) for values in (weights, key))  # (G * Q, H, k)
    rows = found.query_rows().reshape(-1, 1)
    return AttentionMap(found.layer, found.keys, weights[:, :, None], rows, key, len(found), found.is_partial)


def joined(blocks: Sequence[AttentionMap]) -> AttentionMap:
    """One map of blocks of queries of one layer, in each of which every query is a group of its own."""
    keys = [block.key_index for block in blocks if block.key_index is not None]
    return dataclasses.replace(
        blocks[0],
        weights=torch.cat([block.weights for block in blocks]),
        query_index=torch.cat([block.query_rows() for block in blocks]),
        key_index=torch.cat(keys) if keys else None,
    )
