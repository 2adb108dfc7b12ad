"""Data: files to arrays, arrays to samples, samples to batches. Everything random is derived from (seed, epoch, index).

`open_dataset` opens any data set by one word. `folder_dataset` reads your own files, `modelnet_*` the four layouts of
ModelNet, `shapenet_parts_*` and `scanobjectnn` those sets, `generated_shapes` needs no files at all. Each gives a
`CloudDataset` of `Sample`s, which `collate` packs into a `PointBatch` with labels. For detection `kitti.kitti_scans`
gives a `ScanDataset` of `Scan`s, points with boxes, which `scan_transforms` and `scan_recipes` change; `lidar_folder`
does so for scans of your own, and `street.street_frames` makes KITTI frames of generated streets.
`generated_rooms` and `scene_folder` give whole scenes whose points have classes.
"""

from pctransformer.datasets.files import FileFormatError, read_mesh, read_points, write_ply
from pctransformer.datasets.folder import folder_dataset, unlabelled_folder
from pctransformer.datasets.lidar_folder import lidar_folder
from pctransformer.datasets.modelnet import modelnet_hdf5, modelnet_npz, modelnet_off, modelnet_resampled
from pctransformer.datasets.rooms import ROOM_CLASSES, generated_rooms
from pctransformer.datasets.samples import CloudDataset, Sample, collate, collate_parts, joined
from pctransformer.datasets.scanobjectnn import scanobjectnn
from pctransformer.datasets.scenes import read_scene, scene_folder
from pctransformer.datasets.shapenet import shapenet_parts_hdf5, shapenet_parts_text
from pctransformer.datasets.shapes import generated_shapes
from pctransformer.datasets.source import open_dataset

__all__ = [
    "ROOM_CLASSES",
    "CloudDataset",
    "FileFormatError",
    "Sample",
    "collate",
    "collate_parts",
    "folder_dataset",
    "generated_rooms",
    "generated_shapes",
    "joined",
    "lidar_folder",
    "modelnet_hdf5",
    "modelnet_npz",
    "modelnet_off",
    "modelnet_resampled",
    "open_dataset",
    "read_mesh",
    "read_points",
    "read_scene",
    "scanobjectnn",
    "scene_folder",
    "shapenet_parts_hdf5",
    "shapenet_parts_text",
    "unlabelled_folder",
    "write_ply",
]
