"""From where one looks down through a model: its pooled vector, its class token, a point, a box, a query."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pctransformer.layers.recording import AttentionMap
from pctransformer.visualization.heights import centers


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """From where one looks down: weights of the tokens at one height of a model.

    Attributes:
        height: how many of the maps lie below.
        weights: (T,) of the tokens there; they add up to one.
    """

    height: int
    weights: Tensor


def pooled_vector(maps: Sequence[AttentionMap], cloud: int = 0) -> Source:
    """The vector that the head classifies.

    Args:
        maps: of one call of a classifier, whose last layer pools tokens.
        cloud: which of the batch.

    Raises:
        ValueError: the last map is no pooling of clouds, or there is no such cloud.
    """
    if not maps or maps[-1].keys != "children":
        raise ValueError("the last of the maps must be a pooling of tokens, as a classifier's head records it")
    clouds = len(maps[-1])
    if not 0 <= cloud < clouds:
        raise ValueError(f"cloud must be at least 0 and below {clouds}, got {cloud}")
    return Source(len(maps), _spread([cloud], clouds, maps[-1]))


def class_token(maps: Sequence[AttentionMap], cloud: int = 0) -> Source:
    """The learned token in front of each cloud, as it comes out of the last attention layer.

    It is known by being made of nothing: of no points and of no other tokens.

    Args:
        maps: of one call of a classifier with a class token.
        cloud: which of the batch.

    Raises:
        ValueError: there is no class token, no attention above it, or no such cloud.
    """
    height = above_attention(maps)
    for found in maps[:height]:
        if found.keys == "children":
            query, _, weight = found.pairs()
            total = weight.new_zeros(len(found)).index_add(0, query, weight)
            learned = (total == 0).nonzero().flatten()
            if len(learned):
                if not 0 <= cloud < len(learned):
                    raise ValueError(f"cloud must be at least 0 and below {len(learned)}, got {cloud}")
                return Source(height, _spread([int(learned[cloud])], len(total), found))
    raise ValueError("the model has no class token; look from its pooled vector, or from a point")


def point(maps: Sequence[AttentionMap], row: int, xyz: Tensor) -> Source:
    """The token nearest to a point, as it comes out of the last attention layer; the point itself where it is a token.

    A token lies in the middle of the points, or finer tokens, that it is made of.

    Args:
        maps: of one call of a model with one cloud.
        row: of the point.
        xyz: (N, 3) coordinates of the cloud.

    Raises:
        ValueError: there is no such point, or no attention was recorded.
    """
    if not 0 <= row < len(xyz):
        raise ValueError(f"row must be at least 0 and below {len(xyz)}, got {row}")
    height = above_attention(maps)
    xyz = xyz.to(maps[0].weights.device, torch.float64)
    middle = centers(maps[:height], xyz)[-1]
    squared = (middle - xyz[row]).square().sum(1).nan_to_num(torch.inf)  # what is learned is nowhere
    return Source(height, _spread([int(squared.argmin())], len(middle), maps[0]))


def in_box(maps: Sequence[AttentionMap], box: Sequence[float], xyz: Tensor) -> Source:
    """All tokens in a box, alike, as they come out of the last attention layer, or of the last layer where there is
    none; where the box has none, the one nearest to its centre.

    Args:
        maps: of one call of a model with one cloud.
        box: x, y, z, dx, dy, dz, heading, see `pctransformer.boxes`.
        xyz: (N, 3) coordinates of the cloud.

    Raises:
        ValueError: no token has a place.
    """
    height = above_attention(maps) if attention_layers(maps) else len(maps)
    middle = centers(maps[:height], xyz.to(maps[0].weights.device))[-1]
    center = middle.new_tensor(box[:3])
    turned = math.cos(box[6]), math.sin(box[6])
    x, y, z = (middle - center).unbind(1)
    along, across = x * turned[0] + y * turned[1], y * turned[0] - x * turned[1]
    inside = (along.abs() <= box[3] / 2) & (across.abs() <= box[4] / 2) & (z.abs() <= box[5] / 2)
    if not inside.any():
        squared = (middle - center).square().sum(1).nan_to_num(torch.inf)
        if not squared.isfinite().any():
            raise ValueError("no token is made of any point")
        inside = squared == squared.min()
    return Source(height, _spread(inside.nonzero()[:, 0].tolist(), len(middle), maps[0]))


def last_row(maps: Sequence[AttentionMap], row: int) -> Source:
    """A row of what comes out of the last layer: an object query of a detector, a point of a segmenter.

    Raises:
        ValueError: there is no such row.
    """
    last = next((found for found in reversed(maps) if found.keys in ("children", "context")), None)
    count = 0 if last is None else len(last)
    if not 0 <= row < count:
        raise ValueError(f"row must be at least 0 and below {count}, got {row}")
    return Source(len(maps), _spread([row], count, maps[0]))


def attention_layers(maps: Sequence[AttentionMap]) -> list[int]:
    """Indices of the maps that are attention: of tokens among themselves, or of queries to tokens."""
    return [i for i, found in enumerate(maps) if found.keys in ("tokens", "context")]


def above_attention(maps: Sequence[AttentionMap]) -> int:
    """Height of the tokens that come out of the last attention layer.

    Raises:
        ValueError: there is none.
    """
    layers = attention_layers(maps)
    if not layers:
        raise ValueError("no attention among tokens was recorded")
    return layers[-1] + 1


def _spread(rows: Sequence[int], size: int, like: AttentionMap) -> Tensor:
    """(size,) weights that add up to one, the same for each of some rows."""
    device = like.weights.device
    return torch.zeros(size, device=device).index_fill(0, torch.tensor(rows, device=device), 1 / len(rows))
