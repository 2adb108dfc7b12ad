"""Self-attention, the mixer that the others are measured against. Vaswani et al., Attention is all you need, 2017."""

from __future__ import annotations

from torch import Tensor

from pctransformer.layers.attention import MultiHeadAttention
from pctransformer.layers.mixers.mixer import Mixer


class SelfAttention(Mixer):
    """`MultiHeadAttention` of the tokens of a patch to each other.

    `pre_norm_layer` around it is the block of ViT.

    Args:
        dim: channels.
        num_heads: divides dim; None: one for each 64 channels, as in ViT, but one at least.
    """

    def __init__(self, *, dim: int, num_heads: int | None = None) -> None:
        super().__init__(dim)
        self.attention = MultiHeadAttention(dim, num_heads or max(1, dim // 64))

    def mix(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        return self.attention(tokens, valid)
