"""Your own data, with one folder per class.

root/chair/any_name.ply           the split into training and test is drawn once and written down
root/train/chair/any_name.ply     root/test/chair/any_name.ply      the split is given
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pctransformer.atomic import replace_file
from pctransformer.datasets.files import MESH_SUFFIXES, POINT_SUFFIXES, FileFormatError, read_points
from pctransformer.datasets.layouts import sample_from
from pctransformer.datasets.samples import (
    CloudDataset,
    LazySamples,
    Sample,
    Transform,
    generator_for,
    stratified_split,
)

SPLIT_FILE = "split.json"
FILE_SUFFIXES = tuple(suffix for suffix in dict.fromkeys(POINT_SUFFIXES + MESH_SUFFIXES) if suffix != ".bin")
"""Files that are taken from folders: those that say how many values a point has."""


def folder_dataset(
    root: str | Path,
    split: Literal["train", "test", "all"] = "train",
    *,
    test_fraction: float = 0.2,
    split_file: str | Path | None = None,
    num_points: int = 2048,
    transform: Transform | None = None,
    seed: int = 0,
) -> CloudDataset:
    """Clouds and meshes in one folder per class; the names of the folders are the classes, in alphabetical order.

    The first call draws a split, the same share of every class, and writes it to `root/split.json`. Later calls follow
    that file, whatever their `test_fraction` and `seed`; files that have come or gone since are an error, so that a
    test set never changes unnoticed. Files are read when they are asked for; `in_memory()` reads all of them once.

    A root that has two folders, `train` and `test`, with the folders of the classes in each, has its split already:
    nothing is drawn or written.

    Only coordinates are taken. Meshes are sampled on their surface, always at the same points; clouds keep their size.

    Args:
        root: the folder with one folder per class, or with such a folder for each split. Hidden files and other kinds
            are passed over; .bin files are too, as they do not say how many values a point has.
        split: which part; "all" for both, which neither needs nor writes a split.
        test_fraction: share of each class that goes to the test set, in [0, 1).
        split_file: where the split is kept; None: `root/split.json`. Needed where root cannot be written.
        num_points: points drawn from each mesh.
        transform: applied to each sample when it is fetched.
        seed: of the split, of the points drawn, and of the transform.

    Raises:
        FileFormatError: there are no classes or files; the split does not fit the files, or cannot be written; or, on
            fetching, a file is broken.
        ValueError: split is none of the three, or the fraction is out of range.
    """
    if split not in ("train", "test", "all"):
        raise ValueError(f"split must be 'train', 'test' or 'all', got {split!r}")
    root = Path(root)
    if _names_of_folders(root) == ["test", "train"]:
        record: dict[str, Any]
        classes, record = _given_split(root)
        files = record["train"] + record["test"]
    else:
        classes, files = _files(root)
        record = {}
        if split != "all":
            record = _recorded_split(root, classes, files, split_file, test_fraction, seed)
    chosen = files if split == "all" else record[split]
    labels = [classes.index(name.split("/")[-2]) for name in chosen]
    place = {name: i for i, name in enumerate(files)}  # so that a file gives the same points in every split
    wanted = [(name, label, place[name]) for name, label in zip(chosen, labels)]
    read = partial(_read_file, root, wanted, num_points, seed)
    return CloudDataset(LazySamples(len(chosen), read), labels, classes, transform=transform, seed=seed)


def unlabelled_folder(root: str | Path, *, num_points: int = 2048, seed: int = 0) -> CloudDataset:
    """The clouds and meshes that lie in a folder, in alphabetical order, all of one class called "unlabelled".

    Args:
        root: the folder; folders in it are not looked into, see `folder_dataset` for those.
        num_points, seed: as for `folder_dataset`.

    Raises:
        FileFormatError: there are no files; or, on fetching, a file is broken.
    """
    root = Path(root)
    files = [(name, 0, place) for place, name in enumerate(_names_in(root))]
    if not files:
        raise FileFormatError(root, f"there is no file that ends in one of {' '.join(FILE_SUFFIXES)}")
    read = partial(_read_file, root, files, num_points, seed)
    return CloudDataset(LazySamples(len(files), read), [0] * len(files), ["unlabelled"], seed=seed)


def _names_in(folder: Path) -> list[str]:
    """Files of a folder that can be read, hidden ones left out, sorted."""
    found = (file for file in folder.iterdir() if file.suffix.lower() in FILE_SUFFIXES)
    return sorted(file.name for file in found if not file.name.startswith("."))


def _read_file(root: Path, files: list[tuple[str, int, int]], num_points: int, seed: int, index: int) -> Sample:
    name, label, place = files[index]
    points = read_points(root / name, num_points=num_points, generator=generator_for(seed, place))[:, :3]
    return sample_from(points, label=label, name=name, path=root / name)


def _names_of_folders(root: Path) -> list[str]:
    """The folders in a folder, without hidden ones, sorted."""
    if not root.is_dir():
        raise FileFormatError(root, "there is no such folder")
    return sorted(folder.name for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _given_split(root: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Class names, and the files of `train` and `test` as "train/class/file", sorted."""
    for part in ("train", "test"):
        inside = _names_of_folders(root / part)
        if not inside or "points" in inside:
            raise FileFormatError(
                root / part,
                "there should be one folder per class in it; scenes whose points have classes are for `train"
                " semantic-segmentation`, LiDAR scans for `train detection`, or for `train pretraining` of a detector",
            )
    classes, train = _files(root / "train")
    known, test = _files(root / "test")
    if unknown := sorted(set(known) - set(classes)):
        raise FileFormatError(root / "test" / unknown[0], "there is no such class in train")
    return classes, {"train": [f"train/{name}" for name in train], "test": [f"test/{name}" for name in test]}


