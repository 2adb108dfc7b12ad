"""Vision Permutator. Hou, Jiang, Yuan, Cheng, Yan, Feng, Vision Permutator: A Permutable MLP-Like Architecture for
Visual Recognition, 2021, arXiv:2106.12368.

Along each axis a linear layer sees whole columns or rows of the map, with some channels of each cell together: of a
segment. What the layers along H, along W and over channels find is summed with weights that the map itself tells.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from pctransformer.layers.grid_mixers.grid_mixer import GridMixer
from pctransformer.layers.mlp import MLP


class SegmentLinear(nn.Module):
    """Cut channels into segments; every column (or row) of a segment, cells and channels together, through one layer.

    Args:
        dim: channels C.
        length: cells along the axis.
        axis: 1 for vertical, along H; 2 for horizontal, along W.
        segments: N, divides dim; the layer has length * dim / N channels in and out.
    """

    def __init__(self, dim: int, length: int, axis: Literal[1, 2], segments: int) -> None:
        super().__init__()
        self.axis, self.segments = axis, segments
        width = length * (dim // segments)
        self.linear = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        columns = x.transpose(1, 2) if self.axis == 1 else x  # (B, lines, L, C)
        parts = columns.unflatten(3, (self.segments, -1)).transpose(2, 3)  # (B, lines, N, L, C / N)
        mixed = self.linear(parts.flatten(3)).view(parts.shape)
        back = mixed.transpose(2, 3).flatten(3)  # (B, lines, L, C)
        return back.transpose(1, 2) if self.axis == 1 else back


class Permutator(GridMixer):
    """Linear layers along H, along W and over channels, summed with weights, then a linear layer.

        X_H, X_W, X_C = layers of X,   a = softmax over the three of MLP(mean over cells of X_H + X_W + X_C)
        out = FC(a_H * X_H + a_W * X_W + a_C * X_C)         weights a are of each channel

    Args:
        dim: channels.
        size: (H, W) of the map.
        segments: parts that channels are cut into along H, and along W; each divides dim. Published is as many as there
            are cells along that axis. None: the divisor of dim that is next to that.

    Source: section 3.1, algorithm 1, and equation 4 (weighted Permute-MLP).
    """

    def __init__(self, *, dim: int, size: tuple[int, int], segments: tuple[int, int] | None = None) -> None:
        super().__init__(dim, size)
        vertical, horizontal = segments or (_divisor(dim, size[0]), _divisor(dim, size[1]))
        if dim % vertical or dim % horizontal:
            raise ValueError(f"{dim} channels do not fall into {vertical} and {horizontal} equal segments")
        self.along_height = SegmentLinear(dim, size[0], 1, vertical)
        self.along_width = SegmentLinear(dim, size[1], 2, horizontal)
        self.channels = nn.Linear(dim, dim, bias=False)
        self.weights = MLP(dim, max(1, dim // 4), out_dim=3 * dim)
        self.out = nn.Linear(dim, dim)

    def mix(self, x: Tensor) -> Tensor:
        branches = torch.stack([self.along_height(x), self.along_width(x), self.channels(x)], 3)  # (B, H, W, 3, C)
        whole = branches.sum(3).mean((1, 2))  # (B, C)
        weights = self.weights(whole).unflatten(1, (3, -1)).softmax(1)[:, None, None]  # (B, 1, 1, 3, C)
        return self.out((weights.type_as(branches) * branches).sum(3))


def _divisor(dim: int, wanted: int) -> int:
    """The divisor of dim next to a number, the smaller of two."""
    return min((n for n in range(1, dim + 1) if dim % n == 0), key=lambda n: (abs(n - wanted), n))
