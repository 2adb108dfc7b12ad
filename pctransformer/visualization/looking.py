"""Look at what a model looks at: one function, several ways, values of the points of the cloud.

    maps = look(model, points)                                    # a classifier: attention rollout
    maps = look(model, points, method="layer", layers="*.5.*", heads=(0, 1))
    maps = look(detector, scan, method="grad_cam", box=boxes[0])  # what speaks for this box

| method | what is shown | needs | source |
|---|---|---|---|
| rollout | where information could flow from, all layers together | attention, or pooling | Abnar and Zuidema, 2020 |
| last_layer | where the last attention layer looks | attention | Dosovitskiy et al., ViT, 2021 |
| layer | where each of some layers, and heads, looks | attention | |
| class_token | where the class token looks in the last layer | a class token | Caron et al., DINO, 2021, figure 1 |
| gradient_attention | attention that raises the score | attention | Chefer et al., 2021 |
| grad_cam | tokens that speak for the score | | Selvaraju et al., 2017 |
| saliency | points with which the score changes fast | | Simonyan et al., 2014 |
| similarity | where features are like those at a point | | |
| features_pca | the three directions in which features differ most, as colours | | Oquab et al., DINOv2, 2023 |

All but the last three look from somewhere: of a classifier from the vector that is classified, unless a point is given;
of a segmenter from a point; of a detector from a box that it found, by the query that found it, or by the tokens in it
where the head has no queries; or from a point. The score is the logit of a class there. Where no attention among tokens
was recorded, what is left of a rollout is what was pooled and convolved: its map is called "receptive field".
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from pctransformer.evaluation.inference import evaluating
from pctransformer.layers.attention_map import Choice
from pctransformer.layers.recording import AttentionMap, record_attention, unwrapped
from pctransformer.visualization.clouds import Up
from pctransformer.visualization.point_maps import BoxView, PointMap, PointMaps
from pctransformer.visualization.rollout import attention_rollout, gradient_attention, layer_attention
from pctransformer.visualization.saliency import (
    cosine_similarity,
    grad_cam,
    input_gradient,
    principal_components,
    to_points,
)
from pctransformer.visualization.sources import (
    Source,
    attention_layers,
    class_token,
    in_box,
    last_row,
    point,
    pooled_vector,
)
from pctransformer.visualization.token_features import HEAD, TokenFeatures, chosen_tokens, token_features

Method = Literal[
    "rollout", "last_layer", "layer", "class_token", "gradient_attention", "grad_cam", "saliency", "similarity",
    "features_pca",
]  # fmt: skip
METHODS: tuple[Method, ...] = get_args(Method)
_OF_SCORES = ("gradient_attention", "grad_cam", "saliency")
_OF_LAYERS = ("layer", "grad_cam", "similarity", "features_pca")
_OF_HEADS = ("layer", "last_layer", "class_token")


def look(
    model: nn.Module,
    points: Tensor,
    *,
    method: Method = "rollout",
    layers: str | Sequence[str] | None = None,
    heads: Literal["mean"] | Sequence[int] = "mean",
    query: int | None = None,
    box: Sequence[float] | Tensor | None = None,
    target: int | None = None,
    category: int | None = None,
    title: str = "cloud",
    boxes: BoxView | None = None,
    up: Up = "z",
) -> PointMaps:
    """Values of the points of one cloud by which to see what a model does with it.

    The model is in evaluation mode meanwhile; it keeps no gradients of it.

    Args:
        model: a classifier, segmenter or detector of `pctransformer.models`. One that is compiled, or wrapped for
            several processes, runs here without.
        points: (N, 3 + C), where the model is.
        method: see this module.
        layers: names or shell patterns of attention layers for "layer", None: all; for "grad_cam", "similarity" and
            "features_pca" the name of the layer whose tokens are shown, None: what the head gets. Other methods choose
            none.
        heads: for "layer", "last_layer" and "class_token": the "mean" of all, or which, a map for each. Other methods
            choose none.
        query: row of the point to look from. Nobody looks from one by "class_token" and "features_pca", nor by
            "grad_cam" and "saliency" in a classifier, whose scores are of the whole cloud.
        box: x, y, z, dx, dy, dz, heading of the box to look from, one that the detector found in these points.
        target: class whose logit is the score; None: the highest. Not for boxes, whose own class counts.
        category: what the object is, for segmenters that are told.
        title, boxes, up: of the `PointMaps`.

    Returns:
        maps: one for each layer and head; values are at least 0 but for similarities and components, and add up to one
        where they are attention. Components are one map, of three values for each point, that are shown as a colour.

    Raises:
        ValueError: the model has not what the method needs, it is not said from where to look, there are no points, or
            no such layer, head, point or class, or the method takes none; on CPU: points that are not finite.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not len(points):
        raise ValueError("there are no points to look at; give a cloud with at least one")
    if query is not None and not 0 <= query < len(points):
        raise ValueError(f"query must be the row of one of {len(points)} points, got {query}")
    model = unwrapped(model)
    check_choice(model, method, layers, heads, query)
    with torch.inference_mode(False), torch.set_grad_enabled(method in _OF_SCORES):  # whatever the caller has set
        looked = _run(model, points, method, category, heads)
        if method in ("similarity", "features_pca"):
            found = [map_of_features(*_point_features(looked, method, layers), method, query)]
        elif method == "grad_cam":
            found = [_grad_cam(looked, layers, query, box, target)]
        elif method == "saliency":
            score = looked.score(query, box, target)
            (gradient,) = torch.autograd.grad(score, looked.points)
            found = [_map(input_gradient(gradient), None, None, query, method)]
        else:
            found = _of_attention(looked, method, layers, heads, query, box, target)
    return PointMaps(points[:, :3].detach().cpu().float().numpy(), tuple(found), title, boxes, up)


