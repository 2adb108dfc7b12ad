"""Transformer layers, and stacks of them.

    tokens          -> Encoder: (mixer, perceptron) x depth, norm
    tokens, memory  -> Decoder: (self-attention, attention to the memory, perceptron) x depth, norm

Each part of a layer adds something to the tokens: `Residual`. In place of attention an encoder layer takes any token
mixer, and its parts in any order. Tokens are dense, padded or packed, as in `MultiHeadAttention`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as checkpointed

from pctransformer.layers.attention import MultiHeadAttention
from pctransformer.layers.mlp import MLP
from pctransformer.layers.recording import RecordedLayer, is_recorded
from pctransformer.layers.residual import LayerScale, Residual


class TokenMixing(nn.Module):
    """The part of a layer that looks across tokens.

    Args:
        mixer: tokens -> tokens: a `MultiHeadAttention`, one of `layers.mixers` or of `layers.grid_mixers`. It is given
            `valid`, `offsets` and `positions` where there are any.
        residual: what is around it.
    """

    def __init__(self, mixer: nn.Module, residual: Residual) -> None:
        super().__init__()
        self.mixer, self.residual = mixer, residual

    def forward(
        self, x: Tensor, valid: Tensor | None = None, *, offsets: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """All arguments are those of `EncoderLayer`."""
        where = _given(valid=valid, offsets=offsets, positions=positions)
        return self.residual(x, lambda x: self.mixer(x, **where), offsets)


class ChannelMixing(nn.Module):
    """The part of a layer that looks at each token by itself.

    Args:
        mlp: tokens -> tokens.
        residual: what is around it.
    """

    def __init__(self, mlp: nn.Module, residual: Residual) -> None:
        super().__init__()
        self.mlp, self.residual = mlp, residual

    def forward(
        self, x: Tensor, valid: Tensor | None = None, *, offsets: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """All arguments are those of `EncoderLayer`; what other tokens are does not matter."""
        return self.residual(x, self.mlp, offsets)


class EncoderLayer(nn.Module):
    """Parts one after another, each of which adds something to the tokens.

    Most have one that looks across tokens, then one that looks at each by itself. Published layers differ in the order
    of parts and in what is around each, and some have one part only: `layers.mixers` has them.

    What comes out at padding means nothing, and reaches no real token in later layers.

    Args:
        parts: in the order in which tokens pass them.

    Source: Vaswani et al., 2017, section 3.1; with other mixers Yu et al., MetaFormer is actually what you need for
    vision, 2022.
    """

    def __init__(self, *parts: TokenMixing | ChannelMixing) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(
        self, x: Tensor, valid: Tensor | None = None, *, offsets: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            x: tokens, dense (B, S, C) or packed (N, C); for grid mixers a map (B, H, W, C).
            valid, offsets, positions: see `MultiHeadAttention`. Other mixers know `valid` alone, grid mixers none.
        """
        for part in self.parts:
            x = part(x, valid, offsets=offsets, positions=positions)
        return x


