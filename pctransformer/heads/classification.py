"""Classification: pool the tokens of each cloud, then a small perceptron."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from pctransformer.layers.recording import RecordedLayer
from pctransformer.ops import segment
from pctransformer.points import PointBatch, pad_packed, padded_rows


def pool(tokens: PointBatch, reduce: Literal["max", "mean"]) -> Tensor:
    """One vector (B, C) for each cloud from the features of its tokens; zeros for a cloud without any."""
    features = tokens.features
    if features is None:
        raise ValueError("pooling needs tokens with features, these have none")
    return segment(features, tokens.offsets, reduce)


class ClassificationHead(RecordedLayer):
    """Pooled tokens through hidden layers to logits.

    Args:
        hidden: what stands between the pooled vector and the last layer; its output has `hidden_size` channels.
        hidden_size: channels of the pre-logits.
        num_classes: logits; 0 leaves the last layer out.
        reduce: how tokens are pooled.
    """

    def __init__(
        self, hidden: nn.Module, hidden_size: int, num_classes: int, reduce: Literal["max", "mean"] = "max"
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.hidden_size = hidden_size
        self.reduce = reduce
        self.reset(num_classes)

    def reset(self, num_classes: int) -> None:
        """A new last layer."""
        self.classifier = nn.Linear(self.hidden_size, num_classes) if num_classes else nn.Identity()

    def forward(self, tokens: PointBatch, pre_logits: bool = False) -> Tensor:
        pooled = pool(tokens, self.reduce)
        if self.is_recorded:
            self._record_pooling(tokens)
        hidden = self.hidden(pooled)
        return hidden if pre_logits else self.classifier(hidden)

    def _record_pooling(self, tokens: PointBatch) -> None:
        """Hand over each token's share in the pooled vector of its cloud."""
        assert tokens.features is not None
        rows = padded_rows(tokens.offsets, tokens.max_points)  # (B, P)
        if self.reduce == "max":
            self.record_maximum(pad_packed(tokens.features, rows), rows)
        else:
            shares = (rows >= 0) / tokens.lengths[:, None]
            self.record(shares[:, None, None], "children", key_index=rows)
