"""A linear layer along the tokens of a patch: what MLP-Mixer and its relatives have in place of attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class TokenLinear(nn.Module):
    """Every channel of a patch, a vector over its tokens, through the same linear layer.

        y[p, o, c] = sum_i weight[h(c), o, i] x[p, i, c] + bias[h(c), o]

    With one head, as published, this is `nn.Linear` on the transposed patch. With several, channels fall into as many
    equal groups, c in group h(c), each of which has its own layer: the multi-head form that Guo et al. propose.

    Args:
        dim: channels.
        in_tokens, out_tokens: tokens of a patch before and after.
        num_heads: groups of channels.

    Source: Tolstikhin et al., MLP-Mixer, 2021; heads after Guo et al., Can Attention Enable MLPs To Catch Up With
    CNNs?, 2021, section 4.
    """

    def __init__(self, dim: int, in_tokens: int, out_tokens: int, num_heads: int = 1) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{dim} channels do not fall into {num_heads} equal heads")
        self.num_heads = num_heads
        self.weight = nn.Parameter(torch.empty(num_heads, out_tokens, in_tokens))
        self.bias = nn.Parameter(torch.empty(num_heads, out_tokens))
        bound = 1 / math.sqrt(in_tokens)  # as nn.Linear
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, tokens: Tensor) -> Tensor:
        """(P, in_tokens, C) -> (P, out_tokens, C)."""
        heads = tokens.unflatten(2, (self.num_heads, -1))  # (P, K, H, C / H)
        mixed = torch.einsum("hoi,pihc->pohc", self.weight, heads)
        return (mixed + self.bias.T[..., None].to(mixed.dtype)).flatten(2)
