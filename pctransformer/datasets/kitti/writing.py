"""Frames into KITTI's standard folders, from where `read_split` reads them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pctransformer.atomic import replace_file
from pctransformer.datasets.kitti.calibration import write_calibration, write_plane
from pctransformer.datasets.kitti.frames import KittiFrame
from pctransformer.datasets.kitti.objects import write_objects
from pctransformer.errors import UserError


def write_frames(folder: str | Path, frames: Iterable[KittiFrame], splits: Mapping[str, Sequence[str]]) -> None:
    """Write points, calibration, labels, planes of roads, and lists of splits; no images.

    The folder appears when all of it is written, or not at all. Points and calibrations are read back to the last bit,
    planes to the error of turning them, labels as far as `write_objects` has decimals.

    Args:
        folder: must not exist, or be empty.
        frames: are written one by one as they come; an image size other than the usual one is lost.
        splits: names of the frames that each list in `ImageSets` gets; a split without frames gets none.

    Raises:
        UserError: the folder holds something already.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already and not an empty folder; name another, or remove it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as parent:
        whole = Path(parent) / folder.name
        root = whole / "training"
        for name in ("velodyne", "calib", "label_2", "planes"):
            (root / name).mkdir(parents=True)
        (whole / "ImageSets").mkdir()
        for frame in frames:
            replace_file(root / "velodyne" / f"{frame.name}.bin", frame.read_points().astype("<f4").tobytes())
            write_calibration(root / "calib" / f"{frame.name}.txt", frame.calibration)
            write_objects(root / "label_2" / f"{frame.name}.txt", frame.labels)
            if frame.plane is not None:
                write_plane(root / "planes" / f"{frame.name}.txt", frame.plane, frame.calibration)
        for split, names in splits.items():
            if names:
                replace_file(whole / "ImageSets" / f"{split}.txt", "".join(f"{name}\n" for name in names).encode())
        whole.rename(folder)
