"""ScanObjectNN (Uy et al., Revisiting Point Cloud Classification, 2019): objects cut out of indoor scans.

15 classes, 2048 points of each object, x y z in the scan's metres, y up. Papers report three variants:

- "obj_only": the points of the object alone;
- "obj_bg": with the background that its box holds, 2309 training and 581 test objects;
- "pb_t50_rs", the hardest and the usual one: boxes shifted by half, turned and scaled, each object five times: 11416
  and 2882.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from pctransformer.datasets.files import FileFormatError
from pctransformer.datasets.formats.hdf5 import read_hdf5_arrays
from pctransformer.datasets.layouts import check_labels, existing_folder, sample_from
from pctransformer.datasets.samples import CloudDataset, Transform

CLASSES = (
    "bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table",
    "bed", "pillow", "sink", "sofa", "toilet",
)  # fmt: skip
"""In the order of their labels."""

Variant = Literal["obj_only", "obj_bg", "pb_t50_rs"]
_FILES = {
    "obj_only": ("main_split_nobg", ""),
    "obj_bg": ("main_split", ""),
    "pb_t50_rs": ("main_split", "_augmentedrot_scale75"),
}


def scanobjectnn(
    root: str | Path,
    split: Literal["train", "test"] = "train",
    *,
    variant: Variant = "pb_t50_rs",
    num_points: int | None = None,
    transform: Transform | None = None,
    seed: int = 0,
) -> CloudDataset:
    """`main_split/training_objectdataset_augmentedrot_scale75.h5` and its siblings: data (N, 2048, 3), label (N,).

    Args:
        root: the folder h5_files, which holds `main_split` and `main_split_nobg`.
        split: which of the files.
        variant: see above.
        num_points: the first so many of the 2048 points, whose order is random; None: all.
        transform: applied to each sample when it is fetched.
        seed: of the transform.

    Raises:
        FileFormatError: the file is missing or broken, or its arrays do not fit together.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    if variant not in _FILES:
        raise ValueError(f"variant must be one of {', '.join(map(repr, _FILES))}, got {variant!r}")
    folder, ending = _FILES[variant]
    path = existing_folder(root) / folder / f"{'training' if split == 'train' else 'test'}_objectdataset{ending}.h5"
    arrays = read_hdf5_arrays(path, ("data", "label"))
    points, label = arrays["data"], arrays["label"].reshape(-1)
    if points.ndim != 3 or points.shape[2] != 3 or points.dtype.kind != "f":
        raise FileFormatError(path, f"data should be floats (N, n, 3), it is {points.shape} {points.dtype}")
    if len(label) != len(points):
        raise FileFormatError(path, f"there are {len(points)} shapes, but label is {arrays['label'].shape}")
    check_labels(label, CLASSES, path)
    if num_points is not None and points.shape[1] < num_points:
        raise FileFormatError(path, f"{num_points} points were asked for, but shapes have {points.shape[1]}")
    samples = [
        sample_from(xyz[:num_points].astype(np.float32), label=int(label[i]), name=f"{path.stem}[{i}]", path=path)
        for i, xyz in enumerate(points)
    ]
    return CloudDataset(samples, label, CLASSES, transform=transform, seed=seed, up="y")
