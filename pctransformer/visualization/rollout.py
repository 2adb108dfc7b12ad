"""What a model looked at, point by point: maps of its layers, composed down to the points of the cloud.

    with record_attention(model) as maps:
        model(cloud)
    weights = attention_rollout(maps, pooled_vector(maps), len(cloud))  # (N,), adds up to one

A map says for each token how much it took from which others. One after the other, from a token in the end down to the
points, maps are multiplied; a token vector v over what came out of a layer becomes v M over what went in.

- Attention among tokens counts half, (M + 1) / 2: the other half stays where it is, since every attention layer is
  added to its input (Abnar and Zuidema, Quantifying attention flow in transformers, 2020, section 3).
- Layers that make coarse tokens of fine ones, and the last pooling, count in full: nothing goes past them.
- Attention to learned memory slots is no attention among tokens, and is passed over, as if each token kept to itself
  there; so are layers that are not recorded, for instance mixers whose weights belong to places, and skips that reach
  over several layers. `passed_over` names the mixers: where there are any, tokens saw more than the weights tell.

Heads count alike. It is a picture of where information could flow, not of what made the decision: values, perceptrons
and signs are not in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pctransformer.layers.grid_mixers.grid_mixer import GridMixer
from pctransformer.layers.mixers.mixer import Mixer
from pctransformer.layers.recording import AttentionMap


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """From where one looks down: weights of the tokens at one height of a model.

    Attributes:
        height: how many of the maps lie below.
        weights: (T,) of the tokens there; they add up to one.
    """

    height: int
    weights: Tensor


# ---- from where ------------------------------------------------------------------------------------------------------
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
    clouds = _num_queries(maps[-1])
    if not 0 <= cloud < clouds:
        raise ValueError(f"cloud must be at least 0 and below {clouds}, got {cloud}")
    return Source(len(maps), _one_hot(cloud, clouds, maps[-1]))


def class_token(maps: Sequence[AttentionMap], cloud: int = 0) -> Source:
    """The learned token in front of each cloud, as it comes out of the last attention layer.

    It is known by being made of nothing: of no points and of no other tokens.

    Args:
        maps: of one call of a model with a class token.
        cloud: which of the batch.

    Raises:
        ValueError: there is no class token, no attention above it, or no such cloud.
    """
    height = _above_attention(maps)
    for found in maps[:height]:
        if found.keys == "children":
            query, _, weight = found.pairs()
            total = weight.new_zeros(_num_queries(found)).index_add(0, query, weight)
            learned = (total == 0).nonzero().flatten()
            if len(learned):
                if not 0 <= cloud < len(learned):
                    raise ValueError(f"cloud must be at least 0 and below {len(learned)}, got {cloud}")
                return Source(height, _one_hot(int(learned[cloud]), len(total), found))
    raise ValueError("the model has no class token; look from its pooled vector, or from a point")


def point(maps: Sequence[AttentionMap], row: int, xyz: Tensor) -> Source:
    """The token nearest to a point, as it comes out of the last attention layer; the point itself where it is a token.

    A token lies in the middle of the points, or finer tokens, that it is made of.

    Args:
        maps: of one call of a model with one cloud.
        row: of the point.
        xyz: (N, 3) coordinates of the cloud.

    Raises:
        ValueError: there is no such point, there are several clouds, or no attention was recorded.
    """
    if not 0 <= row < len(xyz):
        raise ValueError(f"row must be at least 0 and below {len(xyz)}, got {row}")
    if maps and maps[-1].keys == "children" and _num_queries(maps[-1]) != 1:
        raise ValueError(f"a point is looked from in one cloud by itself, these are maps of {_num_queries(maps[-1])}")
    height = _above_attention(maps)
    sizes = _sizes(maps[:height], len(xyz))
    middle = xyz.to(maps[0].weights.device, torch.float64)
    place = middle[row]
    for found, size in zip(maps[:height], sizes[1:]):
        if found.keys == "children":
            query, key, weight = found.pairs()
            total = middle.new_zeros(size).index_add(0, query, weight.detach().double())
            parts = middle.index_select(0, key) * weight.detach()[:, None]
            middle = middle.new_zeros(size, 3).index_add(0, query, parts) / total[:, None]
    squared = (middle - place).square().sum(1).nan_to_num(torch.inf)  # what is learned is nowhere
    return Source(height, _one_hot(int(squared.argmin()), len(middle), maps[0]))


# ---- down ------------------------------------------------------------------------------------------------------------
def attention_rollout(maps: Sequence[AttentionMap], source: Source, num_points: int) -> Tensor:
    """How much of each point is in a token, all layers together but for those `passed_over`.

    Args:
        maps: of one call of a model, in the order in which its layers ran.
        source: from where, see `pooled_vector`, `class_token` and `point`.
        num_points: N points of the input, all clouds together.

    Returns:
        weights (N,), at least 0, which add up to one: what comes from learned tokens is left out.

    Raises:
        ValueError: the maps do not fit together, or nothing comes from the points at all.

    Source: Abnar and Zuidema, 2020, arXiv:2005.00928, equations 1 and 2.
    """
    weights = _down(maps, source, num_points, {i: 0.5 for i in range(source.height)})
    if not weights.any():
        raise ValueError("nothing comes from the points: the source is made of learned tokens alone")
    return weights


def layer_attention(maps: Sequence[AttentionMap], layer: int, source: Source, num_points: int) -> Tensor:
    """Where one attention layer looks: all others are passed over, and so is what it leaves as it is.

    Args:
        maps, source, num_points: see `attention_rollout`.
        layer: index of its map, which lies below the source.

    Returns:
        weights (N,), which add up to one; or all 0 where the layer gives nothing to the source, as PCT's may, whose
        weights are normalised over queries first.

    Raises:
        ValueError: the maps do not fit together, or this one is no attention among tokens.
    """
    if layer not in attention_layers(maps[: source.height]):
        raise ValueError(f"map {layer} is no attention among tokens below the source")
    return _down(maps, source, num_points, {layer: 1.0})


def attention_layers(maps: Sequence[AttentionMap]) -> list[int]:
    """Indices of the maps that are attention of tokens among themselves."""
    return [i for i, found in enumerate(maps) if found.keys == "tokens"]


def passed_over(model: nn.Module, maps: Sequence[AttentionMap]) -> list[str]:
    """Token mixers of a model that left no map of tokens among themselves: `attention_rollout` knows nothing of them.

    Args:
        model: of which maps were recorded.
        maps: of one call.

    Returns:
        names, in the order of the model's layers.
    """
    seen = {found.layer for found in maps if found.keys == "tokens"}
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, (Mixer, GridMixer)) and not any(f"{one}.".startswith(f"{name}.") for one in seen)
    ]


def _down(maps: Sequence[AttentionMap], source: Source, num_points: int, attention: dict[int, float]) -> Tensor:
    """Follow weights down to the points. `attention` is the share of those layers of attention that count."""
    sizes = _sizes(maps[: source.height], num_points)
    weights = source.weights.detach().double()
    if len(weights) != sizes[-1]:
        raise ValueError(f"there are {sizes[-1]} tokens, but the source has weights of {len(weights)}")
    for i in reversed(range(source.height)):
        found, share = maps[i], attention.get(i, 0.0)
        if found.keys == "children":
            weights = _through(found, weights, sizes[i])
        elif found.keys == "tokens" and share:
            weights = share * _through(found, weights, sizes[i]) + (1 - share) * weights
    total = weights.sum()
    return torch.where(total > 1e-6, weights / total, 0.0).float()  # below is rounding


def _through(found: AttentionMap, weights: Tensor, size: int) -> Tensor:
    """(size,) weights of what went into a layer, from the weights of what came out of it."""
    query, key, weight = found.pairs()
    return weights.new_zeros(size).index_add(0, key, weights.index_select(0, query) * weight.detach())


def _sizes(maps: Sequence[AttentionMap], num_points: int) -> list[int]:
    """How many tokens there are at each height, checked: maps of several calls or of a U-net do not fit together."""
    sizes = [num_points]
    for found in maps:
        if found.keys == "context":
            raise ValueError(f"{found.layer} attends to another sequence, and maps are followed within one only")
        if found.keys != "memory":
            query, key, _ = found.pairs()
            made = _num_queries(found) if found.keys == "children" else sizes[-1]
            if (key.numel() and key.max() >= sizes[-1]) or (query.numel() and query.max() >= made):
                raise ValueError(
                    f"the map of {found.layer} does not fit the {sizes[-1]} tokens below it; maps must be those of one"
                    " call of one model, and models that come back to finer tokens cannot be followed"
                )
            sizes.append(made)
        else:
            sizes.append(sizes[-1])
    return sizes


def _num_queries(found: AttentionMap) -> int:
    if found.query_index is None:
        return found.weights.shape[0] * found.weights.shape[2]
    return int(found.query_index.max()) + 1


def _above_attention(maps: Sequence[AttentionMap]) -> int:
    """Height of the tokens that come out of the last attention layer."""
    layers = attention_layers(maps)
    if not layers:
        raise ValueError("no attention among tokens was recorded")
    return layers[-1] + 1


def _one_hot(row: int, size: int, like: AttentionMap) -> Tensor:
    return torch.zeros(size, device=like.weights.device).index_fill(
        0, torch.tensor([row], device=like.weights.device), 1.0
    )
