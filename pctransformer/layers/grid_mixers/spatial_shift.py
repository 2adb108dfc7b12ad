"""Shifts on a map: groups of channels move to neighbouring cells, and linear layers for each cell do the rest.

S2-MLP: Yu, Li, Cai, Sun, Li, S2-MLP: Spatial-Shift MLP Architecture for Vision, 2021, arXiv:2106.07477.
AS-MLP: Lian, Yu, Sun, Gao, AS-MLP: An Axial Shifted MLP Architecture for Vision, 2021, arXiv:2107.08391.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pctransformer.layers.grid_mixers.grid_mixer import ChannelsFirst, GridMixer


class SpatialShift(GridMixer):
    """fc2(shift(GELU(fc1(x)))): a quarter of the channels moves one cell down, up, right and left each.

    Cells at the side that channels move away from keep their own, as published.

    Args:
        dim: channels, at least 4.

    Source: S2-MLP, section 3.3 and algorithm 1.
    """

    def __init__(self, *, dim: int) -> None:
        super().__init__(dim)
        if dim < 4:
            raise ValueError(f"four groups of channels move, so there must be 4 at least, got {dim}")
        self.fc1 = nn.Linear(dim, dim)
        self.activation = nn.GELU()
        self.fc2 = nn.Linear(dim, dim)

    def mix(self, x: Tensor) -> Tensor:
        down, up, right, left = self.activation(self.fc1(x)).tensor_split(4, 3)
        moved = [
            torch.cat([down[:, :1], down[:, :-1]], 1),
            torch.cat([up[:, 1:], up[:, -1:]], 1),
            torch.cat([right[:, :, :1], right[:, :, :-1]], 2),
            torch.cat([left[:, :, 1:], left[:, :, -1:]], 2),
        ]
        return self.fc2(torch.cat(moved, 3))


class AxialShift(GridMixer):
    """Two branches, in which channels move by different steps along a row or along a column, summed.

        z = GELU(norm(fc_in(x))),   y = GELU(fc_h(shift_H(z))) + GELU(fc_w(shift_W(z))),   out = fc_out(norm(y))

    Group g of the channels of a cell is that of the cell g steps before, with g from -reach to reach; zeros come in
    from beyond the map. Norms run over the whole map, as in public code.

    Args:
        dim: channels, at least one for each of the 2 * reach + 1 groups.
        reach: the largest step; 2 is published, shift size 5.

    Source: AS-MLP, section 3.2 and figure 2.
    """

    def __init__(self, *, dim: int, reach: int = 2) -> None:
        super().__init__(dim)
        if reach < 1 or dim < 2 * reach + 1:
            raise ValueError(f"reach must be at least 1 and {dim} channels at least 2 * reach + 1, got reach={reach}")
        self.reach = reach
        self.fc_in, self.norm_in = nn.Linear(dim, dim), ChannelsFirst(nn.GroupNorm(1, dim))
        self.vertical, self.horizontal = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm_out, self.fc_out = ChannelsFirst(nn.GroupNorm(1, dim)), nn.Linear(dim, dim)
        self.activation = nn.GELU()

    def mix(self, x: Tensor) -> Tensor:
        x = self.activation(self.norm_in(self.fc_in(x)))
        vertical = self.activation(self.vertical(self._shifted(x, 1)))
        horizontal = self.activation(self.horizontal(self._shifted(x, 2)))
        return self.fc_out(self.norm_out(vertical + horizontal))

    def _shifted(self, x: Tensor, axis: int) -> Tensor:
        reach, length = self.reach, x.shape[axis]
        sides = (0, 0, 0, 0, reach, reach) if axis == 1 else (0, 0, reach, reach)
        groups = nn.functional.pad(x, sides).tensor_split(2 * reach + 1, 3)
        return torch.cat([group.narrow(axis, 2 * reach - i, length) for i, group in enumerate(groups)], 3)
