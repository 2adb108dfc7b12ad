"""Linear probing: how well one linear layer tells classes apart by what a backbone makes of clouds, as it is.

Tokens of a cloud are pooled, maximum beside mean, and every channel is brought to mean zero and variance one by a batch
norm that learns no weights.

Source: Zhang, Isola, Efros, Colorful image colorization, 2016, section 3.2; the batch norm after He et al., Masked
autoencoders are scalable vision learners, 2022, appendix A.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pctransformer.heads.classification import ClassificationHead, pool
from pctransformer.models.classifier import Classifier
from pctransformer.models.pretraining import Pretraining
from pctransformer.points import PointBatch


class LinearProbe(Classifier):
    """A frozen backbone under a linear layer, which alone is trained.

    The backbone is in evaluation mode whatever `train` says, so that the statistics of its batch norms stay, too, and
    nothing is dropped out.

    Args:
        backbone: taken over: its weights are frozen, its head is taken off.
        num_classes: logits.
    """

    def __init__(self, backbone: Classifier, num_classes: int) -> None:
        super().__init__()
        self.in_channels, self.num_features = backbone.in_channels, backbone.num_features
        self.backbone = backbone.requires_grad_(False)
        del self.backbone.head
        pooled = 2 * self.num_features
        self.head = ClassificationHead(nn.BatchNorm1d(pooled, affine=False), pooled, num_classes, "max_mean")
        self.train()

    def train(self, mode: bool = True) -> LinearProbe:
        super().train(mode)
        self.backbone.eval()
        return self

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> PointBatch:
        """What the backbone gives without what it learns with labels only."""
        with torch.no_grad():
            return self.backbone.encode(points)


class PooledTokens(nn.Module):
    """What such a layer sees of each cloud, before its norm: (B, 2 num_features), maximum beside mean of tokens."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        assert isinstance(backbone, (Classifier, Pretraining))
        self.backbone = backbone

    def forward(self, points: PointBatch | Tensor | Sequence[Tensor]) -> Tensor:
        tokens = self.backbone.encode(points)
        assert isinstance(tokens, PointBatch)  # models of shapes give tokens
        return pool(tokens, "max_mean")
