"""The loss of all models that tell what points are."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def point_loss(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of the points that have a label, and the share of them that is right; both 0 where none has.

    Args:
        logits: (N, C).
        labels: (N,) int64, -1 for points that do not count.
    """
    logits = logits.float()
    known = labels >= 0
    count = known.sum().clamp(min=1)
    loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / count
    return {"loss": loss, "accuracy": ((logits.detach().argmax(1) == labels) & known).sum() / count}
