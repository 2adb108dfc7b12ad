"""What part each point of a cloud belongs to: `load("runs/parts").predict("chair.ply", "chair")`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, overload

import numpy as np
import torch
from torch import Tensor, nn

from pctransformer.datasets import CloudDataset, Sample
from pctransformer.datasets.transforms import EvenSubset
from pctransformer.errors import did_you_mean
from pctransformer.evaluation.segmentation import part_logits, parts_of_classes
from pctransformer.ops import interpolate
from pctransformer.predict_clouds import Cloud, Predictor
from pctransformer.training.data import normalisation
from pctransformer.training.report import as_trained
from pctransformer.training.settings import PartSegmentationTraining


@dataclasses.dataclass(frozen=True, eq=False)
class PartPrediction:
    """What a model says about the points of one cloud.

    Attributes:
        name: of the cloud: its file, its name in a data set, or its place in a list.
        category: what the object was said to be.
        xyz: (n, 3) float32, the points given, in their order and units; a cloud far from the origin in float64 is moved
            there by whole metres, and of a mesh it is points on its surface.
        parts: (n,) int64: parts[i] = p means that point i belongs to part_names[p].
        probability: (n,) float32 of that part, among those that the category has.
        part_names: of all categories, like "chair/leg".
        own: those that the category has, indices of part names.
    """

    name: str
    category: str
    xyz: np.ndarray
    parts: np.ndarray
    probability: np.ndarray
    part_names: tuple[str, ...]
    own: tuple[int, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Points of each part of the category, by its name without the category's."""
        return {self.part_names[part].rpartition("/")[2]: int((self.parts == part).sum()) for part in self.own}

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        return f"PartPrediction({self.name!r}, {self.category}: {counts})"


class PartPredictor(Predictor):
    """A model that tells the parts of objects.

    Attributes:
        part_names: of its logits, like "chair/leg".
    """

    def __init__(
        self,
        model: nn.Module,
        class_names: Sequence[str],
        part_names: Sequence[str],
        settings: PartSegmentationTraining,
        device: torch.device,
    ) -> None:
        super().__init__(model, class_names, settings, device)
        self.part_names = tuple(part_names)

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is a Sequence of str, too
        self, clouds: Cloud, category: str | None = None, *, not_finite: Literal["error", "drop"] = "error"
    ) -> PartPrediction: ...

    @overload
    def predict(
        self, clouds: Sequence[Cloud], category: str | None = None, *, not_finite: Literal["error", "drop"] = "error"
    ) -> list[PartPrediction]: ...

    def predict(
        self,
        clouds: Cloud | Sequence[Cloud],
        category: str | None = None,
        *,
        not_finite: Literal["error", "drop"] = "error",
    ) -> PartPrediction | list[PartPrediction]:
        """The part of every point of one cloud or of several.

        The model sees as many points as in its test; the others get the probabilities of the three nearest of these.
        Meshes are first sampled on their surface, always at the same points.

        Args:
            clouds: one cloud, or a list of clouds of any sizes: see `Cloud`. An array (B, n, 3 + C) is B clouds.
            category: what they are, one of `class_names`. None: each is what its `Sample.label` says, an index of
                `class_names`, and a model of one class needs not be told.
            not_finite: see `prepare`.

        Returns:
            a prediction, or a list of them for several clouds.

        Raises:
            FileFormatError, ValueError: see `prepare`; it is not known what a cloud is, there is no such category, or
                the model gives NaN.
        """
        samples, alone = self._read_several(clouds, not_finite)
        predictions = self.segment(samples, category)
        return predictions[0] if alone else predictions

    def segment(self, samples: Sequence[Sample], category: str | None = None) -> list[PartPrediction]:
        """The part of every point of samples that `prepare` has given.

        Args:
            samples: of any sizes.
            category: see `predict`.

        Raises:
            ValueError: see `predict`.
        """
        parts = parts_of_classes(self.class_names, self.part_names)
        labels = [self._label(sample, category) for sample in samples]
        normalise, subset = normalisation(self.settings.data), EvenSubset(self.settings.data.eval_points)
        whole = [
            dataclasses.replace(normalise(sample, torch.Generator()), label=label, point_labels=None)
            for sample, label in zip(samples, labels)
        ]
        seen = CloudDataset([subset(one) for one in whole], labels, self.class_names, part_names=self.part_names)
        found = part_logits(self.model, seen, **as_trained(self.settings.optimization, self.device))
        predictions = []
        for sample, normalised, (prepared, logits) in zip(samples, whole, found):
            own = parts[prepared.label]
            probabilities = _carried(logits[:, own].softmax(1), prepared.xyz, normalised.xyz)  # (n, parts)
            highest, index = probabilities.max(1)
            row = (sample.name, self.class_names[prepared.label], sample.xyz.numpy(), np.array(own)[index.numpy()])
            predictions.append(PartPrediction(*row, highest.numpy(), self.part_names, tuple(own)))
        return predictions

    def _label(self, sample: Sample, category: str | None) -> int:
        known = ", ".join(self.class_names)
        if category is not None:
            if category not in self.class_names:
                hint = did_you_mean(category, self.class_names)
                raise ValueError(f"there is no category {category!r}; {hint}")
            return self.class_names.index(category)
        if len(self.class_names) == 1:
            return 0
        if not 0 <= sample.label < len(self.class_names):
            raise ValueError(f"{sample.name}: what is it? The parts are those of a category; give one of {known}")
        return sample.label


def _carried(values: Tensor, xyz: Tensor, to_xyz: Tensor) -> Tensor:
    """(n, C) at points (n, 3) from values (m, C) at some of them (m, 3): means of the three nearest by distance."""
    if len(xyz) == len(to_xyz):
        return values
    of_one, to_one = (torch.tensor([0, len(points)]) for points in (xyz, to_xyz))
    return interpolate(xyz, of_one, values, to_xyz, to_one)
