"""How the maps of a model stack up: which tokens each one is of, from the points up.

Height 0 are the points; what comes out of map i is at height i + 1. A map's queries are at height i + 1, its keys
mostly right below. There are two others. A "skip" brings in tokens from further down, those of the same level on the
way down of a U-net: levels are left and come back to like brackets. And a decoder's queries look at what they were
themselves made of, so that the keys of "context" are below the last layer that made tokens of others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from pctransformer.layers.recording import AttentionMap


@dataclasses.dataclass(frozen=True)
class Heights:
    """What is known of a model's tokens.

    Attributes:
        sizes: how many there are at each height, of all clouds together; one more than there are maps.
        below: of each map, the height of its keys.
    """

    sizes: tuple[int, ...]
    below: tuple[int, ...]


def heights(maps: Sequence[AttentionMap], num_points: int) -> Heights:
    """Stack maps up.

    Args:
        maps: of one call of a model, in the order in which its layers ran.
        num_points: N points of the input, all clouds together.

    Raises:
        ValueError: maps do not fit together.
    """
    sizes, below, made = [num_points], [], []
    for height, found in enumerate(maps):
        keys_at, count = height, sizes[-1]
        if found.keys == "children":
            made.append(height)
            count = len(found)
        elif found.keys == "skip":
            if len(made) < 2:
                raise ValueError(f"{found.layer} comes back to finer tokens, which were never left")
            made.pop()
            keys_at = made.pop()
        elif found.keys == "context":
            if not made:
                raise ValueError(f"{found.layer} attends to another sequence, and maps are followed within one only")
            keys_at = made[-1]
        if found.keys != "memory":
            query, key = found.query_rows(), found.key_rows()
            if (key.numel() and key.max() >= sizes[keys_at]) or (query.numel() and query.max() >= count):
                raise ValueError(
                    f"the map of {found.layer} does not fit the {sizes[keys_at]} tokens below it; maps must be those of"
                    " one call of one model"
                )
        sizes.append(count)
        below.append(keys_at)
    return Heights(tuple(sizes), tuple(below))


def centers(maps: Sequence[AttentionMap], xyz: Tensor) -> list[Tensor]:
    """(T, 3) float64 at each height: where tokens are, in the middle of the points, or finer tokens, they are made of.

    NaN for what is made of nothing: learned tokens, cells of a map where no point is.

    Args:
        maps: see `heights`.
        xyz: (N, 3) the points.
    """
    known = heights(maps, len(xyz))
    found = [xyz.double()]
    for one, size, keys_at in zip(maps, known.sizes[1:], known.below):
        found.append(found[-1])
        if one.keys == "children":
            found[-1] = _middles(one, found[keys_at], size)
        elif one.keys == "skip":
            found[-1] = found[-1].where(~_has_keys(one, size)[:, None], _middles(one, found[keys_at], size))
    return found


def _middles(found: AttentionMap, places: Tensor, size: int) -> Tensor:
    """(size, 3) means of the places of keys that have one, by weights."""
    query, key, weight = found.pairs()
    weight = weight.detach().to(places)
    parts = places.index_select(0, key)
    weight = weight * parts.isfinite().all(1)
    total = places.new_zeros(size).index_add(0, query, weight)
    return places.new_zeros(size, 3).index_add(0, query, parts.nan_to_num() * weight[:, None]) / total[:, None]


def _has_keys(found: AttentionMap, size: int) -> Tensor:
    """(size,) whether a query is in the map."""
    there = torch.zeros(size, dtype=torch.bool, device=found.weights.device)
    return there.index_fill(0, found.pairs()[0], True)
