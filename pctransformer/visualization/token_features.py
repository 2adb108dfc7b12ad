"""Features of a model's tokens with their places: caught on their way while the model runs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pctransformer.layers.deformable import MapLevels
from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap, VoxelBatch

HEAD = "what the head gets"
_FEWEST = 4  # tokens, of which a map can be made


@dataclasses.dataclass(frozen=True, eq=False)
class TokenFeatures:
    """Tokens of one cloud.

    Attributes:
        given: what the model went on with, in its own layout: it has a gradient where the model's output has one.
        rows: from that layout to (T, C).
        xyz: (T, 3) where tokens are.
        is_flat: whether these are cells of a map, which have a place from above alone: their z is 0.
    """

    given: Tensor
    rows: Callable[[Tensor], Tensor]
    xyz: Tensor
    is_flat: bool = False

    @property
    def features(self) -> Tensor:
        """(T, C)."""
        return self.rows(self.given)

    def __len__(self) -> int:
        return len(self.xyz)


@contextlib.contextmanager
def token_features(model: nn.Module) -> Iterator[dict[str, TokenFeatures]]:
    """Catch the tokens that go from part to part of a model while the block runs, of one cloud.

    Args:
        model: a classifier, segmenter or detector.

    Yields:
        tokens by the name of the layer that gave them, in the order in which layers ran, and as the last one `HEAD`:
        of what layers give, those that are a PointBatch, VoxelBatch, BevMap or MapLevels, also in tuples. A class token
        in front is left out.
    """
    found: dict[str, TokenFeatures] = {}
    reduce = getattr(getattr(model, "head", None), "reduce", "")
    skip = 1 if isinstance(reduce, str) and reduce.startswith("first") else 0

    def keep(name: str, given: Any) -> None:
        for one in given if isinstance(given, (tuple, list)) else [given]:
            tokens = _tokens(getattr(one, "points", one))
            if tokens is not None:
                found.pop(name, None)
                found[name] = tokens

    def keep_for_head(_: nn.Module, given: tuple[Any, ...]) -> None:
        keep(HEAD, given)
        if skip and HEAD in found:
            found[HEAD] = TokenFeatures(found[HEAD].given, lambda given: given[skip:], found[HEAD].xyz[skip:])

    hooks = [
        layer.register_forward_hook(lambda _, __, out, name=name: keep(name, out))
        for name, layer in model.named_modules()
        if name
    ]
    head = getattr(model, "head", None)
    if isinstance(head, nn.Module):
        hooks.append(head.register_forward_pre_hook(keep_for_head))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def chosen_tokens(found: dict[str, TokenFeatures], layer: str | None) -> tuple[str, TokenFeatures]:
    """Tokens of one layer and its name; of None those that the head gets, or the last ones before that are several.

    Raises:
        ValueError: there is no such layer among them, or none has several tokens.
    """
    several = [name for name, tokens in found.items() if len(tokens) >= _FEWEST]
    if layer is not None:
        if layer not in several:
            raise ValueError(f"no layer called {layer} gives tokens with places; there are {', '.join(several)}")
        return layer, found[layer]
    if not several:
        raise ValueError(f"no layer of the model gives at least {_FEWEST} tokens with places")
    name = HEAD if HEAD in several else several[-1]
    return name, found[name]


def _tokens(given: Any) -> TokenFeatures | None:
    if isinstance(given, PointBatch) and given.features is not None:
        return TokenFeatures(given.features, _as_it_is, given.xyz.detach())
    if isinstance(given, VoxelBatch):
        return TokenFeatures(given.features, _as_it_is, given.centers)
    if isinstance(given, BevMap):
        grid, (_, _, ny, nx) = given.grid.flattened(), given.features.shape
        cells = torch.cartesian_prod(*(torch.arange(n, device=given.device) for n in (1, ny, nx)))
        return TokenFeatures(given.features, lambda of: of[0].flatten(1).T, _flat(grid.centers(cells)), is_flat=True)
    if isinstance(given, MapLevels):
        return TokenFeatures(given.cells, lambda of: of[0], _flat(given.centers()), is_flat=True)
    return None


def _as_it_is(given: Tensor) -> Tensor:
    return given


def _flat(xyz: Tensor) -> Tensor:
    return xyz * xyz.new_tensor([1, 1, 0])
