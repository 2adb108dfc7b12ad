"""Your own LiDAR scans with boxes, without any camera: folders of points and of boxes.

    root/train/points/0001.bin   root/train/boxes/0001.txt      one folder for each split,
    root/test/points/0007.bin    root/test/boxes/0007.txt

    root/points/0001.npy         root/labels/0001.txt           or lists of the names of each split
    root/ImageSets/train.txt     root/ImageSets/val.txt         (OpenPCDet's layout for one's own data)

The boxes of a scan have its name, in a folder called `boxes` or `labels`; `box_files` says how they are written. Points
are .bin .npy .pcd .ply .npz (see `lidar_points`): x forward, y left, z up from the sensor, metres, then reflectance.
`root/class_names.txt`, one name a line, may say which classes there are; others are errors then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pctransformer.datasets.box_files import BOX_SUFFIXES, IGNORED, NamedBoxes, read_boxes, write_boxes
from pctransformer.datasets.files import FileFormatError
from pctransformer.datasets.formats.common import decode, read_bytes
from pctransformer.datasets.layouts import existing_folder, listed_class_names
from pctransformer.datasets.lidar_points import read_lidar
from pctransformer.datasets.scans import Scan, ScanDataset, ScanTransform
from pctransformer.errors import did_you_mean

LIDAR_SUFFIXES = (".bin", ".npy", ".pcd", ".ply", ".npz")
_BOX_FOLDERS = ("boxes", "labels")


@dataclasses.dataclass(frozen=True)
class LidarFiles:
    """One scan.

    Attributes:
        name: of both files, without their endings.
        points, boxes: the files.
    """

    name: str
    points: Path
    boxes: Path


def lidar_folder(
    root: str | Path,
    split: str = "train",
    *,
    class_names: Sequence[str] | None = None,
    channels: int = 4,
    columns: int | None = None,
    reflectance: float | None = None,
    transform: ScanTransform | None = None,
    seed: int = 0,
    only_with_boxes: bool = False,
) -> ScanDataset:
    """Scans with boxes in the layouts that this module shows, in the order of their names; read when asked for.

    Args:
        root: the folder.
        split: a folder in it, or a list in `ImageSets`.
        class_names: of the classes 0, 1, ...; boxes of other classes, and DontCare, have label -1. None: those of
            `class_names.txt`, else all that occur in any split, in alphabetical order.
        channels: values per point: 3 for x, y, z, 4 with reflectance in [0, 1].
        columns, reflectance: of the points, see `read_lidar`.
        transform, seed, only_with_boxes: see `ScanDataset`.

    Raises:
        FileFormatError: a folder is missing, a scan has no boxes or boxes have no scan, a class of `class_names` is not
            there; or, on fetching, a file is broken.
    """
    root = existing_folder(root)
    files = lidar_files(root, split)
    listed = listed_class_names(root)
    known = listed or _classes_in(one for name in lidar_splits(root) for one in lidar_files(root, name))
    names = known if class_names is None else tuple(class_names)
    for name in names:
        if name not in known:
            raise FileFormatError(
                root,
                f"there are no boxes of the class {name!r}; {did_you_mean(name, known)}; class_names, which is"
                " --classes on a command line, says which to look for",
            )
    if not names:
        raise FileFormatError(root, "there are no boxes at all, so no class to find; class_names.txt can name some")
    read = partial(read_lidar_scan, tuple(files), names, listed, channels, columns, reflectance)
    return ScanDataset(
        [one.name for one in files], read, names, transform=transform, seed=seed, only_with_boxes=only_with_boxes
    )


def lidar_files(root: str | Path, split: str) -> list[LidarFiles]:
    """The scans of a split, in alphabetical order, or in that of its list.

    Raises:
        FileFormatError: see `lidar_folder`.
    """
    root = Path(root)
    in_folder = (root / split / "points").is_dir()
    if not in_folder and not (root / "points").is_dir():
        wanted = f"{split}/points and {split}/boxes, or points, boxes and ImageSets/{split}.txt"
        there = ", ".join(lidar_splits(root)) or "none"
        raise FileFormatError(root, f"there should be {wanted}; splits that are there: {there}")
    folder = root / split if in_folder else root
    points = _by_name(folder / "points", LIDAR_SUFFIXES)
    boxes = _by_name(_box_folder(folder), BOX_SUFFIXES)
    names = sorted(points) if in_folder else _listed(root, split)
    for name in names:
        if name not in points:
            raise FileFormatError(folder / "points", f"there is no scan {name}, which ImageSets/{split}.txt lists")
        if name not in boxes:
            raise FileFormatError(
                points[name],
                f"its boxes, {_box_folder(folder).name}/{name}.txt or .json, are missing; a scan without objects has an"
                " empty file",
            )
    if in_folder and (alone := sorted(boxes.keys() - points.keys())):
        raise FileFormatError(boxes[alone[0]], f"there is no scan of that name in {folder / 'points'}")
    if not names:
        raise FileFormatError(folder / "points", f"there is no file that ends in one of {' '.join(LIDAR_SUFFIXES)}")
    return [LidarFiles(name, points[name], boxes[name]) for name in names]


def read_lidar_scan(
    files: Sequence[LidarFiles],
    class_names: Sequence[str],
    known: Sequence[str] | None,
    channels: int,
    columns: int | None,
    reflectance: float | None,
    index: int,
) -> Scan:
    """One scan, see `lidar_folder`; `known` are the classes that a box may have, None: any."""
    found = files[index]
    boxes = read_boxes(found.boxes, class_names=known)
    number = {name: i for i, name in enumerate(class_names)}
    labels = np.array([number.get(str(kind), -1) for kind in boxes.types], np.int64)
    flat = np.flatnonzero((boxes.boxes[:, 3:6] == 0).any(axis=1) & (labels >= 0))
    if len(flat):
        row = flat[0]
        raise FileFormatError(
            found.boxes,
            f"box {row + 1}, a {boxes.types[row]}, has a size of 0: {boxes.boxes[row, 3:6].tolist()}; objects to be"
            f" found have sizes above 0, others may be of the class {IGNORED}",
        )
    return Scan(
        points=read_lidar(found.points, channels=channels, columns=columns, reflectance=reflectance),
        boxes=boxes.boxes,
        labels=labels,
        name=found.name,
    )


def write_lidar_scan(folder: str | Path, scan: Scan, class_names: Sequence[str]) -> None:
    """Write points/NAME.npy and boxes/NAME.txt into the folder of a split, which is made if need be.

    Boxes of label -1 become DontCare.

    Raises:
        ValueError: the scan has no name that a file can have, or a class cannot stand in a line of text.
    """
    folder, name = Path(folder), scan.name
    if Path(name).name != name or not name or name.startswith("."):
        raise ValueError(f"a scan needs a name that a file can have, got {name!r}")
    for part in ("points", "boxes"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    types = np.array([class_names[label] if label >= 0 else IGNORED for label in scan.labels], np.str_)
    write_boxes(folder / "boxes" / f"{name}.txt", NamedBoxes(types, scan.boxes))
    np.save(folder / "points" / f"{name}.npy", scan.points)


# ---- what lies there -------------------------------------------------------------------------------------------------
def lidar_splits(root: str | Path) -> list[str]:
    """Splits that have folders, or lists."""
    root = Path(root)
    folders = sorted(folder.parent.name for folder in root.glob("*/points") if folder.is_dir())
    return folders or sorted(file.stem for file in root.glob("ImageSets/*.txt"))


def _listed(root: Path, split: str) -> list[str]:
    """Names in a list of a split, one a line."""
    path = root / "ImageSets" / f"{split}.txt"
    if not path.is_file():
        there = ", ".join(lidar_splits(root)) or "none"
        raise FileFormatError(path, f"there is no such file; it should list scans, one a line; there are {there}")
    return decode(read_bytes(path), path).split()


def _box_folder(folder: Path) -> Path:
    for name in _BOX_FOLDERS:
        if (folder / name).is_dir():
            return folder / name
    raise FileFormatError(folder, f"there should be a folder {' or '.join(_BOX_FOLDERS)} beside points")


def _by_name(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Files by their names without endings; hidden ones and other kinds are passed over."""
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in suffixes or file.name.startswith("."):
            continue
        name = file.stem.removesuffix(".pcd") if file.suffix.lower() == ".bin" else file.stem
        if name in files:
            raise FileFormatError(file, f"{files[name].name} is of the same scan; there should be one of them")
        files[name] = file
    return files


def _classes_in(files: Iterable[LidarFiles]) -> tuple[str, ...]:
    names: set[str] = set()
    for one in files:
        names.update(read_boxes(one.boxes).types.tolist())
    return tuple(sorted(names - {IGNORED}))
