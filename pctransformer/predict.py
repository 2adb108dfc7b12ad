"""What a trained classifier says about clouds and meshes: `load("runs/first").predict("chair.ply")`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor, nn

from pctransformer.datasets import FileFormatError, Sample, collate, read_points
from pctransformer.datasets.files import MESH_SUFFIXES, NORMALS
from pctransformer.datasets.modelnet import sample_from
from pctransformer.errors import UserError
from pctransformer.training import checkpoint
from pctransformer.training.data import evaluation_transform
from pctransformer.training.distributed import choose_device
from pctransformer.training.report import autocast_type
from pctransformer.training.settings import ClassificationTraining

Cloud: TypeAlias = str | Path | np.ndarray | Tensor | Sample
"""A file of points or a mesh, rows of points (n, 3 + C), or a sample of a data set."""

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


class Predictor:
    """A classifier with all that belongs to it: names of its classes, and what clouds go through before it sees them.

    `load` makes one from a run or a checkpoint.

    Attributes:
        model: in evaluation mode.
        class_names: of its logits.
        settings: those it was trained with; clouds are prepared, and precision is chosen, as its test had them.
        device: where the model is.
    """

    def __init__(
        self, model: nn.Module, class_names: Sequence[str], settings: ClassificationTraining, device: torch.device
    ) -> None:
        self.model = model.to(device).eval()
        self.class_names = tuple(class_names)
        self.settings = settings
        self.device = device
        self._transform = evaluation_transform(settings.data)

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
            not_finite: what to do with points of files and arrays that are NaN or infinite: "error", or "drop" them.

        Returns:
            a prediction, or a list of them for several clouds.

        Raises:
            FileFormatError: a file is missing or broken.
            ValueError: a cloud has no points, or all in one place, so that there is no shape to classify; it lacks
                normals, or has points that are not finite; or the model gives NaN.
        """
        if isinstance(clouds, (np.ndarray, Tensor)) and clouds.ndim == 3:
            clouds = list(clouds)
        if isinstance(clouds, (str, Path, np.ndarray, Tensor, Sample)):
            return self.classify([self.prepare(clouds, not_finite=not_finite)], top)[0]
        if not isinstance(clouds, Sequence):
            raise TypeError(f"clouds must be a file, rows of points, a Sample, or a list of those, got {type(clouds)}")
        samples = [self.prepare(cloud, name=f"cloud {i}", not_finite=not_finite) for i, cloud in enumerate(clouds)]
        return self.classify(samples, top)

    def prepare(self, cloud: Cloud, *, name: str = "cloud", not_finite: Literal["error", "drop"] = "error") -> Sample:
        """Read a cloud, and choose and normalise its points as in the model's test.

        Args:
            cloud: see `Cloud`.
            name: of an array; files and samples have one.
            not_finite: see `predict`.

        Raises:
            ValueError, FileFormatError: see `predict`.
        """
        if isinstance(cloud, Sample):
            sample = cloud
        elif isinstance(cloud, (str, Path)):
            sample = self._read(Path(cloud), not_finite)
        else:
            sample = self._from_rows(cloud, name, not_finite)
        name = sample.name or name
        if not sample.xyz.isfinite().all():
            raise ValueError(f"{name}: it has points that are NaN or infinite")
        count = len(sample)
        if not count or (sample.xyz == sample.xyz[0]).all():
            few = ("there are no points", "there is only one point")
            found = few[count] if count < 2 else f"all {count} points lie in one place"
            raise ValueError(f"{name}: {found}, so there is no shape to classify")
        return self._transform(dataclasses.replace(sample, name=name), torch.Generator())

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

    def _read(self, path: Path, not_finite: Literal["error", "drop"]) -> Sample:
        if path.is_dir():
            raise FileFormatError(path, "this is a folder; give the files in it")
        if path.suffix.lower() == ".bin":
            raise FileFormatError(
                path,
                "a .bin file does not say how many values a point has; predict the array that"
                " read_points(path, columns=4) gives, 4 for KITTI and 5 for nuScenes",
            )
        data = self.settings.data
        read = partial(read_points, path, num_points=data.drawn_points, not_finite=not_finite)
        if not data.normals:
            points = read(features=())
        else:
            names_its_columns = path.suffix.lower() in (*MESH_SUFFIXES, ".pcd")
            try:
                points = read(features=NORMALS if names_its_columns else None)
            except FileFormatError as error:
                read(features=())  # where the file itself is broken, this says how
                raise FileFormatError(path, f"{error.problem}; {_NEEDS_NORMALS}") from None
        return dataclasses.replace(self._from_rows(points, path.name, not_finite), name=str(path))

    def _from_rows(self, cloud: np.ndarray | Tensor, name: str, not_finite: Literal["error", "drop"]) -> Sample:
        if isinstance(cloud, Tensor):
            cloud = cloud.detach().cpu().to(torch.promote_types(cloud.dtype, torch.float32)).numpy()
        cloud = np.asarray(cloud)
        lying = cloud.ndim == 2 and cloud.shape[0] in (3, 6) and cloud.shape[1] not in (3, 6)
        if cloud.ndim != 2 or cloud.shape[1] < 3 or cloud.dtype.kind not in "fiu" or lying:
            hint = "; if its columns are the points, transpose it" if lying else ""
            raise ValueError(f"{name}: a cloud is rows of numbers (n, 3 + C), got {cloud.shape} {cloud.dtype}{hint}")
        columns = 6 if self.settings.data.normals else 3
        if cloud.shape[1] < columns:
            raise ValueError(f"{name}: a point has {cloud.shape[1]} values; {_NEEDS_NORMALS}")
        points = cloud[:, :columns].astype(np.result_type(cloud.dtype, np.float32))
        finite = np.isfinite(points).all(axis=1)
        if not finite.all():
            if not_finite == "error":
                raise ValueError(
                    f"{name}: {int((~finite).sum())} of {len(points)} points are NaN or infinite, first in row"
                    f" {int(np.flatnonzero(~finite)[0])}; not_finite='drop' leaves such points out"
                )
            points = points[finite]
        if not len(points):
            return Sample(torch.empty(0, 3), normals=torch.empty(0, 3), name=name)
        return sample_from(points, label=-1, name=name, path=name)


_NEEDS_NORMALS = "this model was trained with normals, so it needs x, y, z and the three values of a unit normal"


def load(run_or_checkpoint: str | Path, device: str | torch.device = "cpu") -> Predictor:
    """A trained classifier, ready to predict.

    Args:
        run_or_checkpoint: the folder of a run, of which the best checkpoint is taken, or a checkpoint file.
        device: "cpu", "cuda", "cuda:1"; "auto" for a GPU where there is one.

    Raises:
        UserError: there is no checkpoint, it is damaged, it is not of a classifier, or a later version has written it;
            or there is no such device.

    Example:
        predictor = load("runs/first")
        print(predictor.predict("chair.ply"))
    """
    chosen = choose_device(str(device))
    read = checkpoint.read(run_or_checkpoint)
    task = read.about.get("task")
    if task != "classification":
        raise UserError(f"{read.path} was trained for {task}; classes are predicted by a model for classification")
    model = read.build_model()
    names, classes = read.about.get("class_names", []), read.about["model"]["num_classes"]
    if len(names) != classes:
        raise UserError(f"{read.path} has {len(names)} class names, but its model has {classes} classes")
    return Predictor(model, names, read.settings(ClassificationTraining), chosen)
