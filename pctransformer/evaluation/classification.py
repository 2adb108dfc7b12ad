"""Classifiers: predictions for a data set, and the two accuracies that papers report.

Overall accuracy (OA) is the share of samples that are classified rightly; mean class accuracy (mAcc) is the mean of the
accuracies of the classes, so that rare classes count as much as frequent ones. ModelNet's authors report the latter (Wu
et al., 3D ShapeNets, 2015), most later work both. The plain protocol is one pass over the test shapes as they are;
`vote` averages over changed copies (Liu et al., RS-CNN, 2019) and is another protocol, never to be compared with it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pctransformer.datasets.samples import CloudDataset, collate
from pctransformer.evaluation.inference import device_of, evaluating
from pctransformer.evaluation.numbers import or_none, percent

if TYPE_CHECKING:
    from rich.table import Table


# ---- the score -------------------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True, eq=False)
class ClassificationScore:
    """A confusion matrix, and what follows from it. Scores of parts of a data set add up: `a + b`.

    Attributes:
        confusion: (C, C) int64: confusion[t, p] samples of class t were taken for class p.
        class_names: the C names.

    Example:
        >>> score = ClassificationScore.from_predictions([0, 0, 0, 1], [0, 0, 1, 1], ["cup", "vase"])
        >>> score.overall_accuracy, round(score.mean_class_accuracy, 4)
        (0.75, 0.8333)
    """

    confusion: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        classes = len(self.class_names)
        if self.confusion.shape != (classes, classes) or self.confusion.dtype != torch.int64:
            raise ValueError(
                f"confusion must be ({classes}, {classes}) int64 for {classes} class names,"
                f" got {tuple(self.confusion.shape)} {self.confusion.dtype}"
            )
        if (self.confusion < 0).any():
            raise ValueError("confusion counts samples, so it cannot be negative")

    @classmethod
    def from_predictions(
        cls,
        labels: Tensor | np.ndarray | Sequence[int],
        predicted: Tensor | np.ndarray | Sequence[int],
        class_names: Sequence[str],
    ) -> ClassificationScore:
        """Count predictions.

        Args:
            labels: (n,) true classes.
            predicted: (n,) predicted classes.
            class_names: the names that both index.

        Raises:
            ValueError: they differ in length, or a class has no name; a label of -1 means that it is not known, and
                then there is nothing to score.
        """
        true, taken = torch.as_tensor(labels).cpu(), torch.as_tensor(predicted).cpu()
        if true.dim() != 1 or true.shape != taken.shape:
            raise ValueError(
                f"labels and predicted must both be (n,), got {tuple(true.shape)} and {tuple(taken.shape)}"
            )
        _check_classes("labels", true, len(class_names))
        _check_classes("predicted", taken, len(class_names))
        classes = len(class_names)
        cells = true.long() * classes + taken.long()
        return cls(torch.bincount(cells, minlength=classes**2).view(classes, classes), tuple(class_names))

    @property
    def count(self) -> int:
        """Samples."""
        return int(self.confusion.sum())

    @property
    def class_counts(self) -> Tensor:
        """(C,) int64 samples of each class."""
        return self.confusion.sum(1)

    @property
    def overall_accuracy(self) -> float:
        """OA: share of all samples that are right; NaN without samples."""
        return int(self.confusion.trace()) / self.count if self.count else math.nan

    @property
    def per_class_accuracy(self) -> Tensor:
        """(C,) float64: share of each class's samples that are right; NaN for a class without samples."""
        return self.confusion.diagonal() / self.class_counts.double()

    @property
    def mean_class_accuracy(self) -> float:
        """mAcc: mean of the accuracies of those classes that have samples; NaN without samples."""
        return self.per_class_accuracy.nanmean().item()

    def __add__(self, other: ClassificationScore) -> ClassificationScore:
        """The score of the samples of both."""
        if not isinstance(other, ClassificationScore):
            return NotImplemented
        if self.class_names != other.class_names:
            raise ValueError("scores can be added only if they have the same class names in the same order")
        return ClassificationScore(self.confusion + other.confusion, self.class_names)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None where there is no number."""
        classes = zip(self.class_names, self.class_counts.tolist(), self.per_class_accuracy.tolist())
        return {
            "count": self.count,
            "overall_accuracy": or_none(self.overall_accuracy),
            "mean_class_accuracy": or_none(self.mean_class_accuracy),
            "classes": [{"name": name, "count": n, "accuracy": or_none(accuracy)} for name, n, accuracy in classes],
            "confusion": self.confusion.tolist(),
        }

    def table(self) -> Table:
        """One row per class, with the wrong class that takes most of its samples, then OA and mAcc."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("class")
        for column in ("samples", "right %"):
            table.add_column(column, justify="right")
        table.add_column("most often taken for")
        missed = self.confusion.clone().fill_diagonal_(0)
        for c, (name, row) in enumerate(zip(self.class_names, missed)):
            worst = int(row.argmax()) if len(row) else 0
            confused = f"{self.class_names[worst]} ({row[worst]})" if row[worst] else ""
            table.add_row(name, str(int(self.class_counts[c])), percent(self.per_class_accuracy[c].item()), confused)
        table.add_section()
        table.add_row("overall (OA)", str(self.count), percent(self.overall_accuracy), "")
        table.add_row("mean of classes (mAcc)", "", percent(self.mean_class_accuracy), "")
        return table