def check_choice(
    model: nn.Module,
    method: Method,
    layers: str | Sequence[str] | None,
    heads: Literal["mean"] | Sequence[int],
    query: int | None,
) -> None:
    """Refuse what a method would pass over, although its maps would be said to be of it.

    Args:
        model, method, layers, heads, query: as of `look`.

    Raises:
        ValueError: the method takes no layers, no heads, or no point to look from.
    """
    if layers is not None and method not in _OF_LAYERS:
        raise ValueError(f"{method} takes no layers; those that do are {', '.join(_OF_LAYERS)}")
    if heads != "mean" and method not in _OF_HEADS:
        raise ValueError(f"{method} takes no heads; those that do are {', '.join(_OF_HEADS)}")
    is_classifier = not (_is_segmenter(model) or _is_detector(model))
    if query is not None and is_classifier and method in ("grad_cam", "saliency"):
        raise ValueError(
            f"{method} of {type(model).__name__} is from no point, since its scores are of all points; leave query out"
        )
    if query is not None and (method == "features_pca" or (is_classifier and method == "class_token")):
        raise ValueError(f"{method} is from no point; leave query out")


def _is_segmenter(model: nn.Module) -> bool:
    return hasattr(model, "num_categories")


def _is_detector(model: nn.Module) -> bool:
    return hasattr(model, "score_of")


