"""LiDAR scans to learn from without labels: any files of points, boxes or none beside them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pctransformer.datasets.files import FileFormatError
from pctransformer.datasets.formats.common import decode, read_bytes
from pctransformer.datasets.kitti.beside import camera_beside
from pctransformer.datasets.layouts import existing_folder
from pctransformer.datasets.lidar_folder import LIDAR_SUFFIXES
from pctransformer.datasets.lidar_points import read_lidar
from pctransformer.datasets.scans import Scan, ScanDataset

_PLACES = ("training/velodyne", "train/points", "points")


def unlabelled_scans(root: str | Path, *, camera_view: bool = True) -> ScanDataset:
    """The scans of a folder, without boxes, in alphabetical order; read when asked for.

    Args:
        root: KITTI's folder, one of your own scans (see `lidar_folder`), or any folder with files of points in it. Of
            data with splits, those to train on: what `ImageSets/train.txt` lists, or the folder `train`.
        camera_view: of KITTI's scans, keep only points that the camera sees.

    Raises:
        FileFormatError: there is no such folder, no scan in it, or a listed one is missing; or, on fetching, a file
            is broken, or has no calibration where the camera's view is asked for.
    """
    root = existing_folder(root)
    place = next((place for place in _PLACES if (root / place).is_dir()), ".")
    files = [
        file
        for file in sorted((root / place).rglob("*"))
        if file.suffix.lower() in LIDAR_SUFFIXES and not file.name.startswith(".")
    ]
    listed = root / "ImageSets" / "train.txt"
    if place != "train/points" and listed.is_file():
        named = {_name(file): file for file in files}
        names = decode(read_bytes(listed), listed).split()
        if absent := [name for name in names if name not in named]:
            raise FileFormatError(root / place, f"there is no scan {absent[0]}, which {listed.name} lists")
        files = [named[name] for name in names]
    if not files:
        raise FileFormatError(root / place, f"there is no file that ends in one of {' '.join(LIDAR_SUFFIXES)}")
    in_view = camera_view and place == "training/velodyne"
    return ScanDataset([_name(file) for file in files], partial(_read, tuple(files), in_view), ())


def _read(files: Sequence[Path], in_view: bool, index: int) -> Scan:
    file = files[index]
    points = read_lidar(file)
    if in_view:
        camera = camera_beside(file)
        if camera is None:
            raise FileFormatError(
                file, f"its calibration, calib/{file.stem}.txt, is missing, which says what the camera sees; without"
                " the camera's view none is needed (--no-camera-view)",
            )  # fmt: skip
        calibration, image_size = camera
        points = points[calibration.in_view(points[:, :3], image_size)]
    return Scan(points, np.zeros((0, 7), np.float32), np.zeros(0, np.int64), _name(file))


def _name(file: Path) -> str:
    """Sweeps of nuScenes end in .pcd.bin."""
    return file.stem.removesuffix(".pcd")
