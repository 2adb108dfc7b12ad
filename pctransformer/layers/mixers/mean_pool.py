"""The mean of all tokens: the least that mixing can be, a floor under every comparison."""

from __future__ import annotations

from torch import Tensor

from pctransformer.layers.mixers.mixer import Mixer


class MeanPool(Mixer):
    """Every token receives the mean over the real tokens of its patch. No weights, no notion of place.

    Pooling as a mixer: after Yu et al., MetaFormer Is Actually What You Need for Vision, 2022, arXiv:2111.11418, which
    pools around each token.

    Args:
        dim: channels.
    """

    def __init__(self, *, dim: int) -> None:
        super().__init__(dim)

    def mix(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        if valid is None:
            mean = tokens.mean(1, keepdim=True)
        else:
            mean = tokens.sum(1, keepdim=True) / valid.sum(1).clamp(min=1)[:, None, None]
        return mean.expand_as(tokens)
