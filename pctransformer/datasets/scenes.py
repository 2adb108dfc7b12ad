"""Scenes of your own: folders of clouds whose points have labels, and single clouds with colours."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pctransformer.datasets.files import FileFormatError, read_points
from pctransformer.datasets.formats import pcd, ply, tables
from pctransformer.datasets.layouts import existing_folder, listed_class_names
from pctransformer.datasets.samples import CloudDataset, LazySamples, Sample, Transform

SCENE_SUFFIXES = (".ply", ".npz")
COLORS = ("red", "green", "blue")


def scene_folder(
    root: str | Path,
    split: Literal["train", "test"] = "train",
    *,
    colors: bool = True,
    transform: Transform | None = None,
) -> CloudDataset:
    """Labelled clouds in `root/train` and `root/test`, read when they are asked for; z is up, lengths are metres.

    A .ply has `label` beside x, y, z, and red, green, blue; meshes are taken as their vertices. A .npz has `points`
    (n, 3), or (n, 6) with colours behind, or `colors` (n, 3) apart, and `label` (n,). Labels are 0, 1, ..., and -1 for
    points that do not count. Names of classes stand in `root/class_names.txt`, one a line, or `class_names.json`, a
    list; without either they are "class 0" and so on, up to the highest label in the folder.

    Args:
        root: the folder.
        split: which part.
        colors: whether colours are wanted; they become features in [0, 1].
        transform: applied to each scene when it is fetched.

    Raises:
        FileFormatError: a folder or its files are not there; or, on fetching, a file is broken, has no labels, labels
            without a name, or no colours where they are wanted.
    """
    root = existing_folder(root)
    files = scene_files(root, split)
    names = listed_class_names(root)
    if names is None:
        everything = [file for part in ("train", "test") if (root / part).is_dir() for file in scene_files(root, part)]
        highest = max(_highest(read_scene(file, colors=False)) for file in everything)
        names = tuple(f"class {i}" for i in range(max(highest, 0) + 1))
    read = partial(_labelled, files, names, colors)
    return CloudDataset(
        LazySamples(len(files), read), [0] * len(files), ["scene"], transform=transform, part_names=names
    )


def scene_files(root: Path, split: str) -> list[Path]:
    """The clouds of one part, in alphabetical order.

    Raises:
        FileFormatError: there are none.
    """
    folder = root / split
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [file for file in found if file.suffix.lower() in SCENE_SUFFIXES and not file.name.startswith(".")]
    if not files:
        raise FileFormatError(folder, f"there should be clouds with labels here, {' or '.join(SCENE_SUFFIXES)}")
    return files


def read_scene(
    path: str | Path,
    *,
    labels: bool = True,
    colors: bool = True,
    columns: int | None = None,
    not_finite: Literal["error", "drop"] = "error",
) -> Sample:
    """Read one scene.

    Args:
        path: .ply or .npz; without labels any kind of point file, whose fourth to sixth value are colours where columns
            have no names.
        labels: whether labels are wanted.
        colors: whether colours are wanted.
        columns: values per point of a .bin file.
        not_finite: what to do with points that are NaN or infinite: "error", or "drop" them.

    Returns:
        xyz, moved by whole metres to the origin where it is too large for float32; features red, green, blue in [0, 1];
        `point_labels`. Colours above 1 are taken for 0 to 255.

    Raises:
        FileFormatError: it cannot be read, or has not what is wanted.
    """
    xyz, rgb, label = scene_arrays(path, labels=labels, colors=colors, columns=columns, not_finite=not_finite)
    origin = np.round((xyz.min(0) + xyz.max(0)) / 2) if np.abs(xyz).max() > 4096 else np.zeros(3)
    return Sample(
        torch.from_numpy((xyz - origin).astype(np.float32)),
        features=None if rgb is None else torch.from_numpy(rgb),
        point_labels=None if label is None else torch.from_numpy(label),
        label=0,
        name=str(path),
    )


def scene_arrays(
    path: str | Path,
    *,
    labels: bool = True,
    colors: bool = True,
    columns: int | None = None,
    not_finite: Literal["error", "drop"] = "error",
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Read one scene as it is, see `read_scene`.

    Returns:
        xyz (n, 3) float32 or float64 as in the file, colours (n, 3) float32 in [0, 1] or None, labels (n,) int64 or
        None.
    """
    path = Path(path)
    xyz, rgb, label = _columns(path, labels, columns, not_finite)
    if labels and label is None:
        raise FileFormatError(path, "its points have no label; a .ply needs a value of that name, a .npz an array")
    if colors and rgb is None:
        raise FileFormatError(
            path, f"its points have no {', '.join(COLORS)}; train with --no-colors for scans without colours"
        )
    table = xyz if rgb is None or not colors else np.concatenate([xyz, rgb], axis=1)
    finite = np.isfinite(table).all(1)
    if not_finite == "error" and not finite.all():
        raise FileFormatError(
            path,
            f"{int((~finite).sum())} of {len(xyz)} points are NaN or infinite, first in row"
            f" {int(np.flatnonzero(~finite)[0])}; not_finite='drop' leaves such points out",
        )
    if not finite.any():
        raise FileFormatError(path, "there are no points")
    return (
        xyz[finite],
        scaled_colors(rgb[finite]) if colors and rgb is not None else None,
        None if label is None else label[finite],
    )


