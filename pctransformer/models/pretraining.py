"""What all models that are pretrained without labels share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pctransformer.heads.reconstruction import Reconstruction
from pctransformer.points import PointBatch


class Pretraining(nn.Module):
    """A backbone that learns by making up points which are kept from it: `loss(model(points))` is to become small.

    Its weights are those of a classifier, besides what only pretraining needs: `create_model(..., pretrained=file)`.
    Subclasses set `in_channels` and `num_features`, and write `encode`, `forward` and `loss`.
    """

    in_channels: int
    """Channels of the input, coordinates included: 3 + C."""
    num_features: int
    """Channels of the tokens that `encode` gives."""

    def encode(self, points: PointBatch | Tensor | Sequence[Tensor]) -> PointBatch:
        """Tokens with positions, `num_features` channels each, of clouds of which nothing is hidden."""
        raise NotImplementedError

    def forward(
        self, points: PointBatch | Tensor | Sequence[Tensor], generator: torch.Generator | None = None
    ) -> Reconstruction:
        """Hide a part of each cloud, and make it up.

        Args:
            points: as for a `Classifier`.
            generator: where the choice of what is hidden is drawn from.
        """
        raise NotImplementedError

    def loss(self, made_up: Reconstruction) -> dict[str, Tensor]:
        """Scalars whose sum is to become small, means over clouds."""
        raise NotImplementedError
