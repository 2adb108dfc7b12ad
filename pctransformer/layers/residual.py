"""What surrounds each part of a transformer layer: the sum with its input, a norm, and what regularises."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class LayerScale(nn.Module):
    """A learned factor for each channel, so small at first that the layer starts as the identity.

    Source: Touvron et al., Going deeper with image transformers, 2021, equation 4.
    """

    def __init__(self, dim: int, initial: float = 1e-5) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class DropPath(nn.Module):
    """In training, zeros for a random share of sequences; the others are scaled up to keep the mean.

    Randomness comes from torch's own generator, as that of `nn.Dropout`.

    Source: Huang et al., Deep networks with stochastic depth, 2016.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f"the share of sequences to drop must be in [0, 1), got {share}")
        self.share = share

    def forward(self, x: Tensor, offsets: Tensor | None = None) -> Tensor:
        """The shape of x: dense (B, ..., C), or packed (N, C) with offsets (B + 1,)."""
        if not self.training or not self.share:
            return x
        sequences = x.shape[0] if offsets is None else offsets.shape[0] - 1
        factor = (torch.rand(sequences, device=x.device) >= self.share).type_as(x) / (1 - self.share)
        if offsets is None:
            return x * factor.view(-1, *[1] * (x.dim() - 1))
        return x * factor.repeat_interleave(offsets.diff(), output_size=x.shape[0])[:, None]

    def extra_repr(self) -> str:
        return f"{self.share:g}"


class Residual(nn.Module):
    """Adds what a part of a layer makes of the tokens to the tokens, and normalises.

        pre-norm    y = x + after(part(norm(x)))
        post-norm   y = norm(x + after(part(x)))

    Args:
        norm: a layer like `nn.LayerNorm(dim)`; None for parts that want none.
        norm_first: pre-norm, as most vision models; or post-norm, as the first transformer.
        scale: a layer like `LayerScale(dim)` behind the part, or None.
        dropout: share of channels set to zero behind the part, in training.
        drop_path: share of sequences that the part leaves as they are, in training.

    Source: Vaswani et al., 2017, section 3.1; pre-norm: Xiong et al., On layer normalization in the transformer
    architecture, 2020.
    """

    def __init__(
        self,
        norm: nn.Module | None = None,
        *,
        norm_first: bool = True,
        scale: nn.Module | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm, self.norm_first = norm or nn.Identity(), norm_first
        self.dropout, self.scale, self.drop_path = nn.Dropout(dropout), scale or nn.Identity(), DropPath(drop_path)

    def forward(self, x: Tensor, part: Callable[[Tensor], Tensor], offsets: Tensor | None = None) -> Tensor:
        """The shape of x; offsets (B + 1,) say which rows of packed tokens are a sequence."""
        change = self.dropout(part(self.norm(x) if self.norm_first else x))
        y = x + self.drop_path(self.scale(change), offsets)
        return y if self.norm_first else self.norm(y)
