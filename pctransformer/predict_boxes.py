"""What a trained detector finds in a LiDAR scan: `load("runs/detection").predict("velodyne/000008.bin")`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pctransformer.datasets.box_files import NamedBoxes, as_records, write_boxes
from pctransformer.datasets.kitti import (
    Calibration,
    KittiObjects,
    camera_beside,
    image_beside,
    read_calibration,
    read_image,
    to_kitti,
)
from pctransformer.datasets.kitti.calibration import USUAL_IMAGE_SIZE
from pctransformer.datasets.kitti.objects import write_objects
from pctransformer.datasets.lidar_points import lidar_channels, read_lidar
from pctransformer.evaluation.sweeps import detect, seen_by
from pctransformer.training.report import autocast_type
from pctransformer.training.settings import DetectionTraining

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EDGE = 10  # metres: figures end at whole multiples of it


@dataclasses.dataclass(frozen=True, eq=False)
class DetectionPrediction:
    """The boxes that a detector found in one scan.

    Attributes:
        name: of the scan: its file, or what the caller calls it.
        class_names: names that labels index.
        boxes: (k, 7) float32 x, y, z of the centre, dx, dy, dz, heading, in the scan's frame.
        labels: (k,) int64 class of each box.
        scores: (k,) float32 in [0, 1], falling.
        points: (n, 3 or more) float32, those that the model saw: in its range, and in the camera's view where there is
            a camera.
        calibration: of the camera, or None.
        image_size: width and height of its image, pixels, or None.
        image_file: that image, where it lies beside the file, or None.
        beyond_camera: whether the detector, trained on what a camera sees, was shown all that is in its range, since
            there is no calibration.
    """

    name: str
    class_names: tuple[str, ...]
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    points: np.ndarray
    calibration: Calibration | None = None
    image_size: tuple[int, int] | None = None
    image_file: Path | None = None
    beyond_camera: bool = False

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def counts(self) -> dict[str, int]:
        """Boxes of each class that was found."""
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        return {name: int(count) for name, count in zip(self.class_names, counts) if count}

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.counts.items()) or "nothing"
        return f"DetectionPrediction({self.name!r}, {len(self.points)} points: {counts})"

    def above(self, score: float) -> DetectionPrediction:
        """Only the boxes with at least this score."""
        kept = self.scores >= score
        return dataclasses.replace(
            self, boxes=self.boxes[kept], labels=self.labels[kept], scores=self.scores[kept]
        )  # fmt: skip

    # ---- in other forms ----------------------------------------------------------------------------------------------
    def named(self) -> NamedBoxes:
        """The boxes with the names of their classes."""
        return NamedBoxes(np.array(self.class_names, np.str_)[self.labels], self.boxes, self.scores)

    def to_json(self) -> list[dict[str, Any]]:
        """Plain values: class, box (x, y, z, dx, dy, dz, heading) and score of each, as `read_boxes` reads them."""
        return as_records(self.named())

    def to_kitti(
        self, calibration: Calibration | None = None, image_size: tuple[int, int] | None = None
    ) -> KittiObjects:
        """The boxes that the camera sees, as KITTI's evaluation wants them; `write_objects` makes the file.

        Args:
            calibration: None: that of the scan.
            image_size: width and height, pixels. None: that of the scan, else the usual one of KITTI.

        Raises:
            ValueError: there is no calibration, without which boxes have no place in a camera's frame.
        """
        calibration = calibration or self.calibration
        if calibration is None:
            raise ValueError(
                f"{self.name}: KITTI's files give boxes in the frame of a camera, and the scan has no calibration; give"
                " one, or use write(), which needs no camera"
            )
        size = image_size or self.image_size or USUAL_IMAGE_SIZE
        return to_kitti(
            self.boxes, self.scores, self.labels,
            class_names=self.class_names, calibration=calibration, image_size=size,
        )  # fmt: skip

    def to_open3d(self, *, labelled: tuple[np.ndarray, np.ndarray] | None = None) -> list[Any]:
        """The cloud, coloured by height, and wire boxes in the colours of their classes: `open3d.visualization.draw`.

        Args:
            labelled: as of `figure`; green wires.

        Raises:
            ImportError: Open3D is not installed.
        """
        from pctransformer.visualization.geometry import open3d_scene

        return open3d_scene(self.points, self.boxes, self.labels, labelled=labelled)

    def figure(self, *, labelled: tuple[np.ndarray, np.ndarray] | None = None) -> Figure:
        """The scan seen from above with its boxes and their scores.

        Args:
            labelled: boxes (m, 7) and labels (m,) of the truth, -1 ignored, which are drawn green.
        """
        from pctransformer.visualization.detection import scan_figure

        boxes, labels = labelled if labelled is not None else (np.zeros((0, 7)), np.zeros(0, np.int64))
        predicted = (self.boxes, self.labels, self.scores)
        return scan_figure(
            self.points, boxes, labels, self.class_names,
            predicted=predicted, range=self._extent(), title=Path(self.name).name,
        )  # fmt: skip

    def camera_figure(
        self, image: np.ndarray | str | Path | None = None, *, labelled: tuple[np.ndarray, np.ndarray] | None = None
    ) -> Figure:
        """The image of the camera with the boxes as wires, and their scores.

        Args:
            image: a PNG, or pixels (height, width, 3), red, green and blue in [0, 1] or uint8. None: that beside the
                file.
            labelled: as of `figure`; see `pctransformer.datasets.kitti.labels_beside`.

        Raises:
            ValueError: there is no image, or no calibration, without which boxes have no place in it.
            FileFormatError: the image is missing or broken.
        """
        from pctransformer.visualization.camera_image import camera_figure

        image = self.image_file if image is None else image
        if image is None or self.calibration is None:
            raise ValueError(
                f"{self.name}: a picture of the camera wants its image and a calibration; there is no"
                f" {'calibration: give one to predict()' if self.calibration is None else 'image: give one'}"
            )
        pixels = read_image(image) if isinstance(image, (str, Path)) else image
        boxes, labels = labelled if labelled is not None else (np.zeros((0, 7)), np.zeros(0, np.int64))
        return camera_figure(
            pixels, self.calibration, boxes, labels, self.class_names,
            predicted=(self.boxes, self.labels, self.scores), title=Path(self.name).name,
        )  # fmt: skip

    def _extent(self) -> tuple[float, float, float, float]:
        """Smallest x and y, largest x and y of points and boxes, at whole multiples of ten metres."""
        places = np.concatenate([self.points[:, :2], self.boxes[:, :2]])
        low, high = (places.min(0), places.max(0)) if len(places) else (np.zeros(2), np.ones(2))
        (x0, y0), (x1, y1) = np.floor(low / _EDGE) * _EDGE, np.floor(high / _EDGE) * _EDGE + _EDGE
        return float(x0), float(y0), float(x1), float(y1)

    def write(self, folder: Path, stem: str) -> None:
        """STEM.txt with a line `class x y z dx dy dz heading score` for each box; and, where there is a calibration,
        kitti/STEM.txt, as KITTI's evaluation reads it."""
        write_boxes(folder / f"{stem}.txt", self.named())
        if self.calibration is not None:
            (folder / "kitti").mkdir(exist_ok=True)
            write_objects(folder / "kitti" / f"{stem}.txt", self.to_kitti())


