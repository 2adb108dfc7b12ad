"""What the readers of published data sets share: checks of what their files hold, and the way from rows to a sample."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pctransformer.datasets.files import FileFormatError
from pctransformer.datasets.samples import Sample

_LARGE_COORDINATE = 4096.0  # from here on float32 no longer resolves half a millimetre
_LARGEST_NORMAL = 1.1  # room for the digits that text files leave out


def sample_from(points: np.ndarray, *, label: int, name: str, path: str | Path) -> Sample:
    """A sample from rows of 3 values, or 6 whose last three are normals.

    A shape far from the origin, in float64, is moved there by whole metres before float32 could round its details away.

    Raises:
        FileFormatError: a value is not finite, there are no points, or the last three columns are no unit normals.
    """
    if points.ndim != 2 or points.shape[1] not in (3, 6) or not len(points):
        raise FileFormatError(path, f"{name} should be points (n, 3) or (n, 6) with normals, it is {points.shape}")
    if not np.isfinite(points).all():
        row = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise FileFormatError(path, f"{name} has a value that is not finite in row {row}: {points[row].tolist()}")
    normals = None
    if points.shape[1] == 6:
        largest = np.abs(points[:, 3:]).max(axis=1)
        if largest.max() > _LARGEST_NORMAL or np.median(largest) < 0.5:  # of a unit vector it is 0.58 to 1
            found = (
                f"the largest of the three is {largest.max():.3g} at most and {np.median(largest):.3g} at the median"
            )
            raise FileFormatError(path, f"columns 4 to 6 of {name} are no unit normals: {found}")
        normals = torch.from_numpy(points[:, 3:].astype(np.float32))
    xyz = points[:, :3]
    if xyz.dtype == np.float64 and np.abs(xyz).max() > _LARGE_COORDINATE:
        xyz = xyz - np.round((xyz.min(axis=0) + xyz.max(axis=0)) / 2)
    return Sample(torch.from_numpy(xyz.astype(np.float32)), normals=normals, label=label, name=name)


def existing_folder(root: str | Path) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise FileFormatError(root, "there is no such folder")
    return root


def listed_class_names(root: Path) -> tuple[str, ...] | None:
    """The names in `root/class_names.txt`, one a line, or in the list `root/class_names.json`; None without either."""
    text, plain = root / "class_names.txt", root / "class_names.json"
    try:
        if text.is_file():
            names = [line.strip() for line in text.read_text("utf-8").splitlines() if line.strip()]
        elif plain.is_file():
            names = json.loads(plain.read_text("utf-8"))
        else:
            return None
    except ValueError as error:
        raise FileFormatError(plain, f"this should be a JSON list of names: {error}") from None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise FileFormatError(root, "class_names should be a list of names")
    return tuple(names)


def words(path: Path) -> list[str]:
    """The rows of a small text file."""
    if not path.is_file():
        raise FileFormatError(path, "there is no such file")
    rows = [line.strip() for line in path.read_text("ascii", "replace").splitlines() if line.strip()]
    if not rows:
        raise FileFormatError(path, "the file is empty")
    if any("/" in row and ".h5" not in row for row in rows) or ".." in " ".join(rows):
        raise FileFormatError(path, "its rows should be plain names")
    return rows


def check_labels(label: np.ndarray, names: Sequence[str], path: str | Path) -> None:
    if label.dtype.kind not in "iu" or (len(label) and not (label.min() >= 0 and label.max() < len(names))):
        raise FileFormatError(
            path,
            f"labels should be whole numbers from 0 to {len(names) - 1}, they are {label.dtype} up to {label.max()}",
        )
