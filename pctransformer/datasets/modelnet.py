"""ModelNet10 and ModelNet40 (Wu et al., 3D ShapeNets, 2015) in the four layouts people have.

Axes are left as the files have them. OFF files and what is made of them have z up; modelnet40_normal_resampled and the
HDF5 files have y up, and their x, y, z are the x, z, y of the OFF files: a swap of two axes, which mirrors the shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from pctransformer.datasets.files import NORMALS, FileFormatError, read_points
from pctransformer.datasets.formats.common import check_count
from pctransformer.datasets.formats.hdf5 import read_hdf5_arrays
from pctransformer.datasets.formats.tables import read_npz_arrays
from pctransformer.datasets.layouts import check_labels, existing_folder, sample_from, words
from pctransformer.datasets.samples import CloudDataset, LazySamples, Sample, Transform, generator_for

Split = Literal["train", "test"]


def _check_split(split: str) -> None:
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")


def modelnet_npz(
    path: str | Path, split: Split = "train", *, transform: Transform | None = None, seed: int = 0
) -> CloudDataset:
    """One .npz: points (N, n, 3 or 6), label (N,), split (N,) of "train" and "test", ids (N,), class_names.

    Args:
        path: the file.
        split: which of its shapes.
        transform: applied to each sample when it is fetched.
        seed: of the transform.

    Raises:
        FileFormatError: an array is missing, or they do not fit together.
    """
    _check_split(split)
    arrays = read_npz_arrays(path, ("points", "label", "split", "ids", "class_names"))
    points, label, which, ids = (arrays[name] for name in ("points", "label", "split", "ids"))
    names = [str(name) for name in arrays["class_names"]]
    if points.ndim != 3 or points.dtype.kind != "f":
        raise FileFormatError(path, f"points should be floats (N, n, 3 or 6), they are {points.shape} {points.dtype}")
    for name, array in (("label", label), ("split", which), ("ids", ids)):
        if array.shape != (len(points),):
            raise FileFormatError(path, f"there are {len(points)} shapes, but {name} is {array.shape}")
    check_labels(label, names, path)
    rows = np.flatnonzero(which == split)
    samples = [sample_from(points[i], label=int(label[i]), name=str(ids[i]), path=path) for i in rows]
    return CloudDataset(samples, label[rows], names, transform=transform, seed=seed)


def modelnet_off(
    root: str | Path,
    split: Split = "train",
    *,
    num_points: int = 2048,
    normals: bool = False,
    transform: Transform | None = None,
    seed: int = 0,
) -> CloudDataset:
    """Meshes as Princeton ships them: `ModelNet10/chair/train/chair_0001.off`.

    A mesh is read when it is asked for and sampled on its surface, always at the same points; `in_memory()` reads all
    of them once.

    Args:
        root: the folder with one folder per class.
        split: which of the two folders in each class.
        num_points: points drawn from each mesh.
        normals: also the normals of the faces drawn from.
        transform: applied to each sample when it is fetched.
        seed: of the points drawn, and of the transform.

    Raises:
        FileFormatError: there are no such folders; or, on fetching, a mesh is broken.
    """
    _check_split(split)
    root = existing_folder(root)
    classes = sorted(folder.name for folder in root.iterdir() if (folder / split).is_dir())
    if not classes:
        raise FileFormatError(root, f"there are no folders like chair/{split}; give the folder that holds the classes")
    files = [
        (path, label) for label, name in enumerate(classes) for path in sorted((root / name / split).glob("*.off"))
    ]
    if not files:
        raise FileFormatError(root, f"there are {len(classes)} classes, but no .off file in their folders {split}")
    labels = [label for _, label in files]
    read = partial(_read_mesh, files, num_points, NORMALS if normals else (), seed)
    return CloudDataset(LazySamples(len(files), read), labels, classes, transform=transform, seed=seed)


def _read_mesh(
    files: list[tuple[Path, int]], num_points: int, features: Sequence[str], seed: int, index: int
) -> Sample:
    path, label = files[index]
    points = read_points(path, features=features, num_points=num_points, generator=generator_for(seed, index))
    return sample_from(points, label=label, name=path.stem, path=path)


def modelnet_resampled(
    root: str | Path,
    split: Split = "train",
    *,
    variant: Literal["modelnet40", "modelnet10"] = "modelnet40",
    num_points: int | None = 1024,
    missing: Literal["error", "skip"] = "error",
    transform: Transform | None = None,
    seed: int = 0,
) -> CloudDataset:
    """modelnet40_normal_resampled, the text files of PointNet++: `chair/chair_0001.txt` with x,y,z,nx,ny,nz.

    A file is read when it is asked for; `in_memory()` reads all of them once.

    Args:
        root: the folder with `modelnet40_shape_names.txt`, `modelnet40_train.txt` and the class folders.
        split: which of the two lists.
        variant: which set of lists.
        num_points: the first so many of the 10 000 points, as the public protocols do; None: all.
        missing: "error" if a listed file is not there, or "skip" it, for a part of the set.
        transform: applied to each sample when it is fetched.
        seed: of the transform.

    Raises:
        FileFormatError: a list or a file is missing or broken.
    """
    _check_split(split)
    root = existing_folder(root)
    names = words(root / f"{variant}_shape_names.txt")
    list_file = root / f"{variant}_{split}.txt"
    listed = words(list_file)
    files = [(root / shape.rsplit("_", 1)[0] / f"{shape}.txt", shape.rsplit("_", 1)[0]) for shape in listed]
    unknown = next((name for _, name in files if name not in names), None)
    if unknown is not None:
        raise FileFormatError(
            list_file, f"{unknown!r} is not one of the {len(names)} classes of {variant}_shape_names.txt"
        )
    absent = [path for path, _ in files if not path.is_file()]
    if absent and (missing == "error" or len(absent) == len(files)):
        raise FileFormatError(
            absent[0], f"{len(absent)} of {len(files)} files that {list_file.name} lists are not there"
        )
    there = set(files) - {(path, path.parent.name) for path in absent}
    files = [file for file in files if file in there]
    labelled = [(path, names.index(name)) for path, name in files]
    labels = [label for _, label in labelled]
    read = partial(_read_resampled, labelled, num_points)
    return CloudDataset(LazySamples(len(files), read), labels, names, transform=transform, seed=seed, up="y")


def _read_resampled(files: list[tuple[Path, int]], num_points: int | None, index: int) -> Sample:
    path, label = files[index]
    points = read_points(path)
    if points.shape[1] != 6:
        raise FileFormatError(path, f"a point should have 6 values, x, y, z and a normal; it has {points.shape[1]}")
    if num_points is not None and len(points) < num_points:
        raise FileFormatError(path, f"{num_points} points were asked for, but there are {len(points)}")
    return sample_from(points[:num_points], label=label, name=path.stem, path=path)


def modelnet_hdf5(
    root: str | Path,
    split: Split = "train",
    *,
    num_points: int | None = 1024,
    normals: bool = False,
    transform: Transform | None = None,
    seed: int = 0,
) -> CloudDataset:
    """modelnet40_ply_hdf5_2048, as PointNet ships it: `ply_data_train0.h5` ... with data (N, 2048, 3) and label (N, 1).

    Args:
        root: the folder with the .h5 files and `shape_names.txt`.
        split: which of the files.
        num_points: the first so many of the 2048 points, as the public protocols do; None: all.
        normals: also the array `normal`.
        transform: applied to each sample when it is fetched.
        seed: of the transform.

    Raises:
        FileFormatError: a file is missing or broken, or its arrays do not fit together.
    """
    _check_split(split)
    root = existing_folder(root)
    names = words(root / "shape_names.txt")
    paths = sorted(root.glob(f"ply_data_{split}*.h5"))
    if not paths:
        raise FileFormatError(root, f"there is no file ply_data_{split}*.h5")
    list_file = root / f"{split}_files.txt"
    if list_file.is_file():
        check_count(len(paths), len(words(list_file)), list_file, ".h5 files")
    samples: list[Sample] = []
    for path in paths:
        points, label = _hdf5_arrays(path, ("data", "normal") if normals else ("data",))
        check_labels(label, names, path)
        if num_points is not None and points.shape[1] < num_points:
            raise FileFormatError(path, f"{num_points} points were asked for, but shapes have {points.shape[1]}")
        for i in range(len(points)):
            name = f"{path.stem}[{i}]"
            samples.append(sample_from(points[i, :num_points], label=int(label[i]), name=name, path=path))
    return CloudDataset(samples, [sample.label for sample in samples], names, transform=transform, seed=seed, up="y")


def _hdf5_arrays(path: Path, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, n, 3 or 6) float32 and labels (N,) int64."""
    arrays = read_hdf5_arrays(path, (*names, "label"))
    count = len(arrays[names[0]]) if arrays[names[0]].ndim else 0
    for name in names:
        array = arrays[name]
        if array.ndim != 3 or array.shape != arrays[names[0]].shape or array.shape[2] != 3 or array.dtype.kind != "f":
            raise FileFormatError(path, f"{name} should be floats (N, n, 3), it is {array.shape} {array.dtype}")
    label = arrays["label"]
    if label.size != count or label.dtype.kind not in "iu":
        raise FileFormatError(path, f"there are {count} shapes, but label is {label.shape}")
    points = np.concatenate([arrays[name].astype(np.float32) for name in names], axis=2)
    return points, label.reshape(-1).astype(np.int64)
