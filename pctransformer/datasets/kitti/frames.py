"""Frames of KITTI in its standard folders, and infos: what is known of every frame of a split, in one JSON file.

    training/velodyne/000134.bin  training/calib/000134.txt  training/label_2/000134.txt  training/image_2/000134.png
    training/planes/000134.txt    ImageSets/train.txt        the same in testing/, without labels

`image_2` is asked only for the sizes of images and may be absent; so may `planes`, the roads' planes of AVOD.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pctransformer.atomic import replace_file
from pctransformer.datasets.files import FileFormatError, read_points
from pctransformer.datasets.formats.common import decode, read_bytes
from pctransformer.datasets.kitti.boxes import lidar_boxes
from pctransformer.datasets.kitti.calibration import (
    USUAL_IMAGE_SIZE,
    Calibration,
    read_calibration,
    read_plane,
)
from pctransformer.datasets.kitti.images import read_image_size
from pctransformer.datasets.kitti.objects import KittiObjects, concatenate, read_objects

Split = Literal["train", "val", "trainval", "test"]
FRAMES_OF_SPLIT = {"train": 3712, "val": 3769, "trainval": 7481, "test": 7518}
_VERSION = 1


@dataclasses.dataclass(frozen=True, eq=False)
class KittiFrame:
    """What is known of a frame; its points stay in their file until they are asked for, or are given with it.

    Attributes:
        name: "000134".
        points_file: the .bin of x, y, z, reflectance; None where `points` are given.
        calibration: of its sensors.
        image_size: width and height, pixels.
        objects: labels without DontCare, with boxes in the camera's frame.
        boxes: (n, 7) float64 of the same objects in the LiDAR's frame, see `lidar_boxes`.
        plane: (4,) of the road in the LiDAR's frame, see `read_plane`, or None.
        regions: DontCare, parts of the image where objects are not labelled.
        points: (n, 4) float32 of a frame that is not in a file.
    """

    name: str
    points_file: Path | None
    calibration: Calibration
    image_size: tuple[int, int]
    objects: KittiObjects
    boxes: np.ndarray
    plane: np.ndarray | None = None
    regions: KittiObjects = dataclasses.field(default_factory=KittiObjects.empty)
    points: np.ndarray | None = None

    def __post_init__(self) -> None:
        if (self.points_file is None) == (self.points is None):
            raise ValueError(f"frame {self.name} has either a file of points or the points themselves")

    def read_points(self) -> np.ndarray:
        """(n, 4) float32 x, y, z in the LiDAR's frame, reflectance in [0, 1]. Not to be written into."""
        if self.points_file is None:
            assert self.points is not None
            return self.points
        return read_points(self.points_file, columns=4)

    @property
    def labels(self) -> KittiObjects:
        """All rows of the label file, as the official evaluation wants them: objects, then regions."""
        return concatenate([self.objects, self.regions])[0]

    @property
    def difficulty(self) -> np.ndarray:
        """(n,) of each object, see `difficulty_of`."""
        return difficulty_of(self.objects)


def difficulty_of(objects: KittiObjects) -> np.ndarray:
    """(n,) int64: 0 easy, 1 moderate, 2 hard, -1 harder than that, by which objects are chosen for training.

    As in the databases of SECOND and OpenPCDet, heights are counted in rows of pixels, bottom - top + 1, where the
    official evaluation takes bottom - top.
    """
    height = objects.boxes_2d[:, 3] - objects.boxes_2d[:, 1] + 1
    difficulty = np.full(len(objects), -1)
    limits = ((2, 25, 2, 0.50), (1, 25, 1, 0.30), (0, 40, 0, 0.15))  # an object gets the easiest that it meets
    for level, lowest, occlusion, truncation in limits:
        meets = (height >= lowest) & (objects.occluded <= occlusion) & (objects.truncated <= truncation)
        difficulty[meets] = level
    return difficulty


# ---- files -----------------------------------------------------------------------------------------------------------
def frame_names(folder: str | Path, split: str) -> list[str]:
    """The names that `ImageSets/<split>.txt` lists.

    Raises:
        FileFormatError: there is no such file, or it lists nothing.
    """
    path = Path(folder) / "ImageSets" / f"{split}.txt"
    if not path.is_file():
        there = sorted(file.stem for file in path.parent.glob("*.txt"))
        found = f"there are {', '.join(there)}" if there else "there are no lists of frames at all"
        raise FileFormatError(
            path, f"there is no such file; it should list the frames of the split, one a line; {found}"
        )
    return read_names(path)


def read_names(path: str | Path) -> list[str]:
    """The names of frames in a file, one a line.

    Raises:
        FileFormatError: the file is missing or empty, or holds something else.
    """
    path = Path(path)
    names = decode(read_bytes(path), path).split()
    strange = [name for name in names if not name.isalnum()]
    if not names or strange:
        found = f"found {strange[0][:40]!r}" if names else "it is empty"
        raise FileFormatError(path, f"this should list frames like 000134, one a line; {found}")
    return names