class DecoderLayer(nn.Module):
    """Tokens look at each other, then at a memory, then each at itself.

    Args:
        self_attention: causal where tokens are predicted one after another; not causal for object queries.
        cross_attention: its context is the memory.
        mlp: tokens -> tokens.
        residual: makes the `Residual` around each of them.

    Source: Vaswani et al., 2017, section 3.1.
    """

    def __init__(
        self,
        self_attention: MultiHeadAttention,
        cross_attention: MultiHeadAttention,
        mlp: nn.Module,
        residual: Callable[[], Residual],
    ) -> None:
        super().__init__()
        self.self_attention, self.self_residual = self_attention, residual()
        self.cross_attention, self.cross_residual = cross_attention, residual()
        self.mlp, self.mlp_residual = mlp, residual()

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        valid: Tensor | None = None,
        memory_valid: Tensor | None = None,
        *,
        offsets: Tensor | None = None,
        memory_offsets: Tensor | None = None,
        positions: Tensor | None = None,
        memory_positions: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            x: tokens, dense (B, S, C) or packed (N, C).
            memory: dense (B, Sm, Cm) or packed (Nm, Cm).
            valid, offsets, positions: of x, see `MultiHeadAttention`.
            memory_valid, memory_offsets, memory_positions: of the memory.
        """

        def look_at_memory(x: Tensor) -> Tensor:
            return self.cross_attention(
                x, memory_valid, offsets=offsets, positions=positions,
                context=memory, context_offsets=memory_offsets, context_positions=memory_positions,
            )  # fmt: skip

        x = self.self_residual(
            x, lambda x: self.self_attention(x, valid, offsets=offsets, positions=positions), offsets
        )
        x = self.cross_residual(x, look_at_memory, offsets)
        return self.mlp_residual(x, self.mlp, offsets)


class Encoder(nn.Module):
    """Layers one after another.

    Args:
        layers: `EncoderLayer`s, or other layers that are called alike.
        norm: behind the last layer; pre-norm layers want one. None: there is none.
        checkpoint: in training, store what goes into each layer only, and compute the layer again in the backward
            pass: memory for time.
    """

    def __init__(self, layers: Iterable[nn.Module], norm: nn.Module | None = None, *, checkpoint: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm or nn.Identity()
        self.checkpoint = checkpoint

    def forward(
        self,
        x: Tensor,
        valid: Tensor | None = None,
        *,
        offsets: Tensor | None = None,
        positions: Tensor | None = None,
        code: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            x: tokens, dense (B, S, C) or packed (N, C).
            valid, offsets, positions: see `MultiHeadAttention`. Other mixers know `valid` alone.
            code: position code that is added in front of every layer, as in Point-BERT and Point-MAE. One that is added
                once is added by the caller.
        """
        where = _given(offsets=offsets, positions=positions)
        for layer in self.layers:
            x = _run(layer, self.checkpoint, x if code is None else x + code, valid, **where)
        return self.norm(x)


class Decoder(nn.Module):
    """Layers one after another, each of which looks at the same memory.

    Args:
        layers: `DecoderLayer`s.
        norm, checkpoint: as in `Encoder`.
    """

    def __init__(self, layers: Iterable[nn.Module], norm: nn.Module | None = None, *, checkpoint: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm or nn.Identity()
        self.checkpoint = checkpoint

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        valid: Tensor | None = None,
        memory_valid: Tensor | None = None,
        *,
        offsets: Tensor | None = None,
        memory_offsets: Tensor | None = None,
        positions: Tensor | None = None,
        memory_positions: Tensor | None = None,
    ) -> Tensor:
        """All arguments are those of `DecoderLayer`."""
        where = _given(
            offsets=offsets, memory_offsets=memory_offsets, positions=positions, memory_positions=memory_positions
        )
        for layer in self.layers:
            x = _run(layer, self.checkpoint, x, memory, valid, memory_valid, **where)
        return self.norm(x)


