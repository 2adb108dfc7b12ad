"""Part segmentation: predictions for every point, and the two mean IoUs that papers report.

The IoU of a shape is the mean over the parts that its category has, of intersection over union between the points
predicted and the points labelled so; a part that neither has counts as 1. Instance mIoU is the mean over all shapes,
class mIoU the mean over categories of the mean over their shapes. Only the parts of a shape's category compete for its
points: that it is a chair is known.

Source: Yi et al., A Scalable Active Framework for Region Annotation, 2016; the rule for absent parts as in PointNet (Qi
et al., 2017) and everywhere since.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pctransformer.datasets.samples import CloudDataset, Sample
from pctransformer.evaluation.inference import device_of, evaluating
from pctransformer.evaluation.numbers import or_none, percent
from pctransformer.points import PointBatch

if TYPE_CHECKING:
    from rich.table import Table

Parts = Sequence[Sequence[int]]
"""For each category the parts that it has, indices of part names."""


def parts_of_classes(class_names: Sequence[str], part_names: Sequence[str]) -> list[list[int]]:
    """Which parts belong to which class, from names like "chair/leg".

    Returns:
        one list for each class: the indices of its part names.

    Raises:
        ValueError: a part's name does not begin with the name of a class, or a class has no parts.
    """
    parts: dict[str, list[int]] = {name: [] for name in class_names}
    for index, name in enumerate(part_names):
        owner = name.rpartition("/")[0]
        if owner not in parts:
            raise ValueError(f"part {name!r} should be called class/part, with one of the classes {list(class_names)}")
        parts[owner].append(index)
    without = [name for name, owned in parts.items() if not owned]
    if without:
        raise ValueError(f"there are no parts of {without}; part names should begin with the name of a class")
    return list(parts.values())


def shape_iou(labels: Tensor, predicted: Tensor, parts: Sequence[int]) -> float:
    """Mean over parts of intersection over union; 1 for a part that is neither labelled nor predicted.

    Args:
        labels: (n,) true part of each point.
        predicted: (n,) predicted part.
        parts: those that the shape's category has.

    Raises:
        ValueError: the two differ in length, there are no points, or a label is not one of the parts.
    """
    if labels.shape != predicted.shape or labels.dim() != 1 or not len(labels):
        raise ValueError(
            f"labels and predicted must both be (n,), n > 0, got {(*labels.shape,)}, {(*predicted.shape,)}"
        )
    wanted = torch.tensor(list(parts))
    foreign = ~torch.isin(labels, wanted)
    if foreign.any():
        raise ValueError(f"a point is labelled {int(labels[foreign][0])}, but the parts are {wanted.tolist()}")
    true, taken = labels == wanted[:, None], predicted == wanted[:, None]  # (parts, n)
    union = (true | taken).sum(1)
    iou = (true & taken).sum(1) / union.clamp(min=1)
    return torch.where(union == 0, 1, iou.double()).mean().item()


@dataclasses.dataclass(frozen=True, eq=False)
class PartScore:
    """IoU of every shape, and what follows from it. Scores of parts of a data set add up: `a + b`.

    Attributes:
        ious: (S,) float64 IoU of each shape.
        categories: (S,) int64 category of each shape.
        class_names: names of the categories.
        correct: points whose part is predicted rightly, of all shapes.
        points: points with a label, of all shapes.

    Example:
        >>> score = PartScore.from_predictions(
        ...     [torch.tensor([0, 0, 1, 1])], [torch.tensor([0, 1, 1, 1])], [0], ["cup"], parts=[[0, 1]]
        ... )
        >>> round(score.instance_mean_iou, 4), score.point_accuracy
        (0.5833, 0.75)
    """

    ious: Tensor
    categories: Tensor
    class_names: tuple[str, ...]
    correct: int
    points: int

    @classmethod
    def from_predictions(
        cls,
        labels: Sequence[Tensor],
        predicted: Sequence[Tensor],
        categories: Sequence[int] | Tensor,
        class_names: Sequence[str],
        *,
        parts: Parts,
    ) -> PartScore:
        """Score predictions for S shapes.

        Args:
            labels: for each shape (n,) true part of each point, -1 for points that do not count.
            predicted: for each shape (n,) predicted part of each point.
            categories: (S,) category of each shape.
            class_names: names of the categories.
            parts: for each category the parts that it has, see `parts_of_classes`.

        Raises:
            ValueError: numbers of shapes or points differ, a shape has no labelled points, a label is not one of the
                parts of its category.
        """
        chosen = torch.as_tensor(categories).long()
        if not len(labels) == len(predicted) == len(chosen):
            raise ValueError(
                f"there are labels of {len(labels)}, predictions of {len(predicted)} and categories of {len(chosen)}"
                " shapes; they must be as many"
            )
        if len(parts) != len(class_names):
            raise ValueError(f"there are {len(class_names)} categories, but parts of {len(parts)}")
        ious, correct, points = [], 0, 0
        for i, (true, taken, category) in enumerate(zip(labels, predicted, chosen.tolist())):
            if true.shape != taken.shape:
                raise ValueError(f"shape {i} has {len(true)} labels, but {len(taken)} predictions")
            known = true >= 0
            true, taken = true[known].cpu(), taken[known].cpu()
            try:
                ious.append(shape_iou(true, taken, parts[category]))
            except ValueError as error:
                raise ValueError(f"shape {i}, of {class_names[category]!r}: {error}") from None
            correct, points = correct + int((true == taken).sum()), points + len(true)
        return cls(torch.tensor(ious, dtype=torch.float64), chosen, tuple(class_names), correct, points)

    @property
    def count(self) -> int:
        """Shapes."""
        return len(self.ious)

    @property
    def class_counts(self) -> Tensor:
        """(C,) int64 shapes of each category."""
        return torch.bincount(self.categories, minlength=len(self.class_names))

    @property
    def instance_mean_iou(self) -> float:
        """Mean over shapes, also called ins. mIoU; NaN without shapes."""
        return self.ious.mean().item()

    @property
    def per_class_iou(self) -> Tensor:
        """(C,) float64: mean over the shapes of each category; NaN for a category without shapes."""
        total = torch.zeros(len(self.class_names), dtype=torch.float64).index_add(0, self.categories, self.ious)
        return total / self.class_counts

    @property
    def class_mean_iou(self) -> float:
        """Mean over those categories that have shapes, also called cat. mIoU; NaN without shapes."""
        return self.per_class_iou.nanmean().item()

    @property
    def point_accuracy(self) -> float:
        """Share of all labelled points that are right; NaN without points."""
        return self.correct / self.points if self.points else math.nan

    def __add__(self, other: PartScore) -> PartScore:
        """The score of the shapes of both."""
        if not isinstance(other, PartScore):
            return NotImplemented
        if self.class_names != other.class_names:
            raise ValueError("scores can be added only if they have the same class names in the same order")
        return PartScore(
            torch.cat([self.ious, other.ious]), torch.cat([self.categories, other.categories]), self.class_names,
            self.correct + other.correct, self.points + other.points,
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None where there is no number."""
        classes = zip(self.class_names, self.class_counts.tolist(), self.per_class_iou.tolist())
        return {
            "count": self.count,
            "instance_mean_iou": or_none(self.instance_mean_iou),
            "class_mean_iou": or_none(self.class_mean_iou),
            "point_accuracy": or_none(self.point_accuracy),
            "classes": [{"name": name, "count": n, "iou": or_none(iou)} for name, n, iou in classes],
        }

    def table(self) -> Table:
        """One row per category, then both means and the share of points that are right."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("class")
        for column in ("shapes", "IoU %"):
            table.add_column(column, justify="right")
        for name, n, iou in zip(self.class_names, self.class_counts.tolist(), self.per_class_iou.tolist()):
            table.add_row(name, str(n), percent(iou))
        table.add_section()
        table.add_row("mean of shapes (instance mIoU)", str(self.count), percent(self.instance_mean_iou))
        table.add_row("mean of classes (class mIoU)", "", percent(self.class_mean_iou))
        table.add_row("points that are right", str(self.points), percent(self.point_accuracy))
        return table


@dataclasses.dataclass(frozen=True, eq=False)
class PartEvaluation:
    """What a model predicts for labelled shapes, and how good that is.

    Attributes:
        score: IoU of every shape.
        predicted: for each shape (n,) int64 predicted part of each point, one of those of its category.
        names: of the shapes.
        loss: mean cross-entropy of all labelled points, among the parts of all categories, as in training; 0 without
            points.
    """

    score: PartScore
    predicted: tuple[Tensor, ...]
    names: tuple[str, ...]
    loss: float

    def as_dict(self, worst: int = 20) -> dict[str, Any]:
        """Plain values for JSON: loss, score, and the shapes with the lowest IoU, lowest first."""
        score, rows = self.score, self.score.ious.argsort(stable=True)[:worst].tolist()
        shapes = [
            {"name": self.names[i], "class": score.class_names[score.categories[i]], "iou": score.ious[i].item()}
            for i in rows
        ]
        return {"loss": self.loss, **score.as_dict(), "worst": shapes}


# ---- predictions -----------------------------------------------------------------------------------------------------
def part_logits(
    model: nn.Module,
    dataset: CloudDataset,
    *,
    batch_size: int = 16,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[tuple[Sample, Tensor]]:
    """Each shape with what a segmentation model says of its points; with `num_categories` it is told what the shape is.

    While the shapes are asked for, the model is in evaluation mode; afterwards each of its modules is in the mode it
    was in before.

    Args:
        model: a `Segmenter`.
        dataset: shapes under its transform, with `part_names`.
        batch_size: shapes that go through the model at once.
        device: where the model is. None: where its first parameter is.
        dtype: of autocast, for example torch.bfloat16. None: the model's own.

    Yields:
        the shape, and its logits (n, parts) float32 on CPU, of all parts of the data set.

    Raises:
        ValueError: the model has another number of parts, or its logits are not finite.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    device = device_of(model) if device is None else torch.device(device)
    told = bool(getattr(model, "num_categories", 0))
    for begin in range(0, len(dataset), batch_size):
        samples = [dataset[i] for i in range(begin, min(begin + batch_size, len(dataset)))]
        points = PointBatch.from_list([sample.points for sample in samples]).to(device)
        category = torch.tensor([sample.label for sample in samples], device=device)
        with evaluating(model), torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = (model(points, category) if told else model(points)).float().cpu()
        if logits.shape != (len(points.xyz), len(dataset.part_names)):
            raise ValueError(
                f"{len(points.xyz)} points with {len(dataset.part_names)} parts need logits of that shape, got"
                f" {tuple(logits.shape)}; was the model made with num_classes = len(dataset.part_names)?"
            )
        for sample, rows in zip(samples, logits.split([len(sample) for sample in samples])):
            if not rows.isfinite().all():
                raise ValueError(
                    f"logits of sample {sample.name!r} are NaN or infinite: the model's weights or the sample's"
                    " points are not finite"
                )
            yield sample, rows


