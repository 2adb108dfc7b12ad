"""Classification: pool the tokens of each cloud, then a small perceptron."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from pctransformer.layers.recording import RecordedLayer, shares_of_maximum
from pctransformer.ops import segment
from pctransformer.points import PointBatch, pad_packed, padded_rows

Reduce = Literal["max", "mean", "max_mean", "first", "first_max", "last_max"]


def pool(tokens: PointBatch, reduce: Reduce) -> Tensor:
    """One vector for each cloud from the features of its tokens.

    Args:
        tokens: with C channels.
        reduce: "max" and "mean" of all tokens, zeros for a cloud without any; "max_mean" is both side by side; "first"
            for clouds with equally many tokens, the first of which is a class token; "first_max" and "last_max"
            likewise, for at least two: the first, or the last, which in causal models has seen all, and beside it the
            maximum of the others.

    Returns:
        (B, C), or (B, 2 C) with two of them side by side.

    Raises:
        ValueError: tokens without features, or not as many as `reduce` needs.
    """
    features = tokens.features
    if features is None:
        raise ValueError("pooling needs tokens with features, these have none")
    if reduce == "first" or reduce == "first_max" or reduce == "last_max":
        count = tokens.max_points if tokens.is_dense else None
        least, name = (1, "one") if reduce == "first" else (2, "two")
        if count is None or count < least:
            raise ValueError(f"{reduce} needs clouds with equally many tokens, at least {name}, got {tokens}")
        dense = features.view(len(tokens), count, -1)
        if reduce == "first":
            return dense[:, 0]
        one, others = (dense[:, 0], dense[:, 1:]) if reduce == "first_max" else (dense[:, -1], dense[:, :-1])
        offsets = torch.arange(len(tokens) + 1, device=features.device) * (count - 1)
        return torch.cat([one, segment(others.flatten(0, 1), offsets, "max")], 1)
    if reduce == "max_mean":
        return torch.cat([segment(features, tokens.offsets, "max"), segment(features, tokens.offsets, "mean")], 1)
    return segment(features, tokens.offsets, reduce)


class ClassificationHead(RecordedLayer):
    """Pooled tokens through hidden layers to logits.

    Args:
        hidden: what stands between the pooled vector and the last layer; its output has `hidden_size` channels.
        hidden_size: channels of the pre-logits.
        num_classes: logits; 0 leaves the last layer out.
        reduce: how tokens are pooled, see `pool`.
    """

    def __init__(self, hidden: nn.Module, hidden_size: int, num_classes: int, reduce: Reduce = "max") -> None:
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
        values = pad_packed(tokens.features, rows)
        of_mean = (rows >= 0) / tokens.lengths[:, None]
        if self.reduce == "mean":
            shares = of_mean
        elif self.reduce == "max":
            shares = shares_of_maximum(values, rows)
        elif self.reduce == "max_mean":
            shares = (shares_of_maximum(values, rows) + of_mean) / 2
        elif self.reduce == "first":
            shares = torch.zeros_like(of_mean).index_fill(1, torch.zeros(1, dtype=torch.int64, device=rows.device), 1.0)
        else:
            half = torch.full_like(rows[:, :1], 0.5, dtype=torch.float32)
            first = self.reduce == "first_max"
            others = shares_of_maximum(values[:, 1:] if first else values[:, :-1]) / 2
            shares = torch.cat([half, others] if first else [others, half], 1)
        self.record(shares[:, None, None], "children", key_index=rows)
