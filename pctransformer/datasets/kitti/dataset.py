"""KITTI's frames as scans with LiDAR boxes."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from pctransformer.datasets.kitti.frames import KittiFrame
from pctransformer.datasets.scans import Scan, ScanDataset, ScanTransform

CLASS_NAMES = ("Car", "Pedestrian", "Cyclist")


def kitti_scans(
    frames: Sequence[KittiFrame],
    *,
    class_names: Sequence[str] = CLASS_NAMES,
    camera_view: bool = True,
    transform: ScanTransform | None = None,
    seed: int = 0,
    only_with_boxes: bool = False,
) -> ScanDataset:
    """Scans of KITTI, points with reflectance.

    Args:
        frames: of `read_split` or `read_infos`.
        class_names: of the classes 0, 1, ...; objects of other types have label -1.
        camera_view: keep only points that the camera sees, as KITTI labels nothing else.
        transform, seed, only_with_boxes: see `ScanDataset`.

    Example:
        >>> frames = []  # read_split("kitti", "train")
        >>> len(kitti_scans(frames))
        0
    """
    read = functools.partial(read_scan, tuple(frames), tuple(class_names), camera_view)
    names = [frame.name for frame in frames]
    return ScanDataset(names, read, class_names, transform=transform, seed=seed, only_with_boxes=only_with_boxes)


def read_scan(frames: Sequence[KittiFrame], class_names: Sequence[str], camera_view: bool, index: int) -> Scan:
    """The scan of one frame, see `kitti_scans`."""
    frame = frames[index]
    points = frame.read_points()
    if camera_view:
        points = points[frame.calibration.in_view(points[:, :3], frame.image_size)]
    number = {name: i for i, name in enumerate(class_names)}
    return Scan(
        points=points,
        boxes=frame.boxes.astype(np.float32),
        labels=np.array([number.get(kind, -1) for kind in frame.objects.types], np.int64),
        name=frame.name,
        ground=frame.plane,
    )
