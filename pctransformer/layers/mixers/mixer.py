"""What every token mixer does the same way: check what it is given, and keep padding out."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Mixer(nn.Module):
    """A layer in which the tokens of a patch see each other.

    Subclasses write `mix`, which is called with zeros at padding and may leave anything there.

    Args:
        dim: channels C of tokens, the same in and out.
        num_tokens: K, where weights belong to places in the sequence; None where any K will do.
    """

    def __init__(self, dim: int, num_tokens: int | None = None) -> None:
        super().__init__()
        self.dim, self.num_tokens = dim, num_tokens

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """
        Args:
            tokens: (P, K, C) patches of tokens, in the order of a space-filling curve.
            valid: (P, K) bool, True where a token is real; None where all are.

        Returns:
            (P, K, C): what real tokens received from real tokens of their patch; zeros at padding.

        Raises:
            ValueError: shapes that do not fit the mixer or each other.
            TypeError: `valid` is not bool.
        """
        self._check(tokens, valid)
        if not tokens.numel():
            return tokens
        return blank(self.mix(blank(tokens, valid), valid), valid)

    def mix(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """(P, K, C) from (P, K, C) without empty axes."""
        raise NotImplementedError

    def _check(self, tokens: Tensor, valid: Tensor | None) -> None:
        name = type(self).__name__
        if tokens.dim() != 3 or tokens.shape[2] != self.dim:
            raise ValueError(
                f"{name} takes tokens (P, K, {self.dim}), got {tuple(tokens.shape)}; one patch becomes such a batch by"
                " tokens[None], packed clouds by PointBatch.pad"
            )
        if self.num_tokens not in (None, tokens.shape[1]):
            raise ValueError(
                f"{name} has weights for {self.num_tokens} tokens per patch, got {tokens.shape[1]}; pad patches to"
                f" {self.num_tokens} and say with `valid` which are real, or make it with num_tokens={tokens.shape[1]}"
            )
        if valid is None:
            return
        if valid.shape != tokens.shape[:2]:
            raise ValueError(f"valid must be (P, K) = {tuple(tokens.shape[:2])}, got {tuple(valid.shape)}")
        if valid.dtype != torch.bool:
            raise TypeError(f"valid must be bool, True where a token is real, got {valid.dtype}")


def blank(tokens: Tensor, valid: Tensor | None) -> Tensor:
    """Tokens (P, K, C) with zeros where `valid` (P, K) is False; as they are where it is None."""
    return tokens if valid is None else tokens.masked_fill(~valid[..., None], 0)


def token_rows(valid: Tensor | None) -> Tensor | None:
    """Names of tokens in recorded maps: (P, K) rows of `tokens.flatten(0, 1)`, -1 at padding; None: all are real."""
    if valid is None:
        return None
    return torch.where(valid, torch.arange(valid.numel(), device=valid.device).view_as(valid), -1)