def _check_classes(name: str, values: Tensor, classes: int) -> None:
    if values.numel() and (values.is_floating_point() or values.dtype == torch.bool):
        raise ValueError(f"{name} must be whole numbers, indices of class names, got {values.dtype}")
    wrong = (values < 0) | (values >= classes)
    if not wrong.any():
        return
    first = int(wrong.nonzero()[0])
    if name == "labels" and values[first] == -1:
        raise ValueError(
            f"{int((values == -1).sum())} of {len(values)} labels are -1, first that of sample {first}: their class is"
            " not known. Score the labelled samples only, for instance with dataset.subset(...)"
        )
    raise ValueError(
        f"{name}[{first}] is {int(values[first])}, but there are {classes} class names, 0 to {classes - 1}"
    )


# ---- predictions -----------------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions for n samples beside their true classes; everything else follows from these.

    Attributes:
        logits: (n, C) float32, finite, in the order of the data set; logarithms of probabilities after a `vote`.
        labels: (n,) int64 true classes.
        names: names of the samples.
        class_names: the C names.
        votes: passes over changed samples whose probabilities were averaged; 0: one pass over samples as they are.
    """

    logits: Tensor
    labels: Tensor
    names: tuple[str, ...]
    class_names: tuple[str, ...]
    votes: int = 0

    def __post_init__(self) -> None:
        n, classes = len(self.names), len(self.class_names)
        _check_classes("labels", self.labels, classes)
        if self.logits.shape != (n, classes):
            raise ValueError(
                f"{n} samples of {classes} classes need logits ({n}, {classes}), got {tuple(self.logits.shape)}; was"
                " the model made with num_classes = len(dataset.class_names)?"
            )
        bad = ~self.logits.isfinite().all(1)
        if bad.any():
            first = int(bad.nonzero()[0])
            raise ValueError(
                f"the logits of {int(bad.sum())} of {n} samples are NaN or infinite, first those of sample {first},"
                f" {self.names[first]!r}: the model's weights or the sample's points are not finite"
            )

    @cached_property
    def probabilities(self) -> Tensor:
        """(n, C) float32, each row adds up to one."""
        return self.logits.softmax(1)

    @cached_property
    def predicted(self) -> Tensor:
        """(n,) int64 the most probable class of each sample."""
        return self.logits.argmax(1)

    @cached_property
    def confidence(self) -> Tensor:
        """(n,) float32 the probability of the predicted class."""
        return self.probabilities.amax(1)

    @cached_property
    def wrong(self) -> Tensor:
        """(k,) int64 samples that are classified wrongly, the most confident first."""
        rows = (self.predicted != self.labels).nonzero().flatten()
        return rows[self.confidence[rows].argsort(descending=True, stable=True)]

    @cached_property
    def loss(self) -> float:
        """Mean cross-entropy of the true classes, natural logarithm."""
        return F.cross_entropy(self.logits.double(), self.labels).item()

    @cached_property
    def score(self) -> ClassificationScore:
        """The confusion matrix and its accuracies."""
        return ClassificationScore.from_predictions(self.labels, self.predicted, self.class_names)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the score, the loss, and every sample that is wrong, the most confident first."""
        wrong = [
            {
                "name": self.names[i],
                "true": self.class_names[int(self.labels[i])],
                "predicted": self.class_names[int(self.predicted[i])],
                "confidence": self.confidence[i].item(),
            }
            for i in self.wrong.tolist()
        ]
        return {"votes": self.votes, "loss": self.loss, **self.score.as_dict(), "wrong": wrong}


