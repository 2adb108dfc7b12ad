"""A small data set in KITTI's folders, written by tests: four frames, boxes of points on a flat road."""

from __future__ import annotations

import struct

import numpy as np

from pctransformer.datasets.kitti import Calibration, KittiObjects, camera_boxes, project_boxes, write_objects

SIZE = (1242, 375)
FOCAL = 721.5
CALIBRATION = """P0: 1 0 0 0 0 1 0 0 0 0 1 0
P2: 721.5 0 609.5 44.9 0 721.5 172.9 0.2 0 0 1 0.003
R0_rect: 0.9999239 0.00983776 -0.007445048 -0.009869795 0.9999421 -0.004278459 0.007402527 0.004351614 0.9999631
Tr_velo_to_cam: 0.007533745 -0.9999714 -0.000616602 -0.004069766 0.01480249 0.0007280733 -0.9998902 -0.07631618 \
0.9998621 0.00752379 0.01480755 -0.2717806
"""
BOXES = {
    "000000": [("Car", (12, 2, -1, 3.9, 1.6, 1.5, 0.3), 40), ("Pedestrian", (9, -3, -0.8, 0.8, 0.6, 1.7, 1.5), 9)],
    "000001": [("Cyclist", (20, 1, -0.8, 1.8, 0.6, 1.7, -2.0), 6), ("Van", (30, -6, -0.7, 5, 2, 2, 3.1), 20)],
    "000002": [("Car", (25, -4, -1, 4.1, 1.7, 1.5, -1.2), 4)],
    "000003": [],
}
"""Type, box in the LiDAR's frame, and points in it, of each object of each frame."""


def calibration() -> Calibration:
    rows = dict(line.split(": ") for line in CALIBRATION.splitlines())
    p2, r0, tr = (np.array(rows[name].split(), float) for name in ("P2", "R0_rect", "Tr_velo_to_cam"))
    return Calibration(p2.reshape(3, 4), r0.reshape(3, 3), tr.reshape(3, 4))


def camera_objects(boxes, types) -> KittiObjects:
    """Labels of boxes (n, 7) in the LiDAR's frame."""
    boxes = np.array(boxes, float).reshape(-1, 7)
    dimensions, locations, rotation_y = camera_boxes(boxes, calibration())
    zeros = np.zeros(len(boxes))
    return KittiObjects(
        types=np.array(types, dtype=np.str_),
        truncated=zeros,
        occluded=zeros.astype(np.int64),
        alpha=zeros,
        boxes_2d=project_boxes(boxes, calibration(), SIZE)[0],
        dimensions=dimensions,
        locations=locations,
        rotation_y=rotation_y,
    )


def points_within(generator, box, count):
    """(count, 4) float32 in the inner part of a box."""
    local = generator.uniform(-0.45, 0.45, (count, 3)) * box[3:6]
    cos, sin = np.cos(box[6]), np.sin(box[6])
    xy = np.column_stack([cos * local[:, 0] - sin * local[:, 1], sin * local[:, 0] + cos * local[:, 1]])
    xyz = np.column_stack([xy, local[:, 2]]) + box[:3]
    return np.column_stack([xyz, generator.uniform(0, 1, count)]).astype(np.float32)


def road(generator, count=400):
    """(count, 4) float32, below all boxes, all around."""
    xy = generator.uniform(-40, 60, (count, 2))
    return np.column_stack([xy, np.full(count, -1.9), np.zeros(count)]).astype(np.float32)


def write_kitti(folder):
    """Write the data set into a folder, splits train (three frames) and val; frame 000000 has an image's header."""
    generator = np.random.default_rng(0)
    training = folder / "training"
    for name in ("velodyne", "calib", "label_2", "image_2", "planes"):
        (training / name).mkdir(parents=True)
    for name, objects in BOXES.items():
        points = [points_within(generator, np.array(box), count) for _, box, count in objects]
        np.concatenate([road(generator), *points]).tofile(training / "velodyne" / f"{name}.bin")
        (training / "calib" / f"{name}.txt").write_text(CALIBRATION)
        write_objects(
            training / "label_2" / f"{name}.txt", camera_objects([b for _, b, _ in objects], [t for t, _, _ in objects])
        )
        with (training / "label_2" / f"{name}.txt").open("a") as file:
            file.write("DontCare -1 -1 -10 500.0 100.0 520.0 120.0 -1 -1 -1 -1000 -1000 -1000 -10\n")
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 1224, 370)
    (training / "image_2" / "000000.png").write_bytes(header)
    (training / "planes" / "000000.txt").write_text("# Matrix\nWIDTH 4\nHEIGHT 1\n0.0 -1.0 0.0 1.7\n")
    (folder / "ImageSets").mkdir()
    (folder / "ImageSets" / "train.txt").write_text("000000\n000001\n000002\n")
    (folder / "ImageSets" / "val.txt").write_text("000003\n")
    return folder