class DetectorPredictor:
    """A detector with all that belongs to it; `pctransformer.load` makes one from a run.

    Attributes:
        model: a detector of `pctransformer.models`, in evaluation mode.
        class_names: of its boxes.
        settings: those it was trained with.
        device: where the model is.
        camera_view: whether it knows only what a camera sees.
    """

    def __init__(
        self,
        model: nn.Module,
        class_names: Sequence[str],
        settings: DetectionTraining,
        device: torch.device,
        *,
        camera_view: bool | None = None,
    ) -> None:
        """Put them together; `camera_view` None: as the settings say."""
        self.model: Any = model.to(device).eval()
        self.class_names, self.settings, self.device = tuple(class_names), settings, device
        self.camera_view = settings.data.camera_view if camera_view is None else camera_view

    def predict(
        self,
        scan: str | Path | np.ndarray | Tensor,
        *,
        calibration: Calibration | str | Path | None = None,
        image_size: tuple[int, int] | None = None,
        camera_view: bool | None = None,
        around: bool = False,
        lift: float = 0.0,
        score_threshold: float | None = None,
        columns: int | None = None,
        reflectance: float | None = None,
        not_finite: Literal["error", "drop"] = "error",
        name: str = "scan",
    ) -> DetectionPrediction:
        """Find the objects in one scan.

        KITTI labels only what its camera sees, so that its detectors know nothing else: where a calibration lies beside
        a file as in KITTI's folders (velodyne/000008.bin, calib/000008.txt), or is given, points that the camera does
        not see are left out. Any other scan is predicted without a camera, everywhere in the model's range, which
        `DetectionPrediction.beyond_camera` tells.

        Args:
            scan: a file of points, see `datasets.lidar_points.read_lidar`, or rows (n, 3 + C): x forward, y left, z up
                from the sensor, metres; then reflectance in [0, 1], or up to 255.
            calibration: a file or what was read of it. None: that beside the file, if there is one.
            image_size: width and height, pixels. None: of the image beside the file, else the usual one of KITTI.
            camera_view: whether to leave out what a camera does not see, where there is one. None: as in training.
            around: whether to look in all directions, even with a model that was trained to look only ahead; no camera
                is heeded then. It takes several times as long (see `evaluation.sweeps`). Sweeps of nuScenes, whose y
                points ahead, are to be predicted so.
            lift: metres to raise the points by before, and to lower the boxes by afterwards: how much higher this
                sensor stands over the ground than that of the training data (KITTI 1.73 m, nuScenes 1.84 m).
            score_threshold: least score of a box; None: the model's own.
            columns: values per point of a .bin file; None: 5 for .pcd.bin (nuScenes), else 4 (KITTI).
            reflectance: of all points in [0, 1], where the file holds none and the model wants it. None: as in
                training.
            not_finite: what to do with points that are NaN or infinite: "error", or "drop" them.
            name: of rows.

        Raises:
            FileFormatError: a file is missing or broken, or lacks what the model needs.
            ValueError: rows are not as they should be, no point is in the model's range, or the model gives NaN.
        """
        reflectance = self.settings.data.reflectance if reflectance is None else reflectance
        if isinstance(scan, (str, Path)):
            name = str(scan)
            points = read_lidar(
                scan, channels=self.model.in_channels, columns=columns, reflectance=reflectance, not_finite=not_finite
            )
        else:
            points = self._rows(scan, name, reflectance, not_finite)
        camera = None if around else _camera(scan, calibration, image_size)
        camera_view = self.camera_view if camera_view is None else camera_view
        if camera is not None and camera_view:
            points = points[camera[0].in_view(points[:, :3], camera[1])]
        raised = points + np.array([0, 0, lift] + [0] * (points.shape[1] - 3), np.float32)
        seen = seen_by(self.model.grid, torch.from_numpy(raised), around=around).numpy()
        if not seen.any():
            low, high = self.model.grid.low, self.model.grid.high
            limits = ", ".join(f"{axis} {a:g} to {b:g}" for axis, a, b in zip("xyz", low, high))
            raise ValueError(
                f"{name}: none of its {len(points)} points is where the model looks, {limits}; points are wanted in the"
                " sensor's frame, x forward, y left, z up, metres"
            )
        found = detect(
            self.model, raised[seen], around=around, score_threshold=score_threshold,
            device=self.device, dtype=autocast_type(self.settings.optimization.precision),
        )  # fmt: skip
        assert found.scores is not None
        boxes = found.boxes.numpy() - np.array([0, 0, lift, 0, 0, 0, 0], np.float32)
        known, size = camera if camera is not None else (None, None)
        image = image_beside(scan) if isinstance(scan, (str, Path)) and known is not None else None
        return DetectionPrediction(
            name, self.class_names, boxes, found.labels.numpy(), found.scores.numpy(), points[seen],
            calibration=known, image_size=size, image_file=image,
            beyond_camera=camera is None and camera_view and not around,
        )  # fmt: skip

    def _rows(
        self, rows: np.ndarray | Tensor, name: str, reflectance: float | None, not_finite: Literal["error", "drop"]
    ) -> np.ndarray:
        if not isinstance(rows, (np.ndarray, Tensor)):
            raise TypeError(f"one scan at a time, a file or rows of points: got a {type(rows).__name__}")
        values = np.asarray(rows.detach().cpu() if isinstance(rows, Tensor) else rows)
        if values.ndim != 2 or values.shape[1] < 3 or values.dtype.kind not in "fiu":
            raise ValueError(f"{name}: a scan is rows of numbers (n, 3 + C), got {values.shape} {values.dtype}")
        finite = np.isfinite(values).all(axis=1)
        if not_finite == "error" and not finite.all():
            raise ValueError(
                f"{name}: {int((~finite).sum())} of {len(values)} points are NaN or infinite, first in row"
                f" {int(np.flatnonzero(~finite)[0])}; not_finite='drop' leaves such points out"
            )
        try:
            return lidar_channels(values[finite], self.model.in_channels, reflectance=reflectance)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def _camera(
    scan: str | Path | np.ndarray | Tensor,
    calibration: Calibration | str | Path | None,
    image_size: tuple[int, int] | None,
) -> tuple[Calibration, tuple[int, int]] | None:
    """The camera that is given, else that beside the file, else None."""
    beside = camera_beside(scan) if isinstance(scan, (str, Path)) and calibration is None else None
    if beside is not None:
        return beside[0], image_size or beside[1]
    if calibration is None:
        return None
    known = calibration if isinstance(calibration, Calibration) else read_calibration(calibration)
    return known, image_size or USUAL_IMAGE_SIZE