def predict_parts(
    model: nn.Module,
    dataset: CloudDataset,
    *,
    batch_size: int = 16,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, ...]:
    """The part of each point of each shape that a segmentation model finds most probable, of those its category has.

    Args:
        model, batch_size, device, dtype: as in `part_logits`.
        dataset: shapes with labels and `part_names` like "chair/leg", under its transform.

    Returns:
        for each shape (n,) int64 on CPU.

    Raises:
        ValueError: part names do not tell their class, or as in `part_logits`.
    """
    parts = parts_of_classes(dataset.class_names, dataset.part_names)
    found = part_logits(model, dataset, batch_size=batch_size, device=device, dtype=dtype)
    return tuple(_best(logits, parts[sample.label]) for sample, logits in found)


def evaluate_segmenter(
    model: nn.Module,
    dataset: CloudDataset,
    *,
    batch_size: int = 16,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> PartEvaluation:
    """Predict the parts of every shape once and compare: the plain protocol.

    Args:
        model, dataset, batch_size, device, dtype: as in `predict_parts`.

    Raises:
        ValueError: as in `predict_parts`, or a shape has no point labels.
    """
    parts = parts_of_classes(dataset.class_names, dataset.part_names)
    predicted, labels, categories, names = [], [], [], []
    loss = torch.zeros((), dtype=torch.float64)
    for sample, logits in part_logits(model, dataset, batch_size=batch_size, device=device, dtype=dtype):
        if sample.point_labels is None:
            raise ValueError(f"sample {sample.name!r} has no point labels, so there is nothing to compare with")
        predicted.append(_best(logits, parts[sample.label]))
        labels.append(sample.point_labels)
        categories.append(sample.label)
        names.append(sample.name)
        loss += F.cross_entropy(logits.double(), sample.point_labels, ignore_index=-1, reduction="sum")
    score = PartScore.from_predictions(labels, predicted, categories, dataset.class_names, parts=parts)
    return PartEvaluation(score, tuple(predicted), tuple(names), loss.item() / max(score.points, 1))


def _best(logits: Tensor, own: Sequence[int]) -> Tensor:
    """(n,) the part with the greatest logit among some."""
    index = torch.tensor(list(own))
    return index[logits[:, index].argmax(1)]
