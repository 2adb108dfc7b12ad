"""How clouds and meshes come to a trained model of shapes, whatever form they are in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from pctransformer.datasets import FileFormatError, Sample, read_points
from pctransformer.datasets.files import MESH_SUFFIXES, NORMALS
from pctransformer.datasets.modelnet import sample_from
from pctransformer.datasets.transforms import OnlyCoordinates
from pctransformer.training.settings import ClassificationTraining, PartSegmentationTraining

Cloud: TypeAlias = str | Path | np.ndarray | Tensor | Sample
"""A file of points or a mesh, rows of points (n, 3 + C), or a sample of a data set."""

_NEEDS_NORMALS = "this model was trained with normals, so it needs x, y, z and the three values of a unit normal"


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
