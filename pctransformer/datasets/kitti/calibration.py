"""Calibration of one KITTI frame: from the LiDAR to the rectified camera, and into the left colour image."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from pctransformer.atomic import replace_file
from pctransformer.datasets.formats.common import FileFormatError, decode, read_bytes

USUAL_IMAGE_SIZE = (1242, 375)
"""Width and height of most of KITTI's images, in pixels: assumed where there is no image to look at."""
_SHAPES = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4)}
_OTHER_NAMES = {"R_rect": "R0_rect", "Tr_velo_cam": "Tr_velo_to_cam"}  # as the tracking benchmark calls them


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """Frames: LiDAR x forward, y left, z up; rectified camera x right, y down, z forward; metres, pixels, float64.

    Attributes:
        projection: (3, 4) P2, rectified camera -> image.
        rectification: (3, 3) R0_rect, camera -> rectified camera.
        from_lidar: (3, 4) Tr_velo_to_cam, LiDAR -> camera.
    """

    projection: np.ndarray
    rectification: np.ndarray
    from_lidar: np.ndarray

    @property
    def lidar_to_camera(self) -> np.ndarray:
        """(4, 4) LiDAR -> rectified camera."""
        matrix = np.eye(4)
        matrix[:3] = self.rectification @ self.from_lidar
        return matrix

    def to_camera(self, xyz: np.ndarray) -> np.ndarray:
        """(n, 3) in the LiDAR's frame -> (n, 3) in the rectified camera's."""
        matrix = self.lidar_to_camera
        return np.asarray(xyz, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]

    def to_lidar(self, xyz: np.ndarray) -> np.ndarray:
        """(n, 3) in the rectified camera's frame -> (n, 3) in the LiDAR's."""
        matrix = np.linalg.inv(self.lidar_to_camera)
        return np.asarray(xyz, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]

    def to_image(self, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project (n, 3) points of the rectified camera's frame.

        Returns:
            pixels (n, 2): x to the right, y down; meaningless where depth <= 0.
            depth (n,): metres in front of the image's camera.
        """
        projected = xyz @ self.projection[:, :3].T + self.projection[:, 3]
        depth = projected[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            return projected[:, :2] / depth[:, None], depth

    def in_view(self, xyz: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
        """(n,) bool: the points (n, 3) of the LiDAR's frame that the camera sees in an image of (width, height)."""
        pixels, depth = self.to_image(self.to_camera(xyz))
        return (depth > 0) & (pixels >= 0).all(axis=1) & (pixels < image_size).all(axis=1)


def read_calibration(path: str | Path) -> Calibration:
    """Read P2, R0_rect and Tr_velo_to_cam by their names, in whatever order they stand.

    Raises:
        FileFormatError: the file is missing, or one of them is, or has another number of values.
    """
    path = Path(path)
    lines = decode(read_bytes(path), path).splitlines()
    values = {name.strip().rstrip(":"): numbers for name, _, numbers in (line.strip().partition(" ") for line in lines)}
    values = {_OTHER_NAMES.get(name, name): numbers for name, numbers in values.items()}
    return Calibration(*(_matrix(path, name, values.get(name)) for name in _SHAPES))


def write_calibration(path: str | Path, calibration: Calibration) -> None:
    """Write what `read_calibration` reads back to the last bit, in the order in which others count KITTI's lines.

    All four cameras, P0 to P3, get the projection of the one that there is.
    """
    rows = {name: calibration.projection for name in ("P0", "P1", "P2", "P3")}
    rows |= {"R0_rect": calibration.rectification, "Tr_velo_to_cam": calibration.from_lidar}
    rows["Tr_imu_to_velo"] = np.eye(4)[:3]
    lines = [f"{name}: {' '.join(map(repr, matrix.ravel().tolist()))}\n" for name, matrix in rows.items()]
    replace_file(path, "".join(lines).encode())


def _matrix(path: Path, name: str, text: str | None) -> np.ndarray:
    shape = _SHAPES[name]
    if text is None:
        raise FileFormatError(path, f"there is no line {name}; a calibration has {', '.join(_SHAPES)}")
    try:
        numbers = np.array(text.split(), np.float64)
    except ValueError as error:
        raise FileFormatError(path, f"{name}: {error}") from None
    if len(numbers) != shape[0] * shape[1] or not np.isfinite(numbers).all():
        raise FileFormatError(path, f"{name} should be {shape[0] * shape[1]} numbers, found {text[:60]!r}")
    return numbers.reshape(shape)


def read_plane(path: str | Path, calibration: Calibration) -> np.ndarray:
    """Read the plane of the road, which AVOD's files give in the rectified camera's frame.

    Returns:
        (4,) a, b, c, d in the LiDAR's frame: a x + b y + c z + d = 0 on the road, and (a, b, c) is a unit
        vector that points up.

    Raises:
        FileFormatError: the file is missing or its last line is not four numbers.
    """
    path = Path(path)
    lines = decode(read_bytes(path), path).strip().splitlines() or [""]
    try:
        plane = np.array(lines[-1].split(), np.float64)
    except ValueError:
        plane = np.zeros(0)
    if plane.shape != (4,) or not np.isfinite(plane).all() or not 0 < np.linalg.norm(plane[:3]) < np.inf:
        raise FileFormatError(path, f"the last line should be the four numbers of a plane, found {lines[-1][:60]!r}")
    return lidar_plane(plane, calibration)


def write_plane(path: str | Path, plane: np.ndarray, calibration: Calibration) -> None:
    """Write a plane (4,) of the LiDAR's frame as AVOD's files have it."""
    numbers = " ".join(map(repr, camera_plane(plane, calibration).tolist()))
    replace_file(path, f"# Matrix\nWIDTH 4\nHEIGHT 1\n{numbers}\n".encode())


def camera_plane(plane: np.ndarray, calibration: Calibration) -> np.ndarray:
    """A plane (4,) of the LiDAR's frame in the rectified camera's: the inverse of `lidar_plane`."""
    return np.asarray(plane @ np.linalg.inv(calibration.lidar_to_camera))


def lidar_plane(plane: np.ndarray, calibration: Calibration) -> np.ndarray:
    """A plane (4,) of the rectified camera's frame in the LiDAR's, its normal a unit vector that points up."""
    plane = plane @ calibration.lidar_to_camera
    plane = plane / np.linalg.norm(plane[:3])
    return plane if plane[2] >= 0 else -plane
