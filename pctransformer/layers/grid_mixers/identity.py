"""No mixing at all: the floor that every other grid mixer is measured from."""

from __future__ import annotations

from torch import Tensor

from pctransformer.layers.grid_mixers.grid_mixer import GridMixer


class Identity(GridMixer):
    """Every cell receives itself. A network of such blocks sees beyond a cell only where its maps become coarser.

    As token mixer: Yu et al., MetaFormer Baselines for Vision, 2022, arXiv:2210.13452 (IdentityFormer).

    Args:
        dim: channels.
    """

    def __init__(self, *, dim: int) -> None:
        super().__init__(dim)

    def mix(self, x: Tensor) -> Tensor:
        return x