@dataclasses.dataclass(frozen=True, eq=False)
class _Looked:
    """One run of a model."""

    model: nn.Module
    points: Tensor
    out: Any
    maps: list[AttentionMap]
    tokens: dict[str, Any]

    @property
    def is_segmenter(self) -> bool:
        return _is_segmenter(self.model)

    @property
    def is_detector(self) -> bool:
        return _is_detector(self.model)

    def of_box(self, box: Sequence[float] | Tensor) -> tuple[Tensor, int | None]:
        """The logit of a box, and the query that found it."""
        if not self.is_detector:
            raise ValueError(f"{type(self.model).__name__} finds no boxes; look from a point, or from nowhere")
        scored: tuple[Tensor, int | None] = self.model.score_of(self.out, torch.as_tensor(box))  # type: ignore[operator]
        return scored

    def score(self, query: int | None, box: Sequence[float] | Tensor | None, target: int | None) -> Tensor:
        if box is not None:
            return self.of_box(box)[0]
        if self.is_detector:
            raise ValueError("the scores of a detector are those of its boxes; give one")
        if self.is_segmenter and query is None:
            raise ValueError("the scores of a segmenter are those of points; give the row of one")
        logits: Tensor = self.out[query if self.is_segmenter else 0]
        if target is not None and not 0 <= target < len(logits):
            raise ValueError(f"target must be a class from 0 to {len(logits) - 1}, got {target}")
        return logits.max() if target is None else logits[target]

    def source(self, method: Method, query: int | None, box: Sequence[float] | Tensor | None) -> Source:
        """From where to look."""
        if method == "class_token":
            if self.is_detector or self.is_segmenter:
                raise ValueError(f"{type(self.model).__name__} has no class token, only classifiers have")
            return class_token(self.maps)
        if box is not None:
            row = self.of_box(box)[1]
            if row is not None:
                return last_row(self.maps, row)
            return in_box(self.maps, torch.as_tensor(box).tolist(), self.points[:, :3].detach())
        if query is not None:
            if self.is_segmenter:
                return last_row(self.maps, query)
            return point(self.maps, query, self.points[:, :3].detach())
        if self.is_segmenter or self.is_detector:
            what = "the row of a point" if self.is_segmenter else "a box that it found, or the row of a point"
            raise ValueError(f"{type(self.model).__name__} says something of each place: look from one, give {what}")
        return pooled_vector(self.maps)


def _run(
    model: nn.Module, points: Tensor, method: Method, category: int | None, heads: Literal["mean"] | Sequence[int]
) -> _Looked:
    """Run the model. Of what only means of heads are looked at, no more is kept."""
    told = () if category is None else (torch.tensor([category], device=points.device),)
    if points.is_inference():
        points = points.clone()
    points = points.detach().float().requires_grad_(method in _OF_SCORES)
    with evaluating(model), token_features(model) as tokens:
        if method in ("grad_cam", "saliency", "similarity", "features_pca"):
            return _Looked(model, points, model([points], *told), [], tokens)
        is_mean = method == "rollout" or (method in ("last_layer", "class_token") and heads == "mean")
        with record_attention(model, heads="mean" if is_mean else "all") as maps:
            out = model([points], *told)
    return _Looked(model, points, out, maps, {})


# ---- attention -------------------------------------------------------------------------------------------------------
def _of_attention(
    looked: _Looked,
    method: Method,
    layers: str | Sequence[str] | None,
    heads: Literal["mean"] | Sequence[int],
    query: int | None,
    box: Sequence[float] | Tensor | None,
    target: int | None,
) -> list[PointMap]:
    maps, count = looked.maps, len(looked.points)
    if method != "rollout" and not any(found.keys in ("tokens", "context", "memory") for found in maps):
        others = ", ".join(other for other in METHODS if other not in (*_OF_HEADS, "gradient_attention"))
        raise ValueError(f"{type(looked.model).__name__} has no attention among tokens; {others} need none")
    source = looked.source(method, query, box)
    if method == "rollout":
        values = attention_rollout(maps, source, count)
        return [_map(values, None, None, query, method if attention_layers(maps) else "receptive field")]
    if method == "gradient_attention":
        score = looked.score(query, box, target)
        return [_map(gradient_attention(maps, score, source, count), None, None, query, method)]
    below = [i for i in attention_layers(maps) if i < source.height]
    chosen = below[-1:] if method != "layer" else _named(maps, source.height, layers)
    found = []
    for i in chosen:
        for head in [None] if heads == "mean" else heads:
            one = list(maps)
            if head is not None:
                one[i] = Choice(heads=(head,)).of(one[i])
            if one[i].keys == "memory":
                one[i] = _as_shares(one[i].through_memory())
            values = layer_attention(one, i, source, count)
            found.append(_map(values, maps[i].layer, head, query, "attention"))
    return found


