"""MLP-Mixer. Tolstikhin, Houlsby, Kolesnikov, Beyer, Zhai, Unterthiner, Yung, Steiner, Keysers, Uszkoreit, Lucic,
Dosovitskiy, 2021, arXiv:2105.01601.

Two layers along the tokens where a transformer has attention: weights that do not depend on the input, and belong to
places in the sequence.
"""

from __future__ import annotations

from torch import Tensor, nn

from pctransformer.layers.mixers.mixer import Mixer
from pctransformer.layers.mixers.token_linear import TokenLinear


class MLPMixer(Mixer):
    """(f2 GELU(f1 Xᵀ))ᵀ: two linear layers along the tokens, the same for all channels of a head.

    `pre_norm_layer` around it is the published block.

    Args:
        dim: channels.
        num_tokens: tokens of a patch.
        hidden_tokens: width between f1 and f2; None is dim / 2, which the published sizes have.
        num_heads: groups of channels with their own f1 and f2; published is one.

    Source: equation 1, first line.
    """

    def __init__(self, *, dim: int, num_tokens: int, hidden_tokens: int | None = None, num_heads: int = 1) -> None:
        super().__init__(dim, num_tokens)
        hidden_tokens = hidden_tokens or dim // 2
        self.f1 = TokenLinear(dim, num_tokens, hidden_tokens, num_heads)
        self.f2 = TokenLinear(dim, hidden_tokens, num_tokens, num_heads)
        self.activation = nn.GELU()

    def mix(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        return self.f2(self.activation(self.f1(tokens)))
