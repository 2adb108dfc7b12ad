"""The mean of all tokens: the least that mixing can be, a floor under every comparison."""

from __future__ import annotations

import torch
from torch import Tensor

from pctransformer.layers.mixers.mixer import Mixer, token_rows
from pctransformer.layers.recording import RecordedAttention


class MeanPool(Mixer, RecordedAttention):
    """Every token receives the mean over the real tokens of its patch. No weights, no notion of place.

    Pooling as a mixer: after Yu et al., MetaFormer Is Actually What You Need for Vision, 2022, arXiv:2111.11418, which
    pools around each token.

    Args:
        dim: channels.
    """

    def __init__(self, *, dim: int) -> None:
        super().__init__(dim)

    def mix(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        real = torch.ones_like(tokens[..., 0], dtype=torch.bool) if valid is None else valid
        count = real.sum(1)[:, None, None].clamp(min=1)
        if self.is_recorded:
            shares = (real[:, None, None] / count[..., None]).expand(-1, -1, tokens.shape[1], -1)  # (P, 1, K, K)
            rows = token_rows(valid)
            self.record(shares, query_index=rows, key_index=rows)
        return (tokens.sum(1, keepdim=True) / count).expand_as(tokens)
