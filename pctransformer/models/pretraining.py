"""What all models that are pretrained without labels share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pctransformer.heads.column_reconstruction import ColumnReconstruction
from pctransformer.heads.reconstruction import Reconstruction
from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap


class Pretraining(nn.Module):
    """A backbone that learns by making up points which are kept from it: `loss(model(points))` is to become small.

    Its weights are those of a classifier or a detector, besides what only pretraining needs:
    `create_model(..., pretrained=file)`. Subclasses set `in_channels` and `num_features`, and write `encode`, `forward`
    and `loss`.
    """

    in_channels: int
    """Channels of the input, coordinates included: 3 + C."""
    num_features: int
    """Channels of what `encode` gives."""

    def encode(self, points: PointBatch | Tensor | Sequence[Tensor]) -> PointBatch | BevMap:
        """Tokens with positions, or of LiDAR scans a map, `num_features` channels, of clouds of which nothing is
        hidden."""
        raise NotImplementedError

    def forward(
        self, points: PointBatch | Tensor | Sequence[Tensor], generator: torch.Generator | None = None
    ) -> Reconstruction | ColumnReconstruction:
        """Hide a part of each cloud, and make it up.

        Args:
            points: as for a `Classifier` or a `Detector`.
            generator: where the choice of what is hidden is drawn from.
        """
        raise NotImplementedError

    def loss(self, made_up: Any) -> dict[str, Tensor]:
        """Scalars whose sum is to become small, means over clouds.

        Args:
            made_up: what `forward` gave.
        """
        raise NotImplementedError


def backbone_of_detector(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a `MaskedColumns` what its detector needs: all but the head, which makes up columns."""
    return {
        name.removeprefix("detector."): value for name, value in weights.items() if name.startswith("detector.")
    }  # fmt: skip


WEIGHTS_OF_PRETRAINING = {"head.occupied.weight": backbone_of_detector}
"""A name by which to know such weights, and what makes those of the detector of them; see `load_weights`."""
