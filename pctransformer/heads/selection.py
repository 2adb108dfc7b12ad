"""From what a detection head says everywhere to the boxes of each cloud: best scores, thresholds, suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from pctransformer.boxes import BoxBatch
from pctransformer.ops import _checks, box_nms


def top_candidates(logits: Tensor, count: int) -> Tensor:
    """Where the best logits of each cloud are.

    Args:
        logits: (B, N).
        count: how many to take, at most.

    Returns:
        (B, K) int64 with K = min(count, N), ascending. Of logits equal to the least one taken any may be left out.

    Raises:
        ValueError: a logit is NaN, count is not at least 1. This waits for the device.
    """
    _checks.integer(count, "max_candidates", 1)
    wrong = logits.isnan().sum(1).tolist()
    if any(wrong):
        cloud = next(b for b, number in enumerate(wrong) if number)
        raise ValueError(diverged(f"{wrong[cloud]} of {logits.shape[1]} scores of cloud {cloud} are NaN"))
    return logits.topk(min(count, logits.shape[1])).indices.sort(1).values


def detections(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    score_threshold: float,
    nms_threshold: float,
    max_outputs: int,
) -> BoxBatch:
    """The candidates that score enough and overlap none that scores more, whatever its class.

    Args:
        boxes: (B, K, 7) candidates of each cloud.
        scores: (B, K).
        labels: (B, K) int64.
        score_threshold: least score, in [0, 1].
        nms_threshold: overlap of turned boxes seen from above, in [0, 1], above which only the better is kept.
        max_outputs: boxes of each cloud, at most.

    Returns:
        boxes with scores, by descending score within each cloud.

    Raises:
        ValueError: a candidate that scores enough is not finite, a threshold is outside of its range.
    """
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold must be between 0 and 1, got {score_threshold}")
    chosen = scores >= score_threshold
    rows = chosen.flatten().nonzero()[:, 0]  # waits for the device, as suppression does
    offsets = torch.nn.functional.pad(chosen.sum(1).cumsum(0), (1, 0))
    batch = BoxBatch(
        boxes.flatten(0, 1).index_select(0, rows).float(),
        offsets,
        labels.flatten().index_select(0, rows),
        scores.flatten().index_select(0, rows).float(),
    )
    wrong = int((~batch.boxes.isfinite().all(1)).sum())
    if wrong:
        raise ValueError(diverged(f"{wrong} of {len(rows)} boxes that score enough are NaN or infinite"))
    assert batch.scores is not None
    return batch.take(*box_nms(batch.boxes, offsets, batch.scores, nms_threshold, max_outputs=max_outputs))


def nearest_box(boxes: Tensor, box: Tensor) -> Tensor:
    """The row, a scalar, of (N, 7) boxes whose centre and size are nearest to those of (7,) one, found earlier."""
    return (boxes[:, :6] - box[:6].to(boxes)).square().sum(1).argmin()


def diverged(what: str) -> str:
    """What is said of outputs that are no numbers."""
    return (
        f"{what}: the input holds NaN, or the model has diverged in training; see whether its loss stayed finite, and"
        " train with a lower learning rate or in float32"
    )