class Transformer(nn.Module):
    """The encoder-decoder: what the encoder makes of the source is the decoder's memory.

    Source: Vaswani et al., 2017, figure 1, without embeddings and the layer behind.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_valid: Tensor | None = None,
        target_valid: Tensor | None = None,
    ) -> Tensor:
        """(B, St, C) from source (B, Ss, C) and target (B, St, C), with their positions already added."""
        memory = self.encoder(source, source_valid)
        return self.decoder(target, memory, target_valid, source_valid)


class ClassToken(RecordedLayer):
    """A learned token in front of each sequence, with a learned code in place of a position: what gathers the whole.

    Source: Devlin et al., BERT, 2018; Dosovitskiy et al., An image is worth 16x16 words, 2021, equation 1.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.token, self.code = nn.Parameter(torch.empty(dim)), nn.Parameter(torch.empty(dim))
        nn.init.trunc_normal_(self.token, std=0.02)
        nn.init.trunc_normal_(self.code, std=0.02)

    def forward(self, x: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and their codes (B, 1 + S, C) from tokens and their codes (B, S, C)."""
        if self.is_recorded:
            each_from_itself = torch.eye(x.shape[1], device=x.device).expand(x.shape[0], 1, -1, -1)
            self.record(nn.functional.pad(each_from_itself, (0, 0, 1, 0)), "children")  # (B, 1, 1 + S, S)
        return _in_front(self.token, x), _in_front(self.code, code)


# ---- sizes -----------------------------------------------------------------------------------------------------------
def pre_norm_layer(
    mixer: nn.Module,
    dim: int,
    *,
    mlp_ratio: float = 4.0,
    norm: Callable[[int], nn.Module] = nn.LayerNorm,
    drop_path: float = 0.0,
    layer_scale: float | None = None,
) -> EncoderLayer:
    """The layer of vision transformers, with attention or any token mixer: U = X + mixer(LN(X)), Y = U + MLP(LN(U)).

    Args:
        mixer: see `TokenMixing`.
        dim: channels.
        mlp_ratio: channels between the layers of the perceptron, over dim.
        norm: makes a norm for so many channels.
        drop_path: share of sequences that each part leaves as they are, in training.
        layer_scale: where the factors of a `LayerScale` behind each part start; None: there is none.

    Source: Dosovitskiy et al., 2021, equations 2 and 3.
    """

    def residual() -> Residual:
        scale = None if layer_scale is None else LayerScale(dim, layer_scale)
        return Residual(norm(dim), scale=scale, drop_path=drop_path)

    return EncoderLayer(TokenMixing(mixer, residual()), ChannelMixing(MLP(dim, round(mlp_ratio * dim)), residual()))


def pre_norm_encoder(
    dim: int,
    *,
    depth: int,
    num_heads: int,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    causal: bool = False,
    drop_path: float = 0.0,
    layer_scale: float | None = None,
    norm: Callable[[int], nn.Module] = nn.LayerNorm,
    checkpoint: bool = False,
) -> Encoder:
    """The encoder of vision transformers: attention and perceptron with a norm in front of each, and one at the end.

    Args:
        dim: channels.
        depth: layers.
        num_heads: heads of each attention layer.
        qkv_bias, causal: of attention.
        drop_path: share of sequences that the last layer leaves as they are; the first leaves none, those between
            follow a straight line.
        mlp_ratio, layer_scale, norm: see `pre_norm_layer`.
        checkpoint: see `Encoder`.

    Source: Dosovitskiy et al., 2021, equations 2 to 4; drop path after Touvron et al., DeiT, 2021.
    """

    def layer(share: float) -> EncoderLayer:
        attention = MultiHeadAttention(dim, num_heads, qkv_bias=qkv_bias, causal=causal)
        return pre_norm_layer(attention, dim, mlp_ratio=mlp_ratio, norm=norm, drop_path=share, layer_scale=layer_scale)

    shares = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
    return Encoder(map(layer, shares), norm(dim), checkpoint=checkpoint)


def base_transformer(
    dim: int = 512, *, depth: int = 6, num_heads: int = 8, hidden_dim: int = 2048, dropout: float = 0.1
) -> Transformer:
    """The encoder-decoder of Vaswani et al., 2017, table 3, row "base": post-norm, ReLU, a causal decoder."""

    def mlp() -> MLP:
        return MLP(dim, hidden_dim, activation=nn.ReLU)

    def residual() -> Residual:
        return Residual(nn.LayerNorm(dim), norm_first=False, dropout=dropout)

    def attention(causal: bool = False) -> MultiHeadAttention:
        return MultiHeadAttention(dim, num_heads, causal=causal)

    def encoder_layer() -> EncoderLayer:
        return EncoderLayer(TokenMixing(attention(), residual()), ChannelMixing(mlp(), residual()))

    encoder = Encoder(encoder_layer() for _ in range(depth))
    decoder = Decoder(DecoderLayer(attention(causal=True), attention(), mlp(), residual) for _ in range(depth))
    return Transformer(encoder, decoder)


def init_weights(module: nn.Module) -> None:
    """Linear layers as in vision transformers, for `model.apply`: weights from a narrow normal distribution, no bias.

    Source: Dosovitskiy et al., 2021, authors' code; standard deviation 0.02 since Radford et al., GPT, 2018.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# ---- below the contract ----------------------------------------------------------------------------------------------
def _given(**arguments: Tensor | None) -> dict[str, Any]:
    """Those that are there: layers that do not know the others can then be called with what they know."""
    return {name: value for name, value in arguments.items() if value is not None}


def _run(layer: nn.Module, store_inputs_only: bool, *inputs: Any, **where: Any) -> Tensor:
    """A layer's output, computed again in the backward pass where that is asked for.

    Not while it is recorded: a layer that takes another path the second time cannot be checkpointed.
    """
    if store_inputs_only and torch.is_grad_enabled() and not is_recorded(layer):
        return checkpointed(layer, *inputs, use_reentrant=False, **where)
    return layer(*inputs, **where)


def _in_front(row: Tensor, x: Tensor) -> Tensor:
    """(B, 1 + S, C) from a row (C,) and x (B, S, C)."""
    return torch.cat([row.expand(x.shape[0], 1, -1).type_as(x), x], 1)
