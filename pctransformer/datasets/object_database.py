"""A database of labelled objects with their points, to be pasted into other scans."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pctransformer.atomic import replace_file
from pctransformer.datasets.files import FileFormatError
from pctransformer.datasets.formats.tables import read_npz_arrays
from pctransformer.datasets.scans import ScanDataset, in_box

_DTYPES: dict[str, type] = {
    "points": np.float32, "offsets": np.int64, "boxes": np.float32,
    "types": np.str_, "difficulty": np.int64, "frames": np.str_,
}  # fmt: skip
_VERSION = 1


@dataclasses.dataclass(frozen=True, eq=False)
class ObjectDatabase:
    """m objects with the points that lie in their boxes.

    Attributes:
        points: (N, 3 + c) float32, object after object; x, y, z relative to the centre of the box, axes of the scan.
        offsets: (m + 1,) int64, object i is rows offsets[i]:offsets[i + 1].
        boxes: (m, 7) float32 where the object was in its scan.
        types: (m,) str, names of classes.
        difficulty: (m,) int64 0 easy, 1 moderate, 2 hard, -1 harder.
        frames: (m,) str, names of the scans.
    """

    points: np.ndarray
    offsets: np.ndarray
    boxes: np.ndarray
    types: np.ndarray
    difficulty: np.ndarray
    frames: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.types)
        counts = [len(self.boxes), len(self.difficulty), len(self.frames), len(self.offsets) - 1]
        if counts != [count] * 4 or self.boxes.shape[1:] != (7,) or self.points.ndim != 2:
            raise ValueError(
                f"{count} types need as many boxes, difficulties, frames and offsets but one, got {counts}"
            )
        if self.offsets[0] != 0 or (np.diff(self.offsets) < 0).any() or self.offsets[-1] != len(self.points):
            raise ValueError(f"offsets must rise from 0 to the number of points, {len(self.points)}")

    def __len__(self) -> int:
        return len(self.types)

    @property
    def num_points(self) -> np.ndarray:
        """(m,) of each object."""
        return np.diff(self.offsets)

    def points_of(self, i: int) -> np.ndarray:
        """(k, 3 + c) points of object i, relative to the centre of its box."""
        return self.points[self.offsets[i] : self.offsets[i + 1]]

    def take(self, rows: np.ndarray) -> ObjectDatabase:
        """The objects in these rows, or where a mask is True."""
        rows = np.arange(len(self))[rows]
        counts = self.num_points[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        points = np.repeat(self.offsets[rows] - offsets[:-1], counts) + np.arange(offsets[-1])
        return ObjectDatabase(
            self.points[points], offsets, self.boxes[rows], self.types[rows], self.difficulty[rows], self.frames[rows]
        )

    def choose(self, *, min_points: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Rows of the objects of each class that are fit for pasting.

        Args:
            min_points: class to the number of points that an object must have; other classes, and objects of difficulty
                -1, are left out.
        """
        return {
            name: np.flatnonzero((self.types == name) & (self.num_points >= least) & (self.difficulty >= 0))
            for name, least in min_points.items()
        }

    def counts(self, *, min_points: int = 5) -> dict[str, tuple[int, int, int]]:
        """Of each class: all objects, those with `min_points` points, those of them that are not too hard."""
        found = {}
        for name in np.unique(self.types):
            own = self.types == name
            enough = own & (self.num_points >= min_points)
            found[str(name)] = (int(own.sum()), int(enough.sum()), int((enough & (self.difficulty >= 0)).sum()))
        return found

    def save(self, path: str | Path) -> None:
        """Write one .npz of plain arrays; the file appears as a whole or not at all."""
        buffer = io.BytesIO()
        arrays = {name: getattr(self, name) for name in _DTYPES}
        np.savez(buffer, about=np.array(json.dumps({"object_database": _VERSION})), **arrays)
        replace_file(path, buffer.getvalue())

    @staticmethod
    def load(path: str | Path) -> ObjectDatabase:
        """Read what `save` wrote.

        Raises:
            FileFormatError: the file is missing, broken, or something else.
        """
        path = Path(path)
        if not path.is_file():
            raise FileFormatError(path, "there is no such file; `pctransformer prepare kitti FOLDER` writes it")
        arrays = read_npz_arrays(path, ("about", *_DTYPES))
        try:
            version = json.loads(str(arrays.pop("about")))["object_database"]
            if version != _VERSION:
                raise ValueError(f"version {version}, not {_VERSION}")
            return ObjectDatabase(**{name: arrays[name].astype(dtype, copy=False) for name, dtype in _DTYPES.items()})
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise FileFormatError(path, f"this is no database of objects: {error}") from None


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledObject:
    """One object on its way into a database: (k, 3 + c) points as in the scan, box (7,), class, difficulty, frame."""

    points: np.ndarray
    box: np.ndarray
    type: str
    difficulty: int
    frame: str


def build_database(objects: Iterable[LabelledObject]) -> ObjectDatabase:
    """Collect objects; at least one."""
    rows = list(objects)
    if not rows:
        raise ValueError("a database needs at least one object")
    points = []
    for row in rows:
        moved = row.points.astype(np.float32)  # a copy
        moved[:, :3] = row.points[:, :3] - row.box[:3].astype(np.float64)  # far from the origin float32 is coarse
        points.append(moved)
    return ObjectDatabase(
        points=np.concatenate(points),
        offsets=np.concatenate([[0], np.cumsum([len(one) for one in points])]).astype(np.int64),
        boxes=np.stack([row.box for row in rows]).astype(np.float32),
        types=np.array([row.type for row in rows], dtype=np.str_),
        difficulty=np.array([row.difficulty for row in rows], np.int64),
        frames=np.array([row.frame for row in rows], dtype=np.str_),
    )


def joined_databases(databases: Sequence[ObjectDatabase]) -> ObjectDatabase:
    """The objects of all databases; at least one.

    Raises:
        ValueError: their points have different channels.
    """
    channels = sorted({database.points.shape[1] for database in databases})
    if len(channels) != 1:
        raise ValueError(f"databases that are joined must have points of the same channels, got {channels}")
    lengths = np.concatenate([database.num_points for database in databases])
    together = {
        name: np.concatenate([getattr(database, name) for database in databases])
        for name in _DTYPES
        if name != "offsets"
    }
    return ObjectDatabase(offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), **together)


def objects_of_scans(scans: ScanDataset) -> Iterator[LabelledObject]:
    """Every object that has a class, with the points in its box; none is too hard."""
    for scan in (scans[i] for i in range(len(scans))):
        for box, label in zip(scan.boxes, scan.labels):
            if label >= 0:
                points = scan.points[in_box(scan.points, box)]
                yield LabelledObject(points, box, scans.class_names[label], 0, scan.name)
