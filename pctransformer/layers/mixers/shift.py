"""Shift. Wu, Wan, Yue, Jin, Zhao, Golmant, Gholaminejad, Gonzalez, Keutzer, Shift: A Zero FLOP, Zero Parameter
Alternative to Spatial Convolutions, 2018, arXiv:1711.08141.

Groups of channels move by different steps, here along the curve; a linear layer per token then sees neighbours. What a
token sees grows by one step with every block, as with small convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pctransformer.layers.mixers.mixer import Mixer


class Shift(Mixer):
    """Linear(shift(X)): group g of the channels of token k is that of token k - g, with g from -reach to reach.

    Zeros come in at the ends of a patch and where a token is padding. Groups are contiguous; where channels do not fall
    into equal groups, the first ones have one more.

    Args:
        dim: channels, at least one for each of the 2 * reach + 1 groups.
        reach: the largest step.
    """

    def __init__(self, *, dim: int, reach: int = 1) -> None:
        super().__init__(dim)
        if reach < 1 or dim < 2 * reach + 1:
            raise ValueError(f"reach must be at least 1 and {dim} channels at least 2 * reach + 1, got reach={reach}")
        self.reach = reach
        self.linear = nn.Linear(dim, dim)

    def mix(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        length = tokens.shape[1]
        around = nn.functional.pad(tokens, (0, 0, self.reach, self.reach))  # (P, reach + K + reach, C)
        groups = around.tensor_split(2 * self.reach + 1, 2)
        moved = [group[:, 2 * self.reach - i : 2 * self.reach - i + length] for i, group in enumerate(groups)]
        return self.linear(torch.cat(moved, 2))
