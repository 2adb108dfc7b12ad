"""KITTI, 3-D object detection: its files, and everything that knows its camera frames.

Geiger, Lenz, Urtasun, Are we ready for Autonomous Driving?, 2012. `objects` reads and writes labels and detections.
"""

from pctransformer.datasets.kitti.objects import KittiObjects, read_objects, write_objects

__all__ = ["KittiObjects", "read_objects", "write_objects"]
