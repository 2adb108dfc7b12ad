"""What lies beside one file of points in KITTI's folders: velodyne/000134.bin, calib/000134.txt, image_2/000134.png ...

`read_frame` wants a whole frame; here whatever is missing is None, for files of points that may come from anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pctransformer.datasets.kitti.boxes import lidar_boxes
from pctransformer.datasets.kitti.calibration import USUAL_IMAGE_SIZE, Calibration, read_calibration
from pctransformer.datasets.kitti.images import read_image_size
from pctransformer.datasets.kitti.objects import read_objects


def camera_beside(points_file: str | Path) -> tuple[Calibration, tuple[int, int]] | None:
    """Calibration and image size that lie beside a file of points: velodyne/000134.bin, calib/000134.txt.

    Returns:
        what `read_frame` reads; None where there is no such calibration, or the points are in a folder of another name
        than velodyne, velodyne_reduced and so on, so that a file called like that may be anything.

    Raises:
        FileFormatError: the calibration or the image is broken.
    """
    calibration = _beside(points_file, "calib", ".txt")
    if calibration is None:
        return None
    image = _beside(points_file, "image_2", ".png")
    return read_calibration(calibration), USUAL_IMAGE_SIZE if image is None else read_image_size(image)


def image_beside(points_file: str | Path) -> Path | None:
    """The left colour image of the frame, image_2/000134.png, if there is one and a calibration that goes with it."""
    return None if _beside(points_file, "calib", ".txt") is None else _beside(points_file, "image_2", ".png")


def labels_beside(points_file: str | Path, class_names: Sequence[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """The labelled objects of the frame, label_2/000134.txt, without DontCare.

    Args:
        points_file: velodyne/000134.bin.
        class_names: of the classes 0, 1, ...; objects of other types have label -1.

    Returns:
        boxes (n, 7) float32 in the LiDAR's frame and labels (n,) int64; None where there is no such file, or no
        calibration.

    Raises:
        FileFormatError: the labels or the calibration are broken.
    """
    calibration, labels = _beside(points_file, "calib", ".txt"), _beside(points_file, "label_2", ".txt")
    if calibration is None or labels is None:
        return None
    objects = read_objects(labels, scores=False)
    objects = objects.take(objects.types != "DontCare")
    number = {name: i for i, name in enumerate(class_names)}
    boxes = lidar_boxes(objects, read_calibration(calibration)).astype(np.float32)
    return boxes, np.array([number.get(kind, -1) for kind in objects.types], np.int64)


def _beside(points_file: str | Path, folder: str, suffix: str) -> Path | None:
    file = Path(points_file)
    found = file.parent.parent / folder / f"{file.stem}{suffix}"
    return found if file.parent.name.startswith("velodyne") and found.is_file() else None
