"""Segmentation: a classifier for every point."""

from __future__ import annotations

from torch import Tensor, nn

from pctransformer.points import PointBatch


class SegmentationHead(nn.Module):
    """Features of points through hidden layers to logits. To bring features back to all points is the backbone's work.

    Args:
        hidden: what stands between a point's features and the last layer; its output has `hidden_size` channels.
        hidden_size: channels of the pre-logits.
        num_classes: logits; 0 leaves the last layer out.
    """

    def __init__(self, hidden: nn.Module, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.hidden_size = hidden_size
        self.reset(num_classes)

    def reset(self, num_classes: int) -> None:
        """A new last layer."""
        self.classifier = nn.Linear(self.hidden_size, num_classes) if num_classes else nn.Identity()

    def forward(self, points: PointBatch, pre_logits: bool = False) -> Tensor:
        """Logits (N, num_classes) of packed points with features."""
        if points.features is None:
            raise ValueError("segmentation needs points with features, these have none")
        hidden = self.hidden(points.features)
        return hidden if pre_logits else self.classifier(hidden)