def scaled_colors(rgb: np.ndarray) -> np.ndarray:
    """(n, 3) float32 in [0, 1]: colours above 1 are taken for 0 to 255."""
    values = np.asarray(rgb, np.float32)
    return np.clip(values / 255 if len(values) and values.max() > 1 else values, 0, 1)


def _columns(
    path: Path, labels: bool, columns: int | None, not_finite: Literal["error", "drop"]
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """xyz (n, 3), colours (n, 3) or None, labels (n,) int64 or None."""
    suffix = path.suffix.lower()
    rgb = label = None
    if suffix == ".npz":
        arrays = tables.read_npz_arrays(path)
        values = _points_of(arrays, path) if labels else tables.read_npz(path).values
        rgb = arrays["colors"] if "colors" in arrays else values[:, 3:6] if values.shape[1] >= 6 else None
        label = arrays.get("label") if labels else None
    elif labels and suffix != ".ply":
        raise FileFormatError(path, f"labels are read from {' and '.join(SCENE_SUFFIXES)} files")
    elif suffix in (".ply", ".pcd"):
        cloud = ply.read(path)[0] if suffix == ".ply" else pcd.read(path)
        values, names = cloud.values, cloud.names or ()
        if set(COLORS) <= set(names):
            rgb = values[:, [names.index(name) for name in COLORS]]
        if labels and "label" in names:
            label = values[:, names.index("label")]
    else:
        values = read_points(path, columns=columns, num_points=None, not_finite=not_finite)
        rgb = values[:, 3:6] if values.shape[1] >= 6 else None
    for name, found, shape in (("colors", rgb, (len(values), 3)), ("label", label, (len(values),))):
        if found is not None and found.shape != shape:
            raise FileFormatError(path, f"{name} should be {shape} for {len(values)} points, it is {found.shape}")
    return values[:, :3], rgb, None if label is None else _whole(label, path)


def _points_of(arrays: dict[str, np.ndarray], path: Path) -> np.ndarray:
    for name in ("points", "xyz", "pos"):
        if name in arrays and arrays[name].ndim == 2 and arrays[name].shape[1] >= 3:
            return arrays[name]
    raise FileFormatError(path, f"there should be an array points (n, 3 + c), there are {', '.join(arrays)[:200]}")


def _whole(label: np.ndarray, path: Path) -> np.ndarray:
    whole = label.astype(np.int64)
    if not (whole == label).all() or (whole < -1).any():
        raise FileFormatError(path, "labels should be whole numbers from -1, which means that a point does not count")
    return whole


def _labelled(files: list[Path], names: tuple[str, ...], colors: bool, index: int) -> Sample:
    sample = read_scene(files[index], colors=colors)
    if (highest := _highest(sample)) >= len(names):
        raise FileFormatError(files[index], f"there is a label {highest}, but only {len(names)} class names")
    return sample


def _highest(sample: Sample) -> int:
    return -1 if sample.point_labels is None else int(sample.point_labels.max())
