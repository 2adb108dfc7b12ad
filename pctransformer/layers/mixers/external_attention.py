"""External attention. Guo, Liu, Mu, Hu, Beyond Self-attention: External Attention using Two Linear Layers for Visual
Tasks, 2021, arXiv:2105.02358.

Tokens attend to a few learnt memory slots, which all clouds share, instead of to each other. They meet in the
normalisation alone: a softmax over the tokens makes them compete for each slot, then each token's weights are divided
by their sum.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pctransformer.layers.mixers.mixer import Mixer, token_rows
from pctransformer.layers.recording import RecordedAttention


def softmax_then_l1(energy: Tensor, valid: Tensor | None) -> Tensor:
    """Softmax over tokens, then L1 over slots; rows of padding are zeros.

    Args:
        energy: (P, H, K, slots).
        valid: (P, K) or None; padding has no part in the softmax.
    """
    if valid is not None:
        padding = ~valid[:, None, :, None]
        # a finite value: a patch without any real token must not become NaN
        energy = energy.masked_fill(padding, torch.finfo(energy.dtype).min)
    attention = energy.softmax(2)
    if valid is not None:
        attention = attention.masked_fill(padding, 0)
    return attention / (1e-9 + attention.sum(3, keepdim=True))


class ExternalAttention(Mixer, RecordedAttention):
    """A = Norm(F M_kᵀ), out = A M_v with memories M_k, M_v of `slots` rows and Norm as in `softmax_then_l1`.

    Args:
        dim: channels.
        slots: rows of the memories.

    Source: Guo et al., Can Attention Enable MLPs To Catch Up With CNNs?, 2021, equations 7 to 9; 64 slots from the
    paper of the head of this file.
    """

    def __init__(self, *, dim: int, slots: int = 64) -> None:
        super().__init__(dim)
        self.key = nn.Linear(dim, slots, bias=False)
        self.value = nn.Linear(slots, dim, bias=False)

    def mix(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        attention = softmax_then_l1(self.key(tokens)[:, None], valid)  # (P, 1, K, slots)
        if self.is_recorded:
            self.record(attention, "memory", query_index=token_rows(valid))
        return self.value(attention[:, 0])


class MultiHeadExternalAttention(Mixer, RecordedAttention):
    """External attention in each head, between two linear layers; the heads share their memories.

    The mixer of EAMLP. Channels are first widened, so that there are `expansion` times as many heads as `num_heads`
    says, with dim / num_heads channels each.

    Args:
        dim: channels.
        num_heads: heads before widening; divides dim.
        slots: rows of the memories.
        expansion: how much wider the heads together are than dim; the authors' code has 4.

    Source: algorithm 2 of the paper; in one head, `ExternalAttention`.
    """

    def __init__(self, *, dim: int, num_heads: int = 8, slots: int = 64, expansion: int = 4) -> None:
        super().__init__(dim)
        if dim % num_heads:
            raise ValueError(f"{dim} channels do not fall into {num_heads} equal heads")
        self.num_heads = num_heads * expansion
        self.query = nn.Linear(dim, dim * expansion)
        self.key = nn.Linear(dim // num_heads, slots, bias=False)
        self.value = nn.Linear(slots, dim // num_heads, bias=False)
        self.project = nn.Linear(dim * expansion, dim)

    def mix(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        heads = self.query(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (P, H, K, C')
        attention = softmax_then_l1(self.key(heads), valid)  # (P, H, K, slots)
        if self.is_recorded:
            self.record(attention, "memory", query_index=token_rows(valid))
        return self.project(self.value(attention).transpose(1, 2).flatten(2))
