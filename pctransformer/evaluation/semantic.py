"""Semantic segmentation of scenes: mean IoU over classes, as ScanNet and S3DIS report it.

Intersection and union of a class are counted over all points of all scenes, then divided; a class that is neither in
the truth nor in the predictions is left out of the mean. So large scenes count for more, and no scene has an IoU of its
own. Points without a label do not count, whatever is predicted for them.

Source: Everingham et al., Pascal VOC, 2015, section 4.3; Dai et al., ScanNet, 2017, in its benchmark.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pctransformer.datasets.samples import CloudDataset, Sample
from pctransformer.evaluation.classification import ClassificationScore
from pctransformer.evaluation.numbers import or_none, percent
from pctransformer.evaluation.tiles import SceneLogits, segment_scene

if TYPE_CHECKING:
    from rich.table import Table


@dataclasses.dataclass(frozen=True, eq=False)
class SceneScore(ClassificationScore):
    """A confusion matrix of points, and what follows from it. Scores of scenes add up: `a + b`.

    Attributes:
        confusion: (C, C) int64: confusion[t, p] points of class t were taken for class p.
        class_names: the C names.

    Example:
        >>> score = SceneScore.from_predictions([0, 0, 1, -1], [0, 1, 1, 1], ["floor", "wall", "door"])
        >>> score.mean_iou, score.per_class_iou.tolist()
        (0.5, [0.5, 0.5, nan])
    """

    @classmethod
    def from_predictions(
        cls,
        labels: Tensor | np.ndarray | Sequence[int],
        predicted: Tensor | np.ndarray | Sequence[int],
        class_names: Sequence[str],
    ) -> SceneScore:
        """Count points.

        Args:
            labels: (n,) true classes, -1 for points that do not count.
            predicted: (n,) predicted classes.
            class_names: the names that both index.

        Raises:
            ValueError: they differ in length, or a class has no name.
        """
        true, taken = torch.as_tensor(labels).cpu(), torch.as_tensor(predicted).cpu()
        known = true != -1
        if true.shape == taken.shape:
            true, taken = true[known], taken[known]
        return cls(ClassificationScore.from_predictions(true, taken, class_names).confusion, tuple(class_names))

    @property
    def per_class_iou(self) -> Tensor:
        """(C,) float64: intersection over union of each class; NaN for one that is nowhere."""
        both = self.confusion.diagonal()
        return both / (self.confusion.sum(0) + self.confusion.sum(1) - both).double()

    @property
    def mean_iou(self) -> float:
        """mIoU: mean over those classes that are in the truth or in the predictions; NaN without points."""
        return self.per_class_iou.nanmean().item()

    def __add__(self, other: ClassificationScore) -> SceneScore:
        """The score of the points of both."""
        return SceneScore(super().__add__(other).confusion, self.class_names)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None where there is no number."""
        plain = super().as_dict()
        for row, iou in zip(plain["classes"], self.per_class_iou.tolist()):
            row["iou"] = or_none(iou)
        return {"mean_iou": or_none(self.mean_iou), **plain}

    def table(self) -> Table:
        """One row per class, with the class that takes most of its points, then mIoU, OA and mAcc."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("class")
        for column in ("points", "IoU %", "right %"):
            table.add_column(column, justify="right")
        table.add_column("most often taken for")
        missed = self.confusion.clone().fill_diagonal_(0)
        for c, name in enumerate(self.class_names):
            worst, count = int(missed[c].argmax()), int(self.class_counts[c])
            share = (
                f"{self.class_names[worst]} ({100 * int(missed[c, worst]) / count:.0f} %)" if missed[c].any() else ""
            )
            iou, right = self.per_class_iou[c].item(), self.per_class_accuracy[c].item()
            table.add_row(name, str(count), percent(iou), percent(right), share)
        table.add_section()
        table.add_row("mean of classes (mIoU, mAcc)", "", percent(self.mean_iou), percent(self.mean_class_accuracy), "")
        table.add_row("overall (OA)", str(self.count), "", percent(self.overall_accuracy), "")
        return table


@dataclasses.dataclass(frozen=True, eq=False)
class SceneEvaluation:
    """What a model predicts for labelled scenes.

    Attributes:
        score: of all points of all scenes together.
        total_loss: cross-entropy, summed over all points with a label.
    """

    score: SceneScore
    total_loss: float

    @property
    def loss(self) -> float:
        """Mean cross-entropy of all points with a label; NaN without any."""
        return self.total_loss / self.score.count if self.score.count else math.nan

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"loss": or_none(self.loss), **self.score.as_dict()}


def evaluate_scenes(
    model: nn.Module,
    dataset: CloudDataset,
    *,
    cell_size: float,
    tile_points: int = 16384,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    seen: Callable[[Sample, SceneLogits], None] | None = None,
) -> SceneEvaluation:
    """Segment every scene and compare all of its points with their labels.

    Args:
        model: a `Segmenter`.
        dataset: scenes whose `point_labels` index its `part_names`.
        cell_size, tile_points, device, dtype: as in `segment_scene`.
        seen: called with each scene and what was predicted for it.

    Raises:
        ValueError: a scene has no labels, or as in `segment_scene`.
    """
    names = dataset.part_names
    score = SceneScore(torch.zeros(len(names), len(names), dtype=torch.int64), names)
    loss = 0.0
    for i in range(len(dataset)):
        sample = dataset[i]
        labels = sample.point_labels
        if labels is None:
            raise ValueError(f"scene {sample.name!r} has no labels, so there is nothing to compare with")
        found = segment_scene(
            model, sample.xyz, sample.features, cell_size=cell_size, tile_points=tile_points, device=device, dtype=dtype
        )
        if found.logits.shape[1] != len(names):
            raise ValueError(f"the model has {found.logits.shape[1]} classes, the scenes have {len(names)}")
        score = score + SceneScore.from_predictions(labels, found.labels, names)
        known = (labels >= 0).nonzero()[:, 0]
        rows = found.nearest[known]
        of_true = found.logits.log_softmax(1)[rows, labels[known]]
        loss -= of_true.double().sum().item()
        if seen is not None:
            seen(sample, found)
    return SceneEvaluation(score, loss)