def _named(maps: Sequence[AttentionMap], height: int, layers: str | Sequence[str] | None) -> list[int]:
    """Maps of attention below a height whose layers have such names, or lie in one that has; None: all."""
    patterns = ["*"] if layers is None else [layers] if isinstance(layers, str) else list(layers)
    known = [i for i in range(height) if maps[i].keys in ("tokens", "context", "memory")]
    chosen = [
        i
        for i in known
        if any(fnmatch.fnmatchcase(maps[i].layer, p) or maps[i].layer.startswith(f"{p}.") for p in patterns)
    ]
    if not chosen:
        names = ", ".join(dict.fromkeys(maps[i].layer for i in known))
        raise ValueError(f"no attention layer below is called {' or '.join(patterns)}; there are {names or 'none'}")
    return chosen


def _as_shares(found: AttentionMap) -> AttentionMap:
    return dataclasses.replace(found, weights=found.weights / found.weights.sum(-1, keepdim=True).clamp(min=1e-12))


# ---- gradients and features ------------------------------------------------------------------------------------------
def _grad_cam(
    looked: _Looked,
    layers: str | Sequence[str] | None,
    query: int | None,
    box: Sequence[float] | Tensor | None,
    target: int | None,
) -> PointMap:
    name, tokens = _tokens(looked, "grad_cam", layers)
    score = looked.score(query, box, target)
    (gradient,) = torch.autograd.grad(score, tokens.given, allow_unused=True)
    if gradient is None:
        raise ValueError(f"the score does not depend on {name}")
    values = grad_cam(tokens.features, tokens.rows(gradient))
    return _map(_carried(looked, tokens, values[:, None])[:, 0], _layer(name), None, query, "grad_cam")


def point_features(
    model: nn.Module, points: Tensor, *, layers: str | Sequence[str] | None = None
) -> tuple[str | None, Tensor]:
    """Features of tokens, carried to the points of a cloud.

    Args:
        model, points, layers: as of `look`, for "features_pca".

    Returns:
        name of the layer, None for what the head gets, and features (N, C).

    Raises:
        ValueError: no layer has that name and gives tokens.
    """
    with torch.no_grad():
        return _point_features(_run(model, points, "features_pca", None, "mean"), "features_pca", layers)


def map_of_features(layer: str | None, features: Tensor, method: Method, query: int | None) -> PointMap:
    """What "similarity" or "features_pca" shows of features (N, C) of points.

    Raises:
        ValueError: similarity is asked for, and not to which point.
    """
    if method == "features_pca":
        return _map(principal_components(features), layer, None, query, "feature components")
    if query is None:
        raise ValueError("similarity is to the features at a point; give its row")
    return _map(cosine_similarity(features, query), layer, None, query, method)


def _point_features(looked: _Looked, method: Method, layers: str | Sequence[str] | None) -> tuple[str | None, Tensor]:
    name, tokens = _tokens(looked, method, layers)
    return _layer(name), _carried(looked, tokens, tokens.features)


def _tokens(looked: _Looked, method: Method, layers: str | Sequence[str] | None) -> tuple[str, TokenFeatures]:
    if layers is not None and not isinstance(layers, str):
        if len(layers) != 1:
            raise ValueError(f"{method} shows the tokens of one layer, got {list(layers)}")
        (layers,) = layers
    return chosen_tokens(looked.tokens, layers)


def _carried(looked: _Looked, tokens: TokenFeatures, values: Tensor) -> Tensor:
    """(N, k) at the points from values (T, k) of tokens."""
    xyz = looked.points[:, :3].detach()
    if tokens.is_flat:
        xyz = xyz * xyz.new_tensor([1, 1, 0])
    return to_points(values.detach().float(), tokens.xyz.float(), xyz)


def _layer(name: str) -> str | None:
    return None if name == HEAD else name


def _map(values: Tensor, layer: str | None, head: int | None, query: int | None, method: str) -> PointMap:
    return PointMap(np.asarray(values.detach().cpu().float()), layer, head, query, method.replace("_", " "))
