"""KITTI, 3-D object detection: its files, and everything that knows its camera frames.

Geiger, Lenz, Urtasun, Are we ready for Autonomous Driving?, 2012. `read_split` reads the standard folders,
`kitti_scans` makes scans of its frames, with boxes in the LiDAR's frame, and `to_kitti` makes KITTI's detections of
boxes.
"""

from pctransformer.datasets.kitti.beside import camera_beside, image_beside, labels_beside
from pctransformer.datasets.kitti.boxes import camera_boxes, lidar_boxes, project_boxes, project_lines, to_kitti
from pctransformer.datasets.kitti.calibration import Calibration, read_calibration
from pctransformer.datasets.kitti.dataset import CLASS_NAMES, kitti_scans
from pctransformer.datasets.kitti.frames import (
    KittiFrame,
    read_frame,
    read_infos,
    read_split,
    write_infos,
)
from pctransformer.datasets.kitti.images import read_image
from pctransformer.datasets.kitti.objects import KittiObjects, read_objects, write_objects
from pctransformer.datasets.kitti.openpcdet import read_openpcdet_infos
from pctransformer.datasets.kitti.prepare import check_counts

__all__ = [
    "CLASS_NAMES",
    "Calibration",
    "KittiFrame",
    "KittiObjects",
    "camera_beside",
    "camera_boxes",
    "check_counts",
    "image_beside",
    "kitti_scans",
    "labels_beside",
    "lidar_boxes",
    "project_boxes",
    "project_lines",
    "read_calibration",
    "read_frame",
    "read_image",
    "read_infos",
    "read_objects",
    "read_openpcdet_infos",
    "read_split",
    "to_kitti",
    "write_infos",
    "write_objects",
]
