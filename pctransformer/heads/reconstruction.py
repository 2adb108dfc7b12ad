"""Reconstruction: what pretraining without labels asks for, patches of points made up from what a model has seen."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn

from pctransformer.ops.knn import knn


@dataclasses.dataclass(frozen=True, eq=False)
class Reconstruction:
    """Patches that a model made up, beside the true ones; M of each cloud, k points each, metres.

    Attributes:
        predicted: (B, M, k, 3) relative to the centres of their patches.
        target: (B, M, k, 3) the true points, relative likewise.
        centers: (B, M, 3).
        visible: (B, V, k, 3) points of the patches that the model saw as a whole, where they stood in their cloud.
    """

    predicted: Tensor
    target: Tensor
    centers: Tensor
    visible: Tensor

    @property
    def predicted_xyz(self) -> Tensor:
        """(B, M, k, 3) where the made-up points belong in their cloud."""
        return self.predicted + self.centers[:, :, None]

    @property
    def target_xyz(self) -> Tensor:
        """(B, M, k, 3) where the true points stood."""
        return self.target + self.centers[:, :, None]


class ReconstructionHead(nn.Module):
    """A linear layer from each token to the k points of its patch.

    Source: Pang et al., Masked Autoencoders for Point Cloud Self-supervised Learning, 2022, equation 5.
    """

    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        self.points = nn.Linear(dim, 3 * patch_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, M, k, 3) from (B, M, dim)."""
        return self.points(tokens).unflatten(-1, (-1, 3))


def chamfer_distance(a: Tensor, b: Tensor, *, power: Literal[1, 2] = 2) -> Tensor:
    """How far two sets of points are from each other: from every point to the nearest of the other set.

        power 2    mean_i min_j |a_i - b_j|^2 + mean_j min_i |a_i - b_j|^2
        power 1    (mean_i min_j |a_i - b_j| + mean_j min_i |a_i - b_j|) / 2

    The order of points does not matter. In repositories these are "CD-L2" and "CD-L1", with the half that the latter
    alone has there.

    Args:
        a: (P, n, 3) sets of points, n >= 1.
        b: (P, m, 3), m >= 1.
        power: of distances.

    Returns:
        (P,) square metres, or metres. Differentiable; the gradient of a distance 0 is 0.

    Raises:
        ValueError: shapes do not fit, a set is empty; on CPU: NaN or infinite coordinates.

    Source: Fan et al., A point set generation network, 2017, equation 1, with means for sums.
    """
    if a.dim() != 3 or b.dim() != 3 or len(a) != len(b) or a.shape[2] != 3 or b.shape[2] != 3:
        raise ValueError(f"sets must be (P, n, 3) and (P, m, 3), got {tuple(a.shape)} and {tuple(b.shape)}")
    if not a.shape[1] or not b.shape[1]:
        raise ValueError(f"sets must not be empty, got {tuple(a.shape)} and {tuple(b.shape)}")
    one_way, other_way = _to_nearest(a, b), _to_nearest(b, a)  # (P, n) and (P, m) square metres
    if power == 2:
        return one_way.mean(1) + other_way.mean(1)
    return (_root(one_way).mean(1) + _root(other_way).mean(1)) / 2


def random_split(
    clouds: int, tokens: int, share: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Hide a random share of each cloud's tokens.

    Args:
        clouds: B.
        tokens: S of each cloud.
        share: of tokens to hide, rounded down to a number M of tokens; 0 <= share <= 1.
        generator: where the choice is drawn from, on CPU whatever the device of the tokens.

    Returns:
        seen (B, S - M) and hidden (B, M) int64 on CPU: rows of `tokens.flatten(0, 1)` for tokens (B, S, C), ascending.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of tokens to hide must be in [0, 1], got {share}")
    hidden = int(share * tokens)
    order = torch.rand(clouds, tokens, generator=generator).argsort(1)
    first = torch.arange(clouds)[:, None] * tokens
    return order[:, hidden:].sort(1).values + first, order[:, :hidden].sort(1).values + first


# ---- below the contract ----------------------------------------------------------------------------------------------
def _to_nearest(a: Tensor, b: Tensor) -> Tensor:
    """(P, n): squared distance from each point of a to the nearest of b."""
    sets = torch.arange(len(a) + 1, device=a.device)
    _, squared = knn(b.flatten(0, 1).float(), sets * b.shape[1], a.flatten(0, 1).float(), sets * a.shape[1], 1)
    return squared.view(a.shape[:2])


def _root(squared: Tensor) -> Tensor:
    """Square root, whose gradient is 0 and not infinite at 0."""
    zero = squared == 0
    return squared.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)
