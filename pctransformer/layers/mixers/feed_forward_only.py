"""Feed-forward-only. Melas-Kyriazi, Do You Even Need Attention?, 2021, arXiv:2105.02723.

A vision transformer whose attention became a second feed-forward half, along the tokens, with all that the first has:
its LayerNorm too runs along the tokens. So the norm's weights, like those of the linear layers, belong to places in the
sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pctransformer.layers.mixers.mixer import Mixer, blank
from pctransformer.layers.mixers.token_linear import TokenLinear
from pctransformer.layers.mlp import MLP
from pctransformer.layers.residual import Residual
from pctransformer.layers.transformer import ChannelMixing, EncoderLayer, TokenMixing


class TokenNorm(nn.Module):
    """LayerNorm over the tokens of a patch, each channel by itself, with weights for each place.

    Mean and variance are those of the real tokens; zeros come out at padding. `nn.LayerNorm` on the transposed patch
    where all tokens are real.
    """

    def __init__(self, num_tokens: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_tokens))
        self.bias = nn.Parameter(torch.zeros(num_tokens))

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """(P, K, C) -> (P, K, C); `valid` (P, K) or None."""
        if valid is None:
            return nn.functional.layer_norm(tokens.mT, self.weight.shape, self.weight, self.bias, self.eps).mT
        count = valid.sum(1).clamp(min=1)[:, None, None]  # (P, 1, 1)
        wide = blank(tokens, valid).to(torch.promote_types(tokens.dtype, torch.float32))
        centered = blank(wide - wide.sum(1, keepdim=True) / count, valid)
        variance = centered.square().sum(1, keepdim=True) / count  # (P, 1, C)
        normal = centered * (variance + self.eps).rsqrt()
        return blank(normal * self.weight[:, None] + self.bias[:, None], valid).type_as(tokens)


class FeedForwardOnly(Mixer):
    """(f4 GELU(f3 LN(Xᵀ)))ᵀ: LayerNorm and two linear layers along the tokens.

    Args:
        dim: channels.
        num_tokens: tokens of a patch.
        ratio: width between f3 and f4 over num_tokens.
        num_heads: groups of channels with their own f3 and f4; published is one.

    Source: Guo et al., Can Attention Enable MLPs To Catch Up With CNNs?, 2021, equation 12.
    """

    def __init__(self, *, dim: int, num_tokens: int, ratio: float = 4.0, num_heads: int = 1) -> None:
        super().__init__(dim, num_tokens)
        hidden = round(ratio * num_tokens)
        self.norm = TokenNorm(num_tokens)
        self.f3 = TokenLinear(dim, num_tokens, hidden, num_heads)
        self.f4 = TokenLinear(dim, hidden, num_tokens, num_heads)
        self.activation = nn.GELU()

    def mix(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        return self.f4(self.activation(self.f3(self.norm(tokens, valid))))


def feed_forward_only_block(*, dim: int, num_tokens: int, mlp_ratio: float = 4.0, num_heads: int = 1) -> EncoderLayer:
    """U = X + f2 GELU(f1 LN(X)) on channels, then Y = U + (f4 GELU(f3 LN(Uᵀ)))ᵀ on tokens (equations 11 and 12).

    The same ratio for channels and tokens, as published.
    """
    mixer = FeedForwardOnly(dim=dim, num_tokens=num_tokens, ratio=mlp_ratio, num_heads=num_heads)
    channels = ChannelMixing(MLP(dim, round(mlp_ratio * dim)), Residual(nn.LayerNorm(dim)))
    return EncoderLayer(channels, TokenMixing(mixer, Residual()))
