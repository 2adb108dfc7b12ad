"""Multi-head attention: one layer for dense, padded and packed tokens, of tokens to themselves or to a context."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pctransformer.layers.position import RotaryPosition, WindowBias
from pctransformer.layers.recording import RecordedAttention
from pctransformer.ops import ragged_attention
from pctransformer.points import pad_packed, padded_rows, unpad


class _Layout(NamedTuple):
    """Where the tokens of one call lie, and the keys they attend to."""

    keys: Literal["tokens", "context"]
    valid: Tensor | None = None
    offsets: Tensor | None = None
    key_offsets: Tensor | None = None
    positions: Tensor | None = None
    key_positions: Tensor | None = None
    rows: Tensor | None = None
    """(B, S) rows of tokens that were packed, and are padded to be recorded."""
    key_rows: Tensor | None = None


class MultiHeadAttention(RecordedAttention):
    """Every token becomes a mean of values, weighted by how well its query fits their keys.

        output = [head_1 ... head_H] W_o,   head_h = softmax(q_h k_h^T / sqrt(D)) v_h
        q = x W_q,   k = c W_k,   v = c W_v,   each cut into H heads of D = dim / H channels

    with c = x (self-attention), or c another sequence, the context (cross-attention). Tokens come in one of three
    layouts, and give the same in each:

        dense    x (B, S, C)
        padded   x (B, S, C) and valid (B, S): rows that are not valid are seen by nobody
        packed   x (N, C) and offsets (B + 1,): rows of one sequence see each other

    The mean of a token that sees no key at all is zero. Fused kernels compute it: torch's for dense and padded tokens,
    `ragged_attention` for packed ones. While the layer is recorded it computes the weights themselves.

    Args:
        dim: channels C of tokens, a multiple of num_heads.
        num_heads: H.
        context_dim: channels of the context; None: as many as those of tokens.
        qkv_bias: whether queries, keys and values have a bias; the output always has one.
        causal: token i sees keys 0 to i only, both counted from the start of their sequence.
        rotary: turns queries and keys by where they are.
        window_bias: adds to scores by where both are.

    Source: Vaswani et al., Attention is all you need, 2017, equation 1 and section 3.2.2.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        context_dim: int | None = None,
        qkv_bias: bool = True,
        causal: bool = False,
        rotary: RotaryPosition | None = None,
        window_bias: WindowBias | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got {dim} channels for {num_heads} heads")
        self.num_heads, self.causal = num_heads, causal
        self.query = nn.Linear(dim, dim, bias=qkv_bias)
        self.key_value = nn.Linear(context_dim or dim, 2 * dim, bias=qkv_bias)
        self.out = nn.Linear(dim, dim)
        self.rotary, self.window_bias = rotary, window_bias

    def forward(
        self,
        x: Tensor,
        valid: Tensor | None = None,
        *,
        offsets: Tensor | None = None,
        positions: Tensor | None = None,
        context: Tensor | None = None,
        context_offsets: Tensor | None = None,
        context_positions: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            x: tokens, dense (B, S, C) or packed (N, C).
            valid: for dense tokens, which keys are real: (B, Sk) bool, True = real; or (B, S, Sk), for each token by
                itself. Sk = S without a context.
            offsets: for packed tokens, (B + 1,) int64: sequence b is rows offsets[b]:offsets[b + 1].
            positions: (..., 3) of each token: metres for `rotary`, int32 cells of the window for `window_bias`.
            context: what tokens attend to, in the same layout: (B, Sk, context_dim) or (Nk, context_dim). None: x.
            context_offsets: (B + 1,) int64, with a packed context.
            context_positions: (..., 3) of each row of the context.

        Returns:
            the shape of x.

        Raises:
            ValueError: arguments of different layouts, or positions missing where a position code needs them.
        """
        if context is None:
            context = x
            layout = _Layout("tokens", valid, offsets, offsets, positions, positions)
        else:
            layout = _Layout("context", valid, offsets, context_offsets, positions, context_positions)
        self._check(x, context, layout)

        query = self.query(x).unflatten(-1, (self.num_heads, -1))  # (..., H, D)
        key, value = self.key_value(context).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        if self.rotary is not None:
            query, key = self.rotary(query, layout.positions), self.rotary(key, layout.key_positions)
        attend = self._dense if offsets is None else self._packed
        return self.out(attend(query, key, value, layout).flatten(-2))

    def _dense(self, query: Tensor, key: Tensor, value: Tensor, layout: _Layout) -> Tensor:
        """Heads of dense or padded tokens: (B, Sq, H, D)."""
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)  # (B, H, S, D)
        if layout.valid is None and self.window_bias is None and not self.is_recorded:
            return F.scaled_dot_product_attention(query, key, value, is_causal=self.causal).transpose(1, 2)
        bias, blind = self._score_bias(query, key, layout)

        def weights_of(places: Tensor) -> Tensor:
            """(B, H, q, Sk) of some of the queries."""
            some = [of.index_select(-2, places) if of.dim() > 1 and of.shape[-2] > 1 else of for of in (bias, blind)]
            scores = query.index_select(2, places) @ key.mT / math.sqrt(query.shape[-1]) + some[0]
            return scores.softmax(-1).masked_fill(some[1], 0)

        if self.is_recorded_whole:
            weights = weights_of(torch.arange(query.shape[2], device=query.device))
            self.record(weights, layout.keys, layout.rows, layout.key_rows)
            return (weights @ value).transpose(1, 2)
        if self.is_recorded:
            self.record_blocks(weights_of, query, layout.keys, layout.rows, layout.key_rows)
        heads = F.scaled_dot_product_attention(query, key, value, attn_mask=bias).masked_fill(blind, 0)
        return heads.transpose(1, 2)

    def _packed(self, query: Tensor, key: Tensor, value: Tensor, layout: _Layout) -> Tensor:
        """Heads of packed tokens: (Nq, H, D)."""
        assert layout.offsets is not None
        assert layout.key_offsets is not None
        if not self.is_recorded:
            bias = self.window_bias
            return ragged_attention(
                query, key, value, layout.offsets, layout.key_offsets, causal=self.causal,
                bias_table=None if bias is None else bias.table,
                query_coordinates=None if bias is None else layout.positions,
                key_coordinates=None if bias is None else layout.key_positions,
            )  # fmt: skip
        rows, key_rows = padded_rows(layout.offsets), padded_rows(layout.key_offsets)
        padded = _Layout(
            layout.keys, valid=key_rows >= 0, rows=rows, key_rows=key_rows,
            positions=None if layout.positions is None else pad_packed(layout.positions, rows),
            key_positions=None if layout.key_positions is None else pad_packed(layout.key_positions, key_rows),
        )  # fmt: skip
        query, key, value = pad_packed(query, rows), pad_packed(key, key_rows), pad_packed(value, key_rows)
        return unpad(self._dense(query, key, value, padded), rows)

    def _score_bias(self, query: Tensor, key: Tensor, layout: _Layout) -> tuple[Tensor, Tensor]:
        """What is added to scores (B, H, Sq, Sk), -inf where a query does not see a key, and which queries see no key.

        The latter, (B, 1, Sq, 1) bool, are shown all keys, since a softmax over nothing is not a number: what comes of
        it is to be replaced by zero. Axes along which all is the same may be 1.
        """
        queries, keys = query.shape[2], key.shape[2]
        seen = torch.ones(1, keys, dtype=torch.bool, device=query.device)
        if layout.valid is not None:
            seen = layout.valid[:, None] if layout.valid.dim() == 3 else layout.valid[:, None, None]
        if self.causal:
            seen = seen & torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril()
        blind = ~seen.any(-1, keepdim=True)
        bias = query.new_zeros(())
        if self.window_bias is not None:
            bias = self.window_bias(layout.positions, layout.key_positions).type_as(query)
        return bias.masked_fill(~(seen | blind), -torch.inf), blind

    def _check(self, x: Tensor, context: Tensor, layout: _Layout) -> None:
        valid = layout.valid
        if x.dim() != context.dim() or x.dim() != (3 if layout.offsets is None else 2):
            raise ValueError(
                "tokens are dense (B, S, C), or packed (N, C) with offsets, and their context alike;"
                f" got {tuple(x.shape)}, context {tuple(context.shape)}, {'no' if layout.offsets is None else 'with'}"
                " offsets"
            )
        if layout.offsets is not None and (layout.key_offsets is None or valid is not None):
            raise ValueError("packed tokens need offsets of their context too, and no valid: nothing is padded")
        shapes = [(x.shape[0], context.shape[1]), (x.shape[0], x.shape[1], context.shape[1])]
        if valid is not None and (valid.shape not in shapes or valid.dtype != torch.bool):
            raise ValueError(
                f"valid must be bool, one for each key {shapes[0]} or for each token and key {shapes[1]},"
                f" got {tuple(valid.shape)} {valid.dtype}"
            )
        knows_positions = self.rotary is not None or self.window_bias is not None
        if knows_positions and (layout.positions is None or layout.key_positions is None):
            raise ValueError("this layer knows tokens by their positions: give positions, and those of the context")
