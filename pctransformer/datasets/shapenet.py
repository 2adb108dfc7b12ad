"""ShapeNet parts (Yi et al., A Scalable Active Framework for Region Annotation, 2016) in the two layouts people have.

16 categories of shapes whose points belong to 50 parts, two to six of each category. Axes are left as the files have
them: y up. Papers train on "trainval" and score the "test" split, by `pctransformer.evaluation.evaluate_segmenter`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pctransformer.datasets.files import FileFormatError, read_points
from pctransformer.datasets.formats.common import check_count, decode, read_bytes
from pctransformer.datasets.formats.hdf5 import read_hdf5_arrays
from pctransformer.datasets.layouts import check_labels, existing_folder, sample_from, words
from pctransformer.datasets.samples import CloudDataset, LazySamples, Sample, Transform

Split = Literal["train", "val", "trainval", "test"]

_PARTS_OF = {
    "airplane": 4, "bag": 2, "cap": 2, "car": 4, "chair": 4, "earphone": 3, "guitar": 3, "knife": 2, "lamp": 4,
    "laptop": 2, "motorbike": 6, "mug": 2, "pistol": 3, "rocket": 3, "skateboard": 3, "table": 3,
}  # fmt: skip
CATEGORIES = tuple(_PARTS_OF)
"""The 16 categories in the order of their labels, which is that of the alphabet."""
PART_NAMES = tuple(f"{name}/{part}" for name, count in _PARTS_OF.items() for part in range(count))
"""What point labels index: "airplane/0" to "table/2". The files number parts and give them no names."""
_FIRST_PART = (0, *accumulate(_PARTS_OF.values()))


def shapenet_parts_text(
    root: str | Path,
    split: Split = "trainval",
    *,
    missing: Literal["error", "skip"] = "error",
    transform: Transform | None = None,
    seed: int = 0,
) -> CloudDataset:
    """shapenetcore_partanno_segmentation_benchmark_v0_normal, the text files of PointNet++.

    `02691156/1a04e3eab45ca15dd86060f189eb133.txt` has rows of x y z, a normal, and the part, 0 to 49. Shapes differ
    in their number of points; `transforms.RandomSubset` makes them equally many. A file is read when it is asked for;
    `in_memory()` reads all of them once.

    Args:
        root: the folder with `synsetoffset2category.txt`, `train_test_split` and one folder per category.
        split: which of the lists in `train_test_split`; "trainval" is both, as papers train.
        missing: "error" if a listed file is not there, or "skip" it, for a part of the set.
        transform: applied to each sample when it is fetched.
        seed: of the transform.

    Raises:
        FileFormatError: a list or a file is missing or broken.
    """
    splits = _splits(split)
    root = existing_folder(root)
    folders = _categories_by_folder(root / "synsetoffset2category.txt")
    listed = []
    for name in splits:
        list_file = root / "train_test_split" / f"shuffled_{name}_file_list.json"
        for folder, shape in _listed(list_file):
            if folder not in folders:
                raise FileFormatError(list_file, f"{folder!r} is not one of the folders in synsetoffset2category.txt")
            listed.append((root / folder / f"{shape}.txt", folders[folder]))
    there = [(path, label) for path, label in listed if path.is_file()]
    if len(there) < len(listed) and (missing == "error" or not there):
        absent = next(path for path, _ in listed if not path.is_file())
        raise FileFormatError(absent, f"{len(listed) - len(there)} of {len(listed)} listed files are not there")
    labels = [label for _, label in there]
    samples = LazySamples(len(there), partial(_read_text, there))
    return CloudDataset(samples, labels, CATEGORIES, transform=transform, seed=seed, part_names=PART_NAMES, up="y")


def shapenet_parts_hdf5(
    root: str | Path, split: Split = "trainval", *, transform: Transform | None = None, seed: int = 0
) -> CloudDataset:
    """shapenet_part_seg_hdf5_data (or hdf5_data), as PointNet ships it: 2048 points of each shape, without normals.

    `ply_data_train0.h5` and so on have data (N, 2048, 3), label (N, 1) of categories and pid (N, 2048) of parts.

    Args:
        root: the folder with the .h5 files.
        split: which of the files; "trainval" is both, as papers train.
        transform: applied to each sample when it is fetched.
        seed: of the transform.

    Raises:
        FileFormatError: a file is missing or broken, or its arrays do not fit together.
    """
    splits = _splits(split)
    root = existing_folder(root)
    samples: list[Sample] = []
    for name in splits:
        paths = sorted(root.glob(f"ply_data_{name}*.h5"))
        if not paths:
            raise FileFormatError(root, f"there is no file ply_data_{name}*.h5")
        list_file = root / f"{name}_hdf5_file_list.txt"
        if list_file.is_file():
            check_count(len(paths), len(words(list_file)), list_file, ".h5 files")
        for path in paths:
            samples += _read_hdf5(path)
    labels = [sample.label for sample in samples]
    return CloudDataset(samples, labels, CATEGORIES, transform=transform, seed=seed, part_names=PART_NAMES, up="y")


def _splits(split: str) -> tuple[str, ...]:
    if split not in ("train", "val", "trainval", "test"):
        raise ValueError(f"split must be 'train', 'val', 'trainval' or 'test', got {split!r}")
    return ("train", "val") if split == "trainval" else (split,)


def _categories_by_folder(path: Path) -> dict[str, int]:
    """Folder name to label, from rows like `Airplane 02691156`."""
    folders = {}
    for row in words(path):
        name, _, folder = row.replace("\t", " ").partition(" ")
        if name.lower() not in CATEGORIES or not folder.strip():
            raise FileFormatError(path, f"a row should be a category and its folder, found {row[:60]!r}")
        folders[folder.strip()] = CATEGORIES.index(name.lower())
    return folders


def _listed(path: Path) -> list[tuple[str, str]]:
    """(folder, shape) of every entry like `shape_data/02691156/1a04e3eab45ca15dd86060f189eb133`."""
    try:
        entries = json.loads(decode(read_bytes(path), path))
    except json.JSONDecodeError as error:
        raise FileFormatError(path, f"this is not readable JSON: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise FileFormatError(path, "this should be a JSON list of shapes")
    found = []
    for entry in entries:
        match = re.fullmatch(r"(?:shape_data/)?(\w+)/([\w-]+)", str(entry))
        if match is None:
            raise FileFormatError(
                path, f"an entry should look like shape_data/02691156/name, found {str(entry)[:60]!r}"
            )
        found.append((match[1], match[2]))
    return found


def _read_text(files: Sequence[tuple[Path, int]], index: int) -> Sample:
    path, label = files[index]
    rows = read_points(path)
    if rows.shape[1] != 7:
        raise FileFormatError(path, f"a point should have 7 values: x, y, z, a normal, a part; it has {rows.shape[1]}")
    sample = sample_from(rows[:, :6], label=label, name=path.stem, path=path)
    return _with_parts(sample, rows[:, 6], path)


def _read_hdf5(path: Path) -> list[Sample]:
    arrays = read_hdf5_arrays(path, ("data", "label", "pid"))
    points, label, part = arrays["data"], arrays["label"].reshape(-1), arrays["pid"]
    if points.ndim != 3 or points.shape[2] != 3 or points.dtype.kind != "f":
        raise FileFormatError(path, f"data should be floats (N, n, 3), it is {points.shape} {points.dtype}")
    if label.shape != points.shape[:1] or part.shape != points.shape[:2] or part.dtype.kind not in "iu":
        raise FileFormatError(
            path, f"data is {points.shape}, but label {arrays['label'].shape} and pid {part.shape} {part.dtype}"
        )
    check_labels(label, CATEGORIES, path)
    return [
        _with_parts(sample_from(xyz, label=int(label[i]), name=f"{path.stem}[{i}]", path=path), part[i], path)
        for i, xyz in enumerate(points)
    ]


def _with_parts(sample: Sample, part: np.ndarray, path: Path) -> Sample:
    low, high = _FIRST_PART[sample.label], _FIRST_PART[sample.label + 1] - 1
    if (part != np.round(part)).any() or part.min() < low or part.max() > high:
        raise FileFormatError(
            path,
            f"parts of {sample.name}, a {CATEGORIES[sample.label]}, should be whole numbers from {low} to {high}, they"
            f" are {part.min():g} to {part.max():g}",
        )
    return dataclasses.replace(sample, point_labels=torch.from_numpy(part.astype(np.int64)))
