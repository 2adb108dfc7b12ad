"""Blocks: token mixers with what surrounds them, and the layers in between that look at single tokens.

A block is a list of halves. Each adds something to the tokens: a `TokenHalf` what a mixer makes of them, a
`ChannelHalf` what a perceptron makes of each by itself. Published blocks differ in the order of halves, in what
normalises in front of them, and in what scales behind; each stands in the file of its mixer.
"""

from __future__ import annotations

from torch import Tensor, nn

from pctransformer.layers.mixers.mixer import Mixer, blank


class TokenHalf(nn.Module):
    """tokens + after(mixer(norm(tokens)))."""

    def __init__(self, mixer: Mixer, norm: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.norm, self.mixer, self.after = norm or nn.Identity(), mixer, after or nn.Identity()

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        return tokens + self.after(self.mixer(self.norm(tokens), valid))


class ChannelHalf(nn.Module):
    """tokens + after(layer(norm(tokens))) with a layer that looks at each token by itself."""

    def __init__(self, layer: nn.Module, norm: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.norm, self.layer, self.after = norm or nn.Identity(), layer, after or nn.Identity()

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        return tokens + self.after(self.layer(self.norm(tokens)))


class Block(nn.Module):
    """Halves one after another, called as a `Mixer` is; zeros come out at padding."""

    def __init__(self, *halves: TokenHalf | ChannelHalf) -> None:
        super().__init__()
        self.halves = nn.ModuleList(halves)

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        for half in self.halves:
            tokens = half(tokens, valid)
        return blank(tokens, valid)


def transformer_block(mixer: Mixer, *, mlp_ratio: float = 4.0) -> Block:
    """A pre-norm transformer's block with any mixer in place of its attention: what mixers are compared in.

    U = X + mixer(LN(X)); Y = U + f4 GELU(f3 LN(U)), with `mlp_ratio * dim` channels between f3 and f4.
    """
    dim = mixer.dim
    return Block(
        TokenHalf(mixer, nn.LayerNorm(dim)),
        ChannelHalf(perceptron(dim, round(mlp_ratio * dim)), nn.LayerNorm(dim)),
    )


def perceptron(dim: int, hidden: int) -> nn.Sequential:
    """Linear, GELU, linear."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
