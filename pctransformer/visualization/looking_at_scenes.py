"""Look at what a model of scenes looks at: as `look`, for clouds that it sees in tiles.

scene = ShownScene.of(xyz, colors, cell_size=0.05)
maps = look_at_scene(model, scene, tile_points=16384, query=1234)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import Tensor, nn

from pctransformer.datasets.crops import column_rows
from pctransformer.evaluation.inference import device_of
from pctransformer.evaluation.tiles import ShownScene
from pctransformer.visualization.looking import Method, check_choice, look, map_of_features, point_features
from pctransformer.visualization.point_maps import PointMap, PointMaps


def look_at_scene(
    model: nn.Module,
    scene: ShownScene,
    *,
    tile_points: int,
    method: Method = "rollout",
    layers: str | Sequence[str] | None = None,
    heads: Literal["mean"] | Sequence[int] = "mean",
    query: int | None = None,
    target: int | None = None,
    title: str = "scene",
) -> PointMaps:
    """Values of the points of a scene by which to see what a model does with them.

    Features are those of all tiles, averaged as `segment_scene` averages logits. By all other methods it is one tile
    that is looked at, the points nearest to the query's vertical line: more the model does not see when it says what is
    there, so that points outside get 0.

    Args:
        model: a segmenter of `pctransformer.models`.
        scene: what it is shown.
        tile_points: points of a tile at most, as in `segment_scene`.
        method, layers, heads, query, target, title: see `look`; queries are rows of what is shown.

    Returns:
        maps of all points that are shown, in the scene's coordinates as float32.

    Raises:
        ValueError: as `look`.
    """
    device = device_of(model)
    if query is not None and not 0 <= query < len(scene):
        raise ValueError(f"query must be the row of one of {len(scene)} points, got {query}")
    check_choice(model, method, layers, heads, query)
    if method in ("similarity", "features_pca"):
        names: list[str | None] = []

        def of_tile(points: Tensor) -> Tensor:
            name, features = point_features(model, points.to(device), layers=layers)
            names.append(name)
            return features.cpu()

        features, _ = scene.blend(tile_points, of_tile)
        found: tuple[PointMap, ...] = (map_of_features(names[0], features, method, query),)
    else:
        if query is None:
            raise ValueError(f"{type(model).__name__} says something of each place: look from one, give the row of one")
        rows = np.arange(len(scene))
        if len(rows) > tile_points:
            rows = column_rows(scene.xyz, query, tile_points)
        own = int(np.searchsorted(rows, query))
        seen = look(
            model, scene.points(rows).to(device),
            method=method, layers=layers, heads=heads, query=own, target=target,
        )  # fmt: skip
        found = tuple(
            dataclasses.replace(one, values=_placed(one.values, rows, len(scene)), query=query) for one in seen.maps
        )
    return PointMaps(scene.xyz.astype(np.float32), found, title, is_room=True)


def _placed(values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """(count,) these values at these rows, 0 elsewhere."""
    placed = np.zeros(count, np.float32)
    placed[rows] = values
    return placed
