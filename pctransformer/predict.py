"""What a trained model says about clouds and meshes, or their points: `load("runs/first").predict("chair.ply")`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor, nn

from pctransformer.datasets import CloudDataset, FileFormatError, Sample, collate, read_points
from pctransformer.datasets.files import MESH_SUFFIXES, NORMALS
from pctransformer.datasets.modelnet import sample_from
from pctransformer.datasets.transforms import EvenSubset, OnlyCoordinates
from pctransformer.errors import UserError, did_you_mean
from pctransformer.evaluation.segmentation import part_logits, parts_of_classes
from pctransformer.ops import interpolate
from pctransformer.predict_boxes import DetectorPredictor
from pctransformer.predict_scenes import ScenePredictor
from pctransformer.training import checkpoint
from pctransformer.training.data import evaluation_transform, normalisation
from pctransformer.training.distributed import choose_device
from pctransformer.training.report import as_trained, autocast_type
from pctransformer.training.settings import (
    ClassificationTraining,
    DetectionTraining,
    PartSegmentationTraining,
    SemanticSegmentationTraining,
)

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


# ---- reading ---------------------------------------------------------------------------------------------------------
class Predictor:
    """A trained model with all that belongs to it, and how clouds come to it. `load` makes one from a run.

    Attributes:
        model: in evaluation mode.
        class_names: of its logits, or of the objects whose parts it tells.
        settings: those it was trained with; clouds are prepared, and precision is chosen, as its test had them.
        device: where the model is.
    """

    def __init__(
        self,
        model: nn.Module,
        class_names: Sequence[str],
        settings: ClassificationTraining | PartSegmentationTraining,
        device: torch.device,
    ) -> None:
        self.model = model.to(device).eval()
        self.class_names = tuple(class_names)
        self.settings = settings
        self.device = device

    def prepare(self, cloud: Cloud, *, name: str = "cloud", not_finite: Literal["error", "drop"] = "error") -> Sample:
        """Read a cloud, and check that it is one.

        Args:
            cloud: see `Cloud`.
            name: of an array; files and samples have one.
            not_finite: what to do with points of files and arrays that are NaN or infinite: "error", or "drop" them.

        Raises:
            FileFormatError: a file is missing or broken.
            ValueError: a cloud has no points, or all in one place, so that there is no shape; it lacks normals, or has
                points that are not finite.
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
            raise ValueError(f"{name}: {found}, so there is no shape")
        return OnlyCoordinates(self.settings.data.normals)(dataclasses.replace(sample, name=name))

    def _read_several(
        self, clouds: Cloud | Sequence[Cloud], not_finite: Literal["error", "drop"]
    ) -> tuple[list[Sample], bool]:
        """The clouds, and whether there is only one, not in a list."""
        if isinstance(clouds, (np.ndarray, Tensor)) and clouds.ndim == 3:
            clouds = list(clouds)
        if isinstance(clouds, (str, Path, np.ndarray, Tensor, Sample)):
            return [self.prepare(clouds, not_finite=not_finite)], True
        if not isinstance(clouds, Sequence):
            raise TypeError(f"clouds must be a file, rows of points, a Sample, or a list of those, got {type(clouds)}")
        return [self.prepare(cloud, name=f"cloud {i}", not_finite=not_finite) for i, cloud in enumerate(clouds)], False

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


# ---- classes ---------------------------------------------------------------------------------------------------------
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


# ---- parts -----------------------------------------------------------------------------------------------------------
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


# ---- loading ---------------------------------------------------------------------------------------------------------
def load(
    run_or_checkpoint: str | Path, device: str | torch.device = "cpu"
) -> ClassPredictor | PartPredictor | ScenePredictor | DetectorPredictor:
    """A trained model, ready to predict classes of clouds, parts of objects, what each point of a scene is, or boxes.

    Args:
        run_or_checkpoint: the folder of a run, of which the best checkpoint is taken, or a checkpoint file.
        device: "cpu", "cuda", "cuda:1"; "auto" for a GPU where there is one.

    Raises:
        UserError: there is no checkpoint, it is damaged, it is of pretraining, or a later version has written it; or
            there is no such device.

    Example:
        print(load("runs/first").predict("chair.ply"))
        print(load("runs/parts").predict("chair.ply", "chair"))
        print(load("runs/rooms").predict("scan.ply"))
        print(load("runs/detection").predict("velodyne/000008.bin"))
    """
    chosen = choose_device(str(device))
    read = checkpoint.read(run_or_checkpoint)
    task = read.about.get("task")
    kinds = (ClassificationTraining, PartSegmentationTraining, SemanticSegmentationTraining, DetectionTraining)
    tasks = [kind.task for kind in kinds]
    if task not in tasks:
        raise UserError(f"{read.path} was trained for {task}; predictions want a model for one of {', '.join(tasks)}")
    model = read.build_model()
    classes, parts = read.about.get("class_names", []), read.about.get("part_names", [])
    names, what = (parts, "part") if task == PartSegmentationTraining.task else (classes, "class")
    if len(names) != (outputs := read.about["model"]["num_classes"]):
        raise UserError(f"{read.path} has {len(names)} {what} names, but its model has {outputs} classes")
    if task == PartSegmentationTraining.task:
        return PartPredictor(model, classes, parts, read.settings(PartSegmentationTraining), chosen)
    if task == SemanticSegmentationTraining.task:
        return ScenePredictor(model, classes, read.settings(SemanticSegmentationTraining), chosen)
    if task == DetectionTraining.task:
        return DetectorPredictor(model, classes, read.settings(DetectionTraining), chosen)
    return ClassPredictor(model, classes, read.settings(ClassificationTraining), chosen)
