"""What a model looked at, point by point: maps of its layers, composed down to the points of the cloud.

    with record_attention(model) as maps:
        model(cloud)
    weights = attention_rollout(maps, pooled_vector(maps), len(cloud))  # (N,), adds up to one

A map says for each token how much it took from which others. One after the other, from a token in the end down to the
points, maps are multiplied; a token vector v over what came out of a layer becomes v M over what went in.

- Attention among tokens counts half, (M + 1) / 2: the other half stays where it is, since every attention layer is
  added to its input (Abnar and Zuidema, Quantifying attention flow in transformers, 2020, section 3).
- Attention of a decoder's queries to tokens counts half too; the other half is what the query was before.
- Layers that make coarse tokens of fine ones, or fine ones of coarse, and the last pooling, count in full: nothing goes
  past them. On the way up of a U-net a token is half of what it was on the way down.
- Attention to learned memory slots is no attention among tokens, and is passed over, as if each token kept to itself
  there; so are layers that are not recorded, for instance mixers whose weights belong to places, convolutions that are
  added to their tokens or stay on the cells of a dense map, and skips that reach over several layers of one level.
  `passed_over` names the mixers: where there are any, tokens saw more than the weights tell.
- Weight of cells that hold no point is left out, and so is that of learned tokens.

Heads count alike. It is a picture of where information could flow, not of what made the decision: values, perceptrons
and signs are not in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pctransformer.layers.grid_mixers.grid_mixer import GridMixer
from pctransformer.layers.mixers.mixer import Mixer
from pctransformer.layers.recording import AttentionMap
from pctransformer.visualization.heights import heights
from pctransformer.visualization.sources import Source, attention_layers


@dataclasses.dataclass(frozen=True)
class _Shares:
    """What becomes of the weight of a token at a layer of attention: how much stays, how much goes to its keys."""

    stays: float
    goes: float


def attention_rollout(maps: Sequence[AttentionMap], source: Source, num_points: int) -> Tensor:
    """How much of each point is in a token, all layers together but for those `passed_over`.

    Args:
        maps: of one call of a model, in the order in which its layers ran.
        source: from where, see `pooled_vector`, `class_token` and `point`.
        num_points: N points of the input, all clouds together.

    Returns:
        weights (N,), at least 0, which add up to one: what comes from learned tokens or empty cells is left out.

    Raises:
        ValueError: the maps do not fit together, or nothing comes from the points at all.

    Source: Abnar and Zuidema, 2020, arXiv:2005.00928, equations 1 and 2.
    """
    weights = _down(maps, source, num_points, dict.fromkeys(range(source.height), _Shares(0.5, 0.5)))
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
    return _down(maps, source, num_points, {layer: _Shares(0.0, 1.0)})


def gradient_attention(maps: Sequence[AttentionMap], score: Tensor, source: Source, num_points: int) -> Tensor:
    """Attention that raises a score: weights times the gradient of the score by them, all layers together.

        v <- v + v mean over heads of (dscore / dA * A)+,   at each layer of attention from the last one down

    Heads and pairs by which the score would fall count as zero. Pooling layers hand on what they are made of, as in
    `attention_rollout`.

    Args:
        maps: of one call, recorded with gradients, whole: without a choice of heads, queries or top_k.
        score: scalar that the model gave in that call, for instance a logit. Its graph is kept.
        source: from where; that which the score is told of.
        num_points: N points of the input.

    Returns:
        weights (N,), which add up to one; all 0 where the source is a learned token and no attention raises the score.

    Raises:
        ValueError: the maps do not fit together, or none has a gradient to the score.

    Source: Chefer, Gur, Wolf, Generic attention-model explainability, 2021, arXiv:2103.15679, equations 5 and 6; the
    same product in one layer by their Transformer interpretability beyond attention visualization, 2021.
    """
    layers = [i for i in attention_layers(maps[: source.height]) if maps[i].weights.requires_grad]
    gradients: Sequence[Tensor | None] = ()
    if layers:
        weights = [maps[i].weights for i in layers]
        gradients = torch.autograd.grad(score, weights, retain_graph=True, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise ValueError(
            "no map has a gradient to the score; record whole maps, with gradients, in the call that gave it"
        )
    weighted = list(maps)
    for i, gradient in zip(layers, gradients):
        own = maps[i].weights.detach()
        product = torch.zeros_like(own) if gradient is None else (gradient * own).clamp(min=0)
        weighted[i] = dataclasses.replace(maps[i], weights=product)
    shares = {i: _Shares(1.0, 1.0) if i in layers else _Shares(1.0, 0.0) for i in range(source.height)}
    return _down(weighted, source, num_points, shares, least=0.0)


def half_of_weight(weights: np.ndarray) -> float:
    """The least share of points that have half of the weight (n,) together: 0.5 if all have the same, 0 without any."""
    sums = np.sort(weights.astype(np.float64))[::-1].cumsum()
    if not sums[-1] > 0:
        return 0.0
    return float(np.searchsorted(sums, sums[-1] / 2) + 1) / len(weights)


def passed_over(model: nn.Module, maps: Sequence[AttentionMap]) -> list[str]:
    """Token mixers of a model that left no map of tokens among themselves: `attention_rollout` knows nothing of them.

    Args:
        model: of which maps were recorded.
        maps: of one call.

    Returns:
        names, in the order of the model's layers.
    """
    seen = {maps[i].layer for i in attention_layers(maps)}
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, (Mixer, GridMixer)) and not any(f"{one}.".startswith(f"{name}.") for one in seen)
    ]


def _down(
    maps: Sequence[AttentionMap], source: Source, num_points: int, attention: Mapping[int, _Shares], least: float = 1e-6
) -> Tensor:
    """Follow weights down to the points. Layers of attention that are not named are passed over; of a total of at most
    `least`, which is rounding, comes nothing."""
    known = heights(maps[: source.height], num_points)
    weights = source.weights.detach().double()
    if len(weights) != known.sizes[-1]:
        raise ValueError(f"there are {known.sizes[-1]} tokens, but the source has weights of {len(weights)}")
    waiting: dict[int, Tensor] = {}  # what goes to tokens further down, by their height
    for i in reversed(range(source.height)):
        found, keys_at = maps[i], known.below[i]
        shares = attention.get(i, _Shares(1.0, 0.0))
        if found.keys == "children":
            weights = _through(found, weights, known.sizes[i])
        elif found.keys == "skip":
            waiting[keys_at] = waiting.get(keys_at, 0) + _through(found, weights, known.sizes[keys_at])
        elif found.keys != "memory" and shares.goes:
            goes = shares.goes * _through(found, weights, known.sizes[keys_at])
            weights = shares.stays * weights
            if keys_at == i:
                weights = weights + goes
            else:
                waiting[keys_at] = waiting.get(keys_at, 0) + goes
        weights = weights + waiting.pop(i, 0)
    total = weights.sum()
    return torch.where(total > least, weights / total, 0.0).float()


def _through(found: AttentionMap, weights: Tensor, size: int) -> Tensor:
    """(size,) weights of what went into a layer, from the weights of what came out of it."""
    query, key = found.query_rows(), found.key_rows()  # (G, Q), (G, K) or (G, H, K)
    real = query >= 0
    if found.is_partial and (weights.index_fill(0, query[real], 0) != 0).any():
        raise ValueError(
            f"{found.layer} was recorded for chosen queries, and others are looked from; record all of them, or look"
            " from one of these"
        )
    own = weights.index_select(0, query.clamp(min=0).flatten()).view_as(query)
    pairs = found.weights.detach()
    if key.dim() == 2:
        pairs, key = pairs.mean(1, keepdim=True), key[:, None]
    # group by group, since to list all pairs takes more than ten times as long; padding is nothing, whatever is there
    pairs = pairs.to(own).masked_fill(~real[:, None, :, None], 0)  # (G, H, Q, K)
    given = (own[:, None, None] @ pairs).squeeze(2) / pairs.shape[1]  # (G, H, K)
    return weights.new_zeros(size).index_add(0, key.clamp(min=0).flatten(), torch.where(key >= 0, given, 0).flatten())
