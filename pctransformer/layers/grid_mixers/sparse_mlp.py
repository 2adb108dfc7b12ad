"""sMLP, sparse MLP. Tang, Zhao, Wang, Luo, Xie, Zeng, Sparse MLP for Image Recognition: Is Self-Attention Really
Necessary?, 2021, arXiv:2109.05422.

A cell looks along its row and its column instead of at the whole map, with one linear layer for all rows and one for
all columns; after two blocks it has seen everything. What lies around it, a depth-wise convolution tells it first.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from pctransformer.layers.grid_mixers.grid_mixer import ChannelsFirst, GridMixer


class AxisLinear(nn.Module):
    """Every row of a map, or every column, through the same linear layer, each channel by itself.

        axis 1   y[b, o, w, c] = sum_i weight[o, i] x[b, i, w, c] + bias[o]
        axis 2   y[b, h, o, c] = sum_i weight[o, i] x[b, h, i, c] + bias[o]

    Args:
        length: cells along the axis.
        axis: 1 for vertical, along H; 2 for horizontal, along W.
    """

    def __init__(self, length: int, axis: Literal[1, 2]) -> None:
        super().__init__()
        self.axis = axis
        self.weight = nn.Parameter(torch.empty(length, length))
        self.bias = nn.Parameter(torch.empty(length))
        bound = 1 / math.sqrt(length)  # as nn.Linear
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        if self.axis == 1:
            mixed = (self.weight @ x.flatten(2)).view(x.shape)
            return mixed + self.bias[:, None, None].to(mixed.dtype)
        mixed = self.weight @ x
        return mixed + self.bias[:, None].to(mixed.dtype)


class SparseMLP(GridMixer):
    """sMLP(DW(x)), the token mixing module of figure 2 without its residual connection.

        DW(x)   = DWConv3x3(GELU(BN(x)))
        sMLP(x) = fuse(X_H, X_W, X),   X = GELU(BN(x)),   X_H, X_W = linear along H and W of X

    Neither the convolution nor the layer that fuses has a bias.

    Args:
        dim: channels.
        size: (H, W) of the map.
        fusion: how branches are fused: "concat" side by side through a linear layer over channels, as published;
            "sum"; or "weighted", a sum with a learned factor for each channel of each branch, one at the start.
        order: whether X_W is made of X beside X_H, or of X_H behind it, so that one branch goes through both.
        identity: whether X itself is a branch.
        scope: "both"; "global" without the convolution in front; or "local", where another DW stands in place of
            sMLP, which is how networks are made that have sMLP in some stages only. Then any size will do.

    Source: section 3 and figure 3; variants: tables 1 to 4. What stands for a dropped sMLP, and that the factors are
    for each channel, is found from the counts of parameters there.
    """

    def __init__(
        self,
        *,
        dim: int,
        size: tuple[int, int],
        fusion: Literal["concat", "sum", "weighted"] = "concat",
        order: Literal["parallel", "sequential"] = "parallel",
        identity: bool = True,
        scope: Literal["both", "local", "global"] = "both",
    ) -> None:
        super().__init__(dim, None if scope == "local" else size)
        for name, value, known in (
            ("fusion", fusion, ("concat", "sum", "weighted")),
            ("order", order, ("parallel", "sequential")),
            ("scope", scope, ("both", "local", "global")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        self.order, self.identity = order, identity
        self.local = nn.Identity() if scope == "global" else local_mixing(dim)
        self.sparse = scope != "local"
        if not self.sparse:
            self.second = local_mixing(dim)
            return
        self.norm = ChannelsFirst(nn.BatchNorm2d(dim), nn.GELU())
        self.along_height, self.along_width = AxisLinear(size[0], 1), AxisLinear(size[1], 2)
        branches = (2 if order == "parallel" else 1) + identity
        self.fuse = nn.Linear(branches * dim, dim, bias=False) if fusion == "concat" else None
        self.factors = nn.Parameter(torch.ones(branches, dim)) if fusion == "weighted" else None

    def mix(self, x: Tensor) -> Tensor:
        x = self.local(x)
        if not self.sparse:
            return self.second(x)
        x = self.norm(x)
        vertical = self.along_height(x)
        branches = [vertical, self.along_width(x)] if self.order == "parallel" else [self.along_width(vertical)]
        if self.identity:
            branches.append(x)
        if self.fuse is not None:
            return self.fuse(torch.cat(branches, 3))
        together = torch.stack(branches, 3)  # (B, H, W, branches, C)
        return together.sum(3) if self.factors is None else (together * self.factors).sum(3)


def local_mixing(dim: int) -> ChannelsFirst:
    """BatchNorm, GELU, depth-wise convolution of 3 x 3 cells without bias."""
    convolution = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
    return ChannelsFirst(nn.BatchNorm2d(dim), nn.GELU(), convolution)
