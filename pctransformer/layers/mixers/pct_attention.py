"""The attention of PCT. Guo, Cai, Liu, Mu, Martin, Hu, PCT: Point Cloud Transformer, 2021, arXiv:2012.09688.

Weights are normalised twice, over keys and over queries, and what a token received goes through a small layer. In
offset-attention it is the difference between a token and what it received that does: a Laplacian instead of an
adjacency matrix. `pctransformer.models.pct` is the whole network, on clouds of any sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pctransformer.layers.mixers.mixer import Mixer, token_rows
from pctransformer.layers.recording import RecordedAttention
from pctransformer.layers.residual import Residual
from pctransformer.layers.transformer import EncoderLayer, TokenMixing
from pctransformer.points import pad_packed, unpad


def lbr(in_dim: int, out_dim: int, activation: nn.Module | None = None, bias: bool = False) -> nn.Sequential:
    """Linear, BatchNorm, ReLU: the paper's building block."""
    return nn.Sequential(nn.Linear(in_dim, out_dim, bias), nn.BatchNorm1d(out_dim), activation or nn.ReLU())


def double_normalized(query_key: Tensor, valid: Tensor | None = None) -> Tensor:
    """Weights of tied queries and keys, normalised over keys, then over queries.

    With energy e_ij = q_i . k_j (not scaled), a_ij = softmax over j, then b_ij = a_ij / sum_i a_ij. Token j receives
    sum_i b_ij v_i: the weights that token j gives to all others are column j of b and add up to one.

    Args:
        query_key: (B, N, D), both at once.
        valid: (B, N) bool, True where a token is real, or None.

    Returns:
        (B, N, N): [:, j, i] is b_ij.
    """
    energy = query_key @ query_key.mT  # (B, query i, key j)
    if valid is not None:
        energy = energy.masked_fill(~valid[:, None, :], torch.finfo(energy.dtype).min)
    attention = energy.softmax(2)
    if valid is not None:
        attention = attention * valid[:, :, None]
    attention = attention / (1e-9 + attention.sum(1, keepdim=True))
    return attention.mT


class PCTAttention(Mixer, RecordedAttention):
    """LBR(A V): linear, BatchNorm and ReLU of what tokens receive with weights A as in `double_normalized`.

    Statistics of the norm are those of real tokens.

    Args:
        dim: channels, four at least.

    Source: section 3.2 and the normalisation of section 3.3.
    """

    def __init__(self, *, dim: int) -> None:
        super().__init__(dim)
        self.query_key = nn.Linear(dim, dim // 4, bias=False)
        self.value = nn.Linear(dim, dim)
        self.transform = lbr(dim, dim, bias=True)

    def mix(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        weights = double_normalized(self.query_key(tokens), valid)[:, None]  # (P, one head, K, K)
        if self.is_recorded:
            rows = token_rows(valid)
            self.record(weights, query_index=rows, key_index=rows)
        hidden = self.answer(tokens, (weights @ self.value(tokens)[:, None])[:, 0])
        if valid is None:
            return self.transform(hidden.flatten(0, 1)).view_as(tokens)
        packed = torch.where(valid, valid.flatten().cumsum(0).view_as(valid) - 1, -1)  # (P, K) rows among real tokens
        return pad_packed(self.transform(unpad(hidden, packed)), packed)

    def answer(self, tokens: Tensor, received: Tensor) -> Tensor:
        """What goes through the layer."""
        return received


class OffsetAttention(PCTAttention):
    """LBR(X - A V), see `PCTAttention`.

    Source: section 3.3.
    """

    def answer(self, tokens: Tensor, received: Tensor) -> Tensor:
        return tokens - received


def pct_attention_block(*, dim: int) -> EncoderLayer:
    """X + LBR(A V), the whole block: no norm in front, no perceptron behind."""
    return EncoderLayer(TokenMixing(PCTAttention(dim=dim), Residual()))


def offset_attention_block(*, dim: int) -> EncoderLayer:
    """X + LBR(X - A V), the whole block."""
    return EncoderLayer(TokenMixing(OffsetAttention(dim=dim), Residual()))