def predict_logits(
    model: nn.Module,
    dataset: CloudDataset,
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    indices: Sequence[int] | Tensor | None = None,
) -> Tensor:
    """What a classifier says about each sample.

    The model is in evaluation mode meanwhile; afterwards each of its modules is in the mode it was in before.

    Args:
        model: from a `PointBatch` to logits (B, C).
        dataset: its samples, under its transform.
        batch_size: samples that go through the model at once.
        device: where the model is. None: where its first parameter is.
        dtype: of autocast, for example torch.bfloat16. None: the model's own.
        indices: some samples, in this order, under the same randomness as in the whole data set. None: all.

    Returns:
        logits (n, C) float32 on CPU, in the order of the data set or of `indices`.

    Raises:
        ValueError: there are no samples.
    """
    return _predict(model, dataset, batch_size, device, dtype, indices)[0]


def evaluate_classifier(
    model: nn.Module,
    dataset: CloudDataset,
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Evaluation:
    """Predict every sample once and compare with the labels: the plain protocol.

    Args:
        model, dataset, batch_size, device, dtype: as in `predict_logits`.

    Raises:
        ValueError: there are no samples, a label is -1, the model has another number of classes, or its logits are not
            finite.
    """
    logits, labels, names = _predict(model, dataset, batch_size, device, dtype)
    return Evaluation(logits, labels, names, dataset.class_names)


def vote(
    model: nn.Module,
    dataset: CloudDataset,
    votes: int,
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Evaluation:
    """Predict every sample several times, each time changed otherwise, and average the probabilities.

    Papers call it voting or test-time augmentation and report its result apart. Some repeat all of it many times and
    keep the repetition with the best accuracy on the test set; that is a choice by test labels, and not offered.

    Args:
        model: as in `predict_logits`.
        dataset: with a random transform; vote v sees the samples as epoch v does. Its own epoch stays as it is.
        votes: passes, at least 1.
        batch_size, device, dtype: as in `predict_logits`.

    Returns:
        the logits are logarithms of the mean probabilities.

    Raises:
        ValueError: the data set has no transform, or as in `evaluate_classifier`.

    Source: Liu et al., RS-CNN, 2019, section 4.1, arXiv:1904.07601: ten votes under random scaling.
    """
    if votes < 1:
        raise ValueError(f"votes must be at least 1, got {votes}")
    if dataset.transform is None:
        raise ValueError(
            "without a transform all votes are equal; give one with randomness, for instance"
            " dataset.with_transform(Compose((Normalize(), RandomScale())))"
        )
    copy = dataset.with_transform(dataset.transform)  # has an epoch of its own
    passes = []
    for epoch in range(votes):
        copy.set_epoch(epoch)
        logits, labels, names = _predict(model, copy, batch_size, device, dtype)
        passes.append(logits.log_softmax(1))
    mean = torch.stack(passes).logsumexp(0) - math.log(votes)
    return Evaluation(mean, labels, names, dataset.class_names, votes)


def _predict(
    model: nn.Module,
    dataset: CloudDataset,
    batch_size: int,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    indices: Sequence[int] | Tensor | None = None,
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Logits, labels and names of samples, each of which is fetched once."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    rows = list(range(len(dataset))) if indices is None else torch.as_tensor(indices).tolist()
    if not rows:
        raise ValueError("there are no samples to predict")
    device = device_of(model) if device is None else torch.device(device)
    logits, labels, names = [], [], []
    with evaluating(model), torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        for begin in range(0, len(rows), batch_size):
            samples = [dataset[i] for i in rows[begin : begin + batch_size]]
            points, label = collate(samples)
            logits.append(model(points.to(device)).float().cpu())
            labels.append(label)
            names += [sample.name for sample in samples]
    return torch.cat(logits), torch.cat(labels), tuple(names)  # ordinary tensors, being made outside inference mode