def read_frame(folder: str | Path, name: str, *, part: Literal["training", "testing"] = "training") -> KittiFrame:
    """What the small files of a frame say. The points are not read yet, but must be there.

    Raises:
        FileFormatError: a file is missing or broken.
    """
    root = Path(folder) / part
    points_file = root / "velodyne" / f"{name}.bin"
    if not points_file.is_file():
        raise FileFormatError(points_file, "there is no such file; it should hold the points of the frame")
    calibration = read_calibration(root / "calib" / f"{name}.txt")
    image = root / "image_2" / f"{name}.png"
    plane = root / "planes" / f"{name}.txt"
    labels = KittiObjects.empty()
    if part == "training":
        labels = read_objects(root / "label_2" / f"{name}.txt", scores=False)
    unlabelled = labels.types == "DontCare"
    objects = labels.take(~unlabelled)
    return KittiFrame(
        name=name,
        points_file=points_file,
        calibration=calibration,
        image_size=read_image_size(image) if image.is_file() else USUAL_IMAGE_SIZE,
        objects=objects,
        boxes=lidar_boxes(objects, calibration),
        plane=read_plane(plane, calibration) if plane.is_file() else None,
        regions=labels.take(unlabelled),
    )


def read_split(folder: str | Path, split: str) -> list[KittiFrame]:
    """All frames of a split; those of "test" have no labels.

    Raises:
        FileFormatError: the list of the split or a file of a frame is missing or broken.
    """
    part: Literal["training", "testing"] = "testing" if split == "test" else "training"
    return [read_frame(folder, name, part=part) for name in frame_names(folder, split)]


# ---- infos -----------------------------------------------------------------------------------------------------------
_OBJECT_COLUMNS = ("types", "truncated", "occluded", "alpha", "boxes_2d", "dimensions", "locations", "rotation_y")


def write_infos(path: str | Path, frames: Sequence[KittiFrame], folder: str | Path) -> None:
    """Write frames as JSON; files of points are named relative to the data set's folder.

    Raises:
        ValueError: a frame has its points in memory.
    """
    rows: list[dict[str, Any]] = []
    for frame in frames:
        if frame.points_file is None:
            raise ValueError(f"frame {frame.name} is in memory; infos are about frames in files")
        rows.append(
            {
                "name": frame.name,
                "points_file": frame.points_file.relative_to(folder).as_posix(),
                "image_size": list(frame.image_size),
                "calibration": {key: value.tolist() for key, value in vars(frame.calibration).items()},
                "plane": None if frame.plane is None else frame.plane.tolist(),
                "objects": {name: getattr(frame.objects, name).tolist() for name in _OBJECT_COLUMNS},
                "regions": {name: getattr(frame.regions, name).tolist() for name in _OBJECT_COLUMNS},
                "boxes": frame.boxes.tolist(),
            }
        )
    replace_file(path, json.dumps({"kitti_infos": _VERSION, "frames": rows}).encode())


def read_infos(path: str | Path, folder: str | Path) -> list[KittiFrame]:
    """Read what `write_infos` wrote; nothing else of the data set is opened.

    Raises:
        FileFormatError: the file is missing, is none of these, or names points outside of the folder.
    """
    path, folder = Path(path), Path(folder)
    if not path.is_file():
        raise FileFormatError(path, "there is no such file; `pctransformer prepare kitti FOLDER` writes it")
    try:
        content = json.loads(path.read_bytes())
        if content["kitti_infos"] != _VERSION:
            raise ValueError(f"version {content['kitti_infos']}, not {_VERSION}")
        return [_frame(row, folder) for row in content["frames"]]
    except (KeyError, TypeError, ValueError) as error:
        problem = f"these are not infos as `pctransformer prepare kitti FOLDER` writes them: {error!r}"
        raise FileFormatError(path, problem) from None


def _objects(row: dict[str, Any]) -> KittiObjects:
    count = len(row["types"])
    widths = {"boxes_2d": 4, "dimensions": 3, "locations": 3}
    dtypes: dict[str, type] = {"types": np.str_, "occluded": np.int64}
    columns: dict[str, np.ndarray] = {}
    for name in _OBJECT_COLUMNS:
        values: np.ndarray = np.array(row[name], dtypes.get(name, np.float64))
        columns[name] = values.reshape(count, widths[name]) if name in widths else values.reshape(count)
    return KittiObjects(**columns)


def _frame(row: dict[str, Any], folder: Path) -> KittiFrame:
    calibration = {key: np.array(value, np.float64) for key, value in row["calibration"].items()}
    width, height = map(int, row["image_size"])
    objects = _objects(row["objects"])
    return KittiFrame(
        name=str(row["name"]),
        points_file=file_inside(folder, row["points_file"]),
        calibration=Calibration(**calibration),
        image_size=(width, height),
        objects=objects,
        boxes=np.array(row["boxes"], np.float64).reshape(len(objects), 7),
        plane=None if row["plane"] is None else np.array(row["plane"], np.float64),
        regions=_objects(row["regions"]),
    )


def file_inside(folder: Path, name: str) -> Path:
    """A file that another file names: only below the folder, so that nothing else can be read through it."""
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{name!r} is not inside of {folder}")
    return path
