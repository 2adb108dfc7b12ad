"""gMLP. Liu, Dai, So, Le, Pay Attention to MLPs, 2021, arXiv:2105.08050.

A perceptron on channels whose hidden layer is multiplied by a gate, and the gate looks along the tokens. At the start
the gate is one, so that the block begins as an ordinary feed-forward layer.
"""

from __future__ import annotations

from torch import Tensor, nn

from pctransformer.layers.mixers.mixer import Mixer, blank
from pctransformer.layers.mixers.token_linear import TokenLinear
from pctransformer.layers.residual import Residual
from pctransformer.layers.transformer import EncoderLayer, TokenMixing


class SpatialGate(nn.Module):
    """u * (W LN(v)ᵀ + b)ᵀ with u and v the halves of the channels, W near 0 and b = 1 at the start.

    Args:
        dim: channels of the input; the output has half of them.
        num_tokens: tokens of a patch.
        num_heads: groups of the channels of v with their own W and b; published is one.
    """

    def __init__(self, dim: int, num_tokens: int, num_heads: int = 1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim // 2)
        self.linear = TokenLinear(dim // 2, num_tokens, num_tokens, num_heads)
        nn.init.normal_(self.linear.weight, std=1e-6)
        nn.init.ones_(self.linear.bias)

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """(P, K, C) -> (P, K, C / 2); padding does not enter the gates of other tokens."""
        kept, gate = tokens.chunk(2, 2)
        return kept * self.linear(blank(self.norm(gate), valid))


class GMLP(Mixer):
    """f2 gate(GELU(f1 X)): a perceptron with a `SpatialGate` in its middle.

    Args:
        dim: channels.
        num_tokens: tokens of a patch.
        expansion: width after f1 over dim; half of it enters f2. 2 has about the weights of attention, which it
            stands for; in `gmlp_block`, where it stands for the perceptron too, published is 6.
        num_heads: groups of channels with their own gate weights; published is one.

    Source: section 2 and figure 1.
    """

    def __init__(self, *, dim: int, num_tokens: int, expansion: float = 2.0, num_heads: int = 1) -> None:
        super().__init__(dim, num_tokens)
        hidden = round(expansion * dim)
        if hidden % 2:
            raise ValueError(f"the gate halves the hidden channels, but {expansion} times {dim} is odd, {hidden}")
        self.f1 = nn.Linear(dim, hidden)
        self.activation = nn.GELU()
        self.gate = SpatialGate(hidden, num_tokens, num_heads)
        self.f2 = nn.Linear(hidden // 2, dim)

    def mix(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        return self.f2(self.gate(self.activation(self.f1(tokens)), valid))


def gmlp_block(*, dim: int, num_tokens: int, expansion: float = 6.0, num_heads: int = 1) -> EncoderLayer:
    """X + f2 gate(GELU(f1 LN(X))), the whole block."""
    mixer = GMLP(dim=dim, num_tokens=num_tokens, expansion=expansion, num_heads=num_heads)
    return EncoderLayer(TokenMixing(mixer, Residual(nn.LayerNorm(dim))))
