"""What class a trained model takes a cloud for: `load("runs/first").predict("chair.ply")`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, overload

import numpy as np
import torch
from torch import Tensor

from pctransformer.datasets import Sample, collate
from pctransformer.predict_clouds import Cloud, Predictor
from pctransformer.training.data import evaluation_transform
from pctransformer.training.report import autocast_type

_BATCH = 32  # clouds that go through the model at once


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says about one cloud.

    Attributes:
        name: of the cloud: its file, its name in a data set, or its place in a list.
        classes: (class name, probability), the most probable first.
        xyz: (n, 3) float32, the points that the model saw: some of those given, moved to the origin and scaled.

    Example:
        >>> prediction = Prediction("a.ply", (("cup", 0.75), ("vase", 0.25)), np.zeros((5, 3), np.float32))
        >>> prediction.label, prediction.probability
        ('cup', 0.75)
        >>> prediction
        Prediction('a.ply', cup 75.0%, vase 25.0%)
    """

    name: str
    classes: tuple[tuple[str, float], ...]
    xyz: np.ndarray

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[0][0]

    @property
    def probability(self) -> float:
        """Of the most probable class."""
        return self.classes[0][1]

    def __repr__(self) -> str:
        classes = ", ".join(f"{label} {probability:.1%}" for label, probability in self.classes)
        return f"Prediction({self.name!r}, {classes})"


class ClassPredictor(Predictor):
    """A classifier."""

    def prepare(self, cloud: Cloud, *, name: str = "cloud", not_finite: Literal["error", "drop"] = "error") -> Sample:
        """Read a cloud, and choose and normalise its points as in the model's test; see `Predictor.prepare`."""
        sample = super().prepare(cloud, name=name, not_finite=not_finite)
        return evaluation_transform(self.settings.data)(sample, torch.Generator())

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is a Sequence of str, too
        self, clouds: Cloud, top: int = 5, *, not_finite: Literal["error", "drop"] = "error"
    ) -> Prediction: ...

    @overload
    def predict(
        self, clouds: Sequence[Cloud], top: int = 5, *, not_finite: Literal["error", "drop"] = "error"
    ) -> list[Prediction]: ...

    def predict(
        self, clouds: Cloud | Sequence[Cloud], top: int = 5, *, not_finite: Literal["error", "drop"] = "error"
    ) -> Prediction | list[Prediction]:
        """The most probable classes of one cloud or of several.

        Clouds are prepared as in the model's test. Meshes are first sampled on their surface, always at the same
        points. Channels after x, y, z, or x, y, z and normals for a model that was trained with normals, are left out.

        Args:
            clouds: one cloud, or a list of clouds of any sizes: see `Cloud`. An array (B, n, 3 + C) is B clouds.
            top: how many classes, the most probable first; all of them, if they are fewer.
            not_finite: see `prepare`.

        Returns:
            a prediction, or a list of them for several clouds.

        Raises:
            FileFormatError, ValueError: see `prepare`; or the model gives NaN.
        """
        samples, alone = self._read_several(clouds, not_finite)
        predictions = self.classify(samples, top)
        return predictions[0] if alone else predictions

    def classify(self, samples: Sequence[Sample], top: int = 5) -> list[Prediction]:
        """The most probable classes of samples that `prepare` has given.

        Args:
            samples: of any sizes.
            top: see `predict`.

        Raises:
            ValueError: the model gives NaN.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1, got {top}")
        predictions: list[Prediction] = []
        dtype = autocast_type(self.settings.optimization.precision)
        with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            for begin in range(0, len(samples), _BATCH):
                batch = samples[begin : begin + _BATCH]
                points, _ = collate(batch)
                probabilities = self.model(points.to(self.device)).float().softmax(1).cpu()
                predictions += [self._prediction(sample, row, top) for sample, row in zip(batch, probabilities)]
        return predictions

    def _prediction(self, sample: Sample, probabilities: Tensor, top: int) -> Prediction:
        if not probabilities.isfinite().all():
            raise ValueError(f"the model gives NaN for {sample.name}: its weights are not finite")
        values, index = probabilities.sort(descending=True, stable=True)
        classes = [(self.class_names[i], value) for i, value in zip(index[:top].tolist(), values[:top].tolist())]
        return Prediction(sample.name, tuple(classes), sample.xyz.numpy())
