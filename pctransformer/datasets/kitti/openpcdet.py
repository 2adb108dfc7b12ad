"""OpenPCDet's `kitti_infos_*.pkl`, read without running what a pickle may hold.

A pickle is a program. The unpickler here knows numpy's arrays and numbers, dict, list, tuple, str, numbers and None;
any other name in the file ends the reading with an error.
"""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from pctransformer.datasets.formats.common import FileFormatError, read_bytes
from pctransformer.datasets.kitti.boxes import lidar_boxes
from pctransformer.datasets.kitti.calibration import USUAL_IMAGE_SIZE, Calibration
from pctransformer.datasets.kitti.frames import KittiFrame
from pctransformer.datasets.kitti.objects import KittiObjects


class _Dtype:
    """Stands for a numpy dtype: numbers, bools and strings, no objects and no structures."""

    def __init__(self, name: str, align: bool = False, copy: bool = False) -> None:
        if not (isinstance(name, str) and re.fullmatch(r"[bfiuUS]\d{1,4}", name)):
            raise pickle.UnpicklingError(f"an array of {name!r}, which may hold anything")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("an array of structures, which may hold anything")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for a numpy array; its value is made of bytes, which numpy's own unpickling does not insist on."""

    value = np.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not (isinstance(dtype, _Dtype) and isinstance(data, (bytes, bytearray)) and order in ("C", "F")):
        raise pickle.UnpicklingError("an array whose values are not plain bytes")
    return np.frombuffer(bytes(data), dtype.dtype).reshape(shape, order=order)


def _reconstruct(*arguments: Any) -> _Array:
    return _Array()


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (), "C")[()]


def _encode(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2 write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


_ALLOWED = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array for core in ("core", "_core")},
    ("numpy", "ndarray"): None,  # named as an argument of _reconstruct, never called
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


def _values(read: Any) -> Any:
    """Arrays in place of what stands for them."""
    match read:
        case _Array():
            return read.value
        case dict():
            return {key: _values(value) for key, value in read.items()}
        case list() | tuple():
            return type(read)(map(_values, read))
    return read


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, and only numbers and arrays are read")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of the file")


def read_plain_pickle(path: str | Path) -> Any:
    """Read a pickle of plain values and numpy arrays; nothing else is ever made, called or imported.

    Raises:
        FileFormatError: the file is missing, broken, or holds anything else.
    """
    path = Path(path)
    data = read_bytes(path)
    try:
        return _values(_Unpickler(io.BytesIO(data)).load())
    except Exception as error:  # a broken pickle fails in whatever way its bytes happen to ask for
        problem = f"this is not a pickle of plain values and arrays: {error}; nothing in it was run"
        raise FileFormatError(path, problem) from None


def read_openpcdet_infos(path: str | Path, folder: str | Path) -> list[KittiFrame]:
    """Frames of `kitti_infos_train.pkl` and its like.

    Labels without DontCare; LiDAR boxes are computed anew. Roads' planes are not in these files.

    Args:
        path: the pickle.
        folder: of the data set; points are looked for in `training/velodyne`, or `testing/velodyne` without labels.

    Raises:
        FileFormatError: the file is missing or broken, holds other things than plain values, or is none of these.
    """
    path, infos = Path(path), read_plain_pickle(path)
    try:
        return [_frame(info, Path(folder)) for info in infos]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FileFormatError(path, f"this is not a kitti_infos file of OpenPCDet: {error!r}") from None


def _frame(info: dict[str, Any], folder: Path) -> KittiFrame:
    name = str(info["point_cloud"]["lidar_idx"])
    if not name.isalnum():
        raise ValueError(f"a frame is named {name[:40]!r}")
    calib = info["calib"]
    calibration = Calibration(
        np.asarray(calib["P2"], np.float64)[:3, :4],
        np.asarray(calib["R0_rect"], np.float64)[:3, :3],
        np.asarray(calib["Tr_velo_to_cam"], np.float64)[:3, :4],
    )
    labels = KittiObjects.empty()
    annotations = info.get("annos")
    if annotations is not None:
        length, height, width = np.asarray(annotations["dimensions"], np.float64).reshape(-1, 3).T
        labels = KittiObjects(
            types=np.asarray(annotations["name"], dtype=np.str_),
            truncated=np.asarray(annotations["truncated"], np.float64),
            occluded=np.asarray(annotations["occluded"]).astype(np.int64),
            alpha=np.asarray(annotations["alpha"], np.float64),
            boxes_2d=np.asarray(annotations["bbox"], np.float64).reshape(-1, 4),
            dimensions=np.column_stack([height, width, length]),
            locations=np.asarray(annotations["location"], np.float64).reshape(-1, 3),
            rotation_y=np.asarray(annotations["rotation_y"], np.float64),
        )
    unlabelled = labels.types == "DontCare"
    objects = labels.take(~unlabelled)
    size = info.get("image", {}).get("image_shape")
    part = "testing" if annotations is None else "training"
    return KittiFrame(
        name=name,
        points_file=folder / part / "velodyne" / f"{name}.bin",
        calibration=calibration,
        image_size=USUAL_IMAGE_SIZE if size is None else (int(size[1]), int(size[0])),
        objects=objects,
        boxes=lidar_boxes(objects, calibration),
        regions=labels.take(unlabelled),
    )