def _files(root: Path) -> tuple[list[str], list[str]]:
    """Class names, and all files as "class/file", sorted."""
    folders = [root / name for name in _names_of_folders(root)]
    if not folders:
        raise FileFormatError(root, "there should be one folder per class in it, but there is none")
    files = []
    for folder in folders:
        inside = _names_in(folder)
        if not inside:
            hint = (
                "; this looks like ModelNet's own layout: modelnet_off reads it" if (folder / "train").is_dir() else ""
            )
            raise FileFormatError(folder, f"there is no file that ends in one of {' '.join(FILE_SUFFIXES)}{hint}")
        files += [f"{folder.name}/{name}" for name in inside]
    return [folder.name for folder in folders], files


def _recorded_split(
    root: Path, classes: list[str], files: list[str], split_file: str | Path | None, fraction: float, seed: int
) -> dict[str, Any]:
    """The split that was drawn before, or is drawn now."""
    path = Path(split_file) if split_file is not None else root / SPLIT_FILE
    if path.exists():
        return _read_split(path, classes, files)
    record = _draw_split(classes, files, fraction, seed)
    _write_split(path, record)
    return record


def _draw_split(classes: list[str], files: list[str], fraction: float, seed: int) -> dict[str, Any]:
    labels = np.array([classes.index(name.split("/")[0]) for name in files])
    test = stratified_split(labels, fraction, seed)
    return {
        "version": 1,
        "seed": seed,
        "test_fraction": fraction,
        "classes": classes,
        "train": [name for name, held in zip(files, test) if not held],
        "test": [name for name, held in zip(files, test) if held],
    }


def _write_split(path: Path, record: dict[str, Any]) -> None:
    try:
        replace_file(path, (json.dumps(record, indent=1) + "\n").encode())
    except OSError as error:
        raise FileFormatError(
            path, f"the split cannot be written here ({error.strerror}); give another place with split_file="
        ) from None


def _read_split(path: Path, classes: list[str], files: list[str]) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text("utf-8"))
        recorded = [*record["train"], *record["test"]]
        whole = record["version"] == 1 and record["classes"] == classes and all(isinstance(n, str) for n in recorded)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(path, f"this is not a recorded split: {type(error).__name__} {error}") from None
    if not whole or len(set(recorded)) != len(recorded):
        raise FileFormatError(
            path,
            "the recorded split is of another version, has other classes, or names a file twice; delete it to draw one",
        )
    gone, new = sorted(set(recorded) - set(files)), sorted(set(files) - set(recorded))
    if gone or new:
        raise FileFormatError(
            path,
            f"{len(gone)} files of the recorded split are gone and {len(new)} are new, first {(gone + new)[0]!r};"
            " delete the split file to draw a new one",
        )
    return record
