"""KITTI, 3-D object detection: its files, and everything that knows its camera frames.

Geiger, Lenz, Urtasun, Are we ready for Autonomous Driving?, 2012. `read_split` reads the standard folders,
`kitti_scans` makes scans of its frames, with boxes in the LiDAR's frame, and `to_kitti` makes KITTI's detections of
boxes.
"""

from pctransformer.datasets.kitti.boxes import camera_boxes, lidar_boxes, project_boxes, to_kitti
from pctransformer.datasets.kitti.calibration import Calibration, read_calibration
from pctransformer.datasets.kitti.dataset import CLASS_NAMES, kitti_scans
from pctransformer.datasets.kitti.frames import (
    KittiFrame,
    camera_beside,
    read_frame,
    read_infos,
    read_split,
    write_infos,
)
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
    "kitti_scans",
    "lidar_boxes",
    "project_boxes",
    "read_calibration",
    "read_frame",
    "read_infos",
    "read_objects",
    "read_openpcdet_infos",
    "read_split",
    "to_kitti",
    "write_infos",
    "write_objects",
]
