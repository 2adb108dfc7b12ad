"""Does a map show what a classifier decides by? Without the points that it marks, more clouds must be taken for others
than without as many others.

Source: Samek et al., Evaluating the visualization of what a deep neural network has learned, 2017, arXiv:1509.06321; on
points Zheng et al., PointCloud saliency maps, 2019, arXiv:1812.01687.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pctransformer.evaluation.inference import device_of, evaluating
from pctransformer.points import PointBatch

Which = Literal["highest", "lowest", "random"]

_BATCH = 32


def rows_left(values: Tensor, share: float, which: Which, generator: torch.Generator | None = None) -> Tensor:
    """Rows of the points that stay when a share of them is taken away, ascending.

    Args:
        values: (N,) of the points; those with the same are taken from the last row on.
        share: of the points to take away, rounded to whole points, in [0, 1); one at least stays.
        which: those with the highest or lowest values, or any.
        generator: draws any.

    Returns:
        (n,) int64.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must be at least 0 and below 1, got {share}")
    count = len(values)
    stay = max(count - round(share * count), 1)
    if which == "random":
        order = torch.randperm(count, generator=generator)
    else:
        order = values.sort(stable=True, descending=which == "lowest").indices
    return order[:stay].sort().values


@torch.inference_mode()
def accuracy(model: nn.Module, clouds: Sequence[Tensor], labels: Sequence[int]) -> float:
    """Share of clouds (n, 3 + C), of any sizes, that a classifier takes for what they are."""
    right, device = 0, device_of(model)
    with evaluating(model):
        for begin in range(0, len(clouds), _BATCH):
            logits = model(PointBatch.from_list(list(clouds[begin : begin + _BATCH])).to(device))
            expected = torch.tensor(labels[begin : begin + _BATCH], device=device)
            right += int((logits.argmax(1) == expected).sum())
    return right / len(clouds)
