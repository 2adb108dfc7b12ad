"""ResMLP. Touvron, Bojanowski, Caron, Cord, El-Nouby, Grave, Izacard, Joulin, Synnaeve, Verbeek, Jégou, 2021,
arXiv:2105.03404.

One linear layer along the tokens, and in place of LayerNorm an affine layer that takes no statistics of its input. So
in inference all affine layers go into the linear ones: `fold`.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pctransformer.layers.mixers.mixer import Mixer
from pctransformer.layers.mixers.token_linear import TokenLinear
from pctransformer.layers.mlp import MLP
from pctransformer.layers.residual import Residual
from pctransformer.layers.transformer import ChannelMixing, EncoderLayer, TokenMixing


class Affine(nn.Module):
    """Aff(x) = alpha * x + beta, per channel; alpha is `scale` at the start and beta 0."""

    def __init__(self, dim: int, scale: float = 1.0) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((dim,), scale))
        self.beta = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * x + self.beta


class ResMLP(Mixer):
    """(A Xᵀ)ᵀ + b: one linear layer along the tokens.

    Args:
        dim: channels.
        num_tokens: tokens of a patch.
        num_heads: groups of channels with their own A and b; published is one.

    Source: equation 2 without its affine layers, which are part of `resmlp_block`.
    """

    def __init__(self, *, dim: int, num_tokens: int, num_heads: int = 1) -> None:
        super().__init__(dim, num_tokens)
        self.linear = TokenLinear(dim, num_tokens, num_tokens, num_heads)

    def mix(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        return self.linear(tokens)


def resmlp_block(
    *, dim: int, num_tokens: int, mlp_ratio: float = 4.0, initial_scale: float = 0.1, num_heads: int = 1
) -> EncoderLayer:
    """U = X + Aff(f1(Aff(X)ᵀ)ᵀ), then Y = U + Aff(f3 GELU(f2 Aff(U))).

    Args:
        dim: channels.
        num_tokens: tokens of a patch.
        mlp_ratio: width between f2 and f3 over dim.
        initial_scale: alpha of the two later affine layers at the start; the deeper the network, the smaller: 0.1 up
            to 18 blocks, 1e-5 for 24, 1e-6 for more.
        num_heads: see `ResMLP`.

    Source: equations 1 to 3; initial scales from section 2 and those of CaiT that it follows.
    """

    def residual() -> Residual:
        return Residual(Affine(dim), scale=Affine(dim, initial_scale))

    mixer = ResMLP(dim=dim, num_tokens=num_tokens, num_heads=num_heads)
    return EncoderLayer(TokenMixing(mixer, residual()), ChannelMixing(MLP(dim, round(mlp_ratio * dim)), residual()))


class FoldedResMLP(Mixer):
    """Aff'(A Aff(X)ᵀ + b)ᵀ as one linear layer along the tokens, a scale per channel and a bias per place and channel.

    With Aff' = (alpha', beta') behind and Aff = (alpha, beta) in front:

        y[s, c] = (alpha'_c alpha_c) sum_t A[s, t] x[t, c] + (alpha'_c beta_c sum_t A[s, t] + alpha'_c b_s + beta'_c)

    The sums run over real tokens, so that with padding the bias loses what missing tokens would have added to it.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor
    share: Tensor

    def __init__(self, mixer: ResMLP, norm: Affine, after: Affine) -> None:
        super().__init__(mixer.dim, mixer.num_tokens)
        linear, heads = mixer.linear, mixer.linear.num_heads
        per_head = mixer.dim // heads
        share = after.alpha * norm.beta  # (C,) what a token adds per unit of weight whatever its content
        total = linear.weight.sum(2).T.repeat_interleave(per_head, 1)  # (K, C)
        bias = share * total + after.alpha * linear.bias.T.repeat_interleave(per_head, 1) + after.beta
        self.register_buffer("weight", linear.weight.detach().clone())
        self.register_buffer("scale", (after.alpha * norm.alpha).detach())
        self.register_buffer("bias", bias.detach())
        self.register_buffer("share", share.detach())

    def mix(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        x = tokens * self.scale
        if valid is not None:
            x = x - self.share * ~valid[..., None]  # the bias holds a share of every token; padding takes it back
        heads = x.unflatten(2, (self.weight.shape[0], -1))  # (P, K, H, C / H)
        return torch.einsum("hoi,pihc->pohc", self.weight, heads).flatten(2) + self.bias


def fold(block: EncoderLayer) -> EncoderLayer:
    """A `resmlp_block` for inference, without affine layers: equal results, a new block with weights of its own.

    The mixer becomes `FoldedResMLP`; in the perceptron the affine layers go into the linear layers beside them. For all
    blocks of a model: `model.encoder.layers = nn.ModuleList(map(fold, model.encoder.layers))`.

    Raises:
        ValueError: not a block made by `resmlp_block`.
    """
    match list(block.parts):
        case [
            TokenMixing(mixer=ResMLP() as mixer, residual=Residual(norm=Affine() as norm, scale=Affine() as after)),
            ChannelMixing(mlp=MLP() as mlp, residual=Residual(norm=Affine() as before, scale=Affine() as behind)),
        ]:
            pass
        case _:
            raise ValueError("only blocks made by resmlp_block can be folded, this one has other parts or norms")
    folded = copy.deepcopy(mlp)
    with torch.no_grad():
        folded.fc1.bias.add_(mlp.fc1.weight @ before.beta)
        folded.fc1.weight.mul_(before.alpha)
        folded.fc2.weight.mul_(behind.alpha[:, None])
        folded.fc2.bias.copy_(behind(mlp.fc2.bias))
    tokens = TokenMixing(FoldedResMLP(mixer, norm, after), Residual())
    return EncoderLayer(tokens, ChannelMixing(folded, Residual())).requires_grad_(False).eval()
