"""A data set in KITTI's folders that a detector learns in seconds: a road with two cars of points in each scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pctransformer.datasets.kitti import write_objects
from tests.datasets.kitti.files import CALIBRATION, camera_objects, points_within, road


def cars(generator, count=2):
    """Boxes (2, 7) side by side, each in its half of the road; and points in them."""
    boxes = generator.uniform([7, 0.5, -1.1, 3.6, 1.5, 1.4, -0.3], [16, 3.5, -0.9, 4.2, 1.7, 1.6, 0.3], (count, 7))
    boxes[1::2, 1] *= -1
    return boxes, [points_within(generator, box, 60) for box in boxes]


def write_streets(folder: Path) -> Path:
    """16 scans to train on and 4 to test on, in a folder that exists."""
    training = folder / "training"
    for name in ("velodyne", "calib", "label_2"):
        (training / name).mkdir(parents=True)
    names = [f"{i:06}" for i in range(20)]
    for seed, name in enumerate(names):
        generator = np.random.default_rng(seed)
        boxes, points = cars(generator)
        np.concatenate([road(generator, 800), *points]).tofile(training / "velodyne" / f"{name}.bin")
        (training / "calib" / f"{name}.txt").write_text(CALIBRATION)
        write_objects(training / "label_2" / f"{name}.txt", camera_objects(boxes, ["Car"] * len(boxes)))
    (folder / "ImageSets").mkdir()
    (folder / "ImageSets" / "train.txt").write_text("\n".join(names[:16]))
    (folder / "ImageSets" / "val.txt").write_text("\n".join(names[16:]))
    (folder / "ImageSets" / "trainval.txt").write_text("\n".join(names))
    return folder
