"""Looking at attention: how layers hand over what they attended to.

    with record_attention(model) as maps:
        logits = model(points)
    maps[0].layer, maps[0].weights

Nothing is global: the names of lists to fill are put on the layers of that one model, and taken off again.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

Keys = Literal["tokens", "context", "children", "memory"]


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
        keys: what the keys are. "tokens": the queries' own tokens; "context": another sequence; "children": the finer
            tokens or points from which each query was made; "memory": learned slots.
        weights: (G, H, Q, K). Where each channel has a weight of its own, every channel is a head.
        query_index: (G, Q) int64 rows of the queries, -1 for padding. None: row g * Q + i.
        key_index: (G, K) int64 rows of the keys, -1 for padding; (G, H, K) where each head sees others. None: row
            g * K + j, or slot j of a memory.
    """

    layer: str
    keys: Keys
    weights: Tensor
    query_index: Tensor | None = None
    key_index: Tensor | None = None

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Every query with every key it sees, one by one.

        Returns:
            query (E,), key (E,) int64 rows, and their weights (E,), the mean over heads; without padding.
        """
        groups, heads, queries, keys = self.weights.shape
        rows = torch.arange(groups, device=self.weights.device)[:, None]
        query = self.query_index
        if query is None:
            query = rows * queries + torch.arange(queries, device=rows.device)
        key = self.key_index
        if key is None:
            key = torch.arange(keys, device=rows.device) + (0 if self.keys == "memory" else rows * keys)
        if key.dim() == 3:
            weights, key = self.weights / heads, key[:, :, None]  # (G, H, Q, K)
            query = query[:, None, :, None]
        else:
            weights, key = self.weights.mean(1), key[..., None, :]  # (G, Q, K)
            query = query[:, :, None]
        query, key = query.expand_as(weights), key.expand_as(weights)
        real = (query >= 0) & (key >= 0)
        return query[real], key[real], weights[real]


@dataclasses.dataclass(frozen=True, eq=False)
class _Recorder:
    layer: str
    maps: list[AttentionMap]


class RecordedLayer(nn.Module):
    """A layer whose weights can be looked at. While `is_recorded`, it computes them and calls `record`."""

    _recorders: tuple[_Recorder, ...] = ()

    @property
    def is_recorded(self) -> bool:
        """Whether somebody looks."""
        return bool(self._recorders)

    def record(
        self,
        weights: Tensor,
        keys: Keys = "tokens",
        query_index: Tensor | None = None,
        key_index: Tensor | None = None,
    ) -> None:
        """Hand over one `AttentionMap`, see there."""
        for recorder in self._recorders:
            recorder.maps.append(AttentionMap(recorder.layer, keys, weights, query_index, key_index))

    def record_mean(self, key_index: Tensor) -> None:
        """Hand over that each query saw all of its children, and none more than another: convolutions, plain means.

        Args:
            key_index: (M, k) rows of the children, -1 for none.
        """
        real = (key_index >= 0).float()
        weights = real / real.sum(1, keepdim=True)
        self.record(weights[:, None, None], "children", key_index=key_index)

    def record_maximum(self, candidates: Tensor, key_index: Tensor | None = None) -> None:
        """Hand over which children a maximum over them came from: each one's share of the channels.

        Args:
            candidates: (M, k, C) values of the children of each query, of which the layer takes `amax(1)`.
            key_index: (M, k) rows of the children, -1 for none. None: row m * k + j.
        """
        self.record(shares_of_maximum(candidates, key_index)[:, None, None], "children", key_index=key_index)


def shares_of_maximum(candidates: Tensor, key_index: Tensor | None = None) -> Tensor:
    """(M, k): each child's share of the channels of a maximum, for arguments as `record_maximum` takes them."""
    candidates = candidates.detach()
    if key_index is not None:
        candidates = candidates.masked_fill((key_index < 0)[..., None], -torch.inf)
    winner = candidates.argmax(1)  # (M, C)
    share = torch.full_like(winner, 1 / winner.shape[1], dtype=torch.float32)
    return share.new_zeros(candidates.shape[:2]).scatter_add(1, winner, share)


def is_recorded(module: nn.Module) -> bool:
    """Whether any layer in a module is being looked at."""
    return any(isinstance(layer, RecordedLayer) and layer.is_recorded for layer in module.modules())


@contextlib.contextmanager
def record_attention(model: nn.Module) -> Iterator[list[AttentionMap]]:
    """Record the weights of all attention and pooling layers of a model while the block runs.

    Recorded layers compute their weights explicitly instead of in a fused kernel: their outputs agree to float
    tolerance, and cost time and memory. Packed sequences are laid side by side for it, filled up to the longest, since
    a map holds all of them in one tensor; rows in the maps are those of the packed tokens. Layers that nobody records
    cost nothing more than a look at an empty tuple. Blocks may be nested, of one model too: each gets its own maps. A
    block that ends by an error is closed like any other.

    Layers that mix tokens in other ways than by weights of pairs have no maps: MLPs along the tokens, recurrent layers,
    shifts. `pctransformer.visualization.rollout.passed_over` names them.

    Args:
        model: any module; its layers are found by type.

    Yields:
        maps: filled call by call, in the order in which layers ran.

    Raises:
        ValueError: no layer of the model can be recorded.
    """
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, RecordedLayer)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no layer whose attention can be recorded; such layers derive from"
            " pctransformer.layers.recording.RecordedLayer"
        )
    maps: list[AttentionMap] = []
    for name, layer in layers:
        name = name.replace("_orig_mod.", "")  # torch.compile puts it in front
        layer._recorders = (*layer._recorders, _Recorder(name, maps))
    try:
        yield maps
    finally:
        for _, layer in layers:
            layer._recorders = tuple(recorder for recorder in layer._recorders if recorder.maps is not maps)
