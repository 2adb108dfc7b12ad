"""Objects as KITTI's text files have them: labels with 15 columns, detections with a score as the 16th.

Boxes stay in the rectified camera frame here: x right, y down, z forward. `boxes.py` converts them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pctransformer.atomic import replace_file
from pctransformer.datasets.formats.common import FileFormatError, decode

LABEL_COLUMNS = (
    "type", "truncated", "occluded", "alpha", "left", "top", "right", "bottom",
    "height", "width", "length", "x", "y", "z", "rotation_y",
)  # fmt: skip
_ROWS = ("types", "truncated", "occluded", "alpha", "boxes_2d", "dimensions", "locations", "rotation_y", "scores")


@dataclasses.dataclass(frozen=True, eq=False)
class KittiObjects:
    """The n objects of a frame, in the order of its file.

    Attributes:
        types: (n,) str: "Car", "Van", "Pedestrian", "DontCare", ...
        truncated: (n,) float64 share of the object outside the image, -1 where it is not known.
        occluded: (n,) int64: 0 fully visible, 1 partly, 2 largely occluded, 3 unknown, -1 not given.
        alpha: (n,) float64 observation angle, radians; -10 where there is none.
        boxes_2d: (n, 4) float64 left, top, right, bottom, pixels.
        dimensions: (n, 3) float64 height, width, length, metres; -1 for DontCare.
        locations: (n, 3) float64 centre of the box's bottom in the rectified camera frame, metres; -1000 for DontCare.
        rotation_y: (n,) float64 turn about the camera's y axis, radians; -10 for DontCare.
        scores: (n,) float64, or None for labels.
    """

    types: np.ndarray
    truncated: np.ndarray
    occluded: np.ndarray
    alpha: np.ndarray
    boxes_2d: np.ndarray
    dimensions: np.ndarray
    locations: np.ndarray
    rotation_y: np.ndarray
    scores: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, wanted in zip(_ROWS, ((), (), (), (), (4,), (3,), (3,), (), ())):
            values = getattr(self, name)
            if values is not None and values.shape != (len(self), *wanted):
                raise ValueError(f"{name} of {len(self)} objects must be {(len(self), *wanted)}, got {values.shape}")

    def __len__(self) -> int:
        return len(self.types)

    @staticmethod
    def empty(*, scores: bool = False) -> KittiObjects:
        """No objects; `scores` says whether they would be detections."""
        return _from_rows([], scores=scores)

    def take(self, index: np.ndarray) -> KittiObjects:
        """The objects in these rows, or where a mask is True."""
        rows = {name: values[index] for name in _ROWS if (values := getattr(self, name)) is not None}
        return KittiObjects(**rows)

    def with_scores(self, scores: np.ndarray) -> KittiObjects:
        """The same objects as detections."""
        return dataclasses.replace(self, scores=np.asarray(scores, np.float64))


def concatenate(frames: Sequence[KittiObjects]) -> tuple[KittiObjects, np.ndarray]:
    """All objects, frame after frame, and offsets (B + 1,) int64: frame b is rows offsets[b]:offsets[b + 1].

    Scores are kept where every frame that has objects has them.
    """
    offsets = np.concatenate([[0], np.cumsum([len(frame) for frame in frames], dtype=np.int64)]).astype(np.int64)
    frames = [frame for frame in frames if len(frame)] or [KittiObjects.empty(scores=True)]
    with_scores = all(frame.scores is not None for frame in frames)
    names = [name for name in _ROWS if name != "scores" or with_scores]
    return KittiObjects(**{name: np.concatenate([getattr(frame, name) for frame in frames]) for name in names}), offsets


def read_objects(path: str | Path, *, scores: bool) -> KittiObjects:
    """Read the labels or the detections of one frame. An empty file is a frame without objects.

    Args:
        path: a text file, a line for each object.
        scores: True for detections, whose 16th column is a score; False for labels, of which a 16th column, which some
            programs write, is left out.

    Raises:
        FileFormatError: the file is missing, a line has another number of columns, or a number is none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileFormatError(path, "there is no such file")
    rows, allowed = [], (16,) if scores else (15, 16)
    for number, line in enumerate(decode(path.read_bytes(), path).splitlines(), 1):
        row = line.split()
        if not row:
            continue
        if len(row) not in allowed:
            what = "a detection has 16, the last its score" if scores else "a label has 15"
            raise FileFormatError(path, f"line {number} has {len(row)} columns; {what}: {' '.join(LABEL_COLUMNS)}")
        rows.append(row)
    try:
        return _from_rows(rows, scores=scores)
    except ValueError as error:
        raise FileFormatError(path, str(error)) from None


def _from_rows(rows: list[list[str]], *, scores: bool) -> KittiObjects:
    columns = 16 if scores else 15
    values = np.array([row[1:columns] for row in rows], np.float64).reshape(len(rows), columns - 1)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise ValueError(f"object {int(np.flatnonzero(bad)[0]) + 1} has a number that is NaN or infinite")
    if (np.abs(values[:, 1]) > 1000).any():
        raise ValueError(f"occlusion, the third column, is a small whole number, found {values[:, 1].max():g}")
    return KittiObjects(
        types=np.array([row[0] for row in rows], dtype=np.str_),
        truncated=values[:, 0],
        occluded=values[:, 1].astype(np.int64),
        alpha=values[:, 2],
        boxes_2d=values[:, 3:7],
        dimensions=values[:, 7:10],
        locations=values[:, 10:13],
        rotation_y=values[:, 13],
        scores=values[:, 14] if scores else None,
    )


def write_objects(path: str | Path, objects: KittiObjects) -> None:
    """Write one frame: 15 columns, or 16 where there are scores; lengths, angles and pixels with 4 decimals.

    The file appears as a whole or not at all. A frame without objects gives an empty file, as KITTI's server wants.
    """
    lines = []
    for i, kind in enumerate(objects.types):
        numbers = [
            objects.alpha[i], *objects.boxes_2d[i], *objects.dimensions[i], *objects.locations[i],
            objects.rotation_y[i],
        ]  # fmt: skip
        line = f"{kind} {objects.truncated[i]:g} {objects.occluded[i]} " + " ".join(f"{x:.4f}" for x in numbers)
        lines.append(line if objects.scores is None else f"{line} {objects.scores[i]:.6f}")
    replace_file(path, "".join(f"{line}\n" for line in lines).encode())
