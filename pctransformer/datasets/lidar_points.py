"""Points of a LiDAR as detectors take them: x, y, z and reflectance in [0, 1], from whatever a file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from pctransformer.datasets.files import FileFormatError, read_points

REFLECTANCE = ("intensity", "reflectance", "reflectivity", "i", "scalar_Intensity")
"""What files that name their columns call it."""
_NAMING = (".ply", ".pcd")
_BYTE = 255


def read_lidar(
    path: str | Path,
    *,
    channels: int = 4,
    columns: int | None = None,
    reflectance: float | None = None,
    not_finite: Literal["error", "drop"] = "error",
) -> np.ndarray:
    """Read a scan.

    Args:
        path: .bin .pcd .ply .npy .npz .txt .xyz .csv; of a mesh, its vertices.
        channels: values per point that are wanted: 3 for x, y, z alone, 4 with reflectance, more where columns without
            names go on behind that.
        columns: values per point of a .bin file, which does not say it. None: 5 where it ends in .pcd.bin, as sweeps of
            nuScenes do (x, y, z, intensity, ring), else 4 as in KITTI.
        reflectance: of every point, in [0, 1], where the file holds none. None: that is an error.
        not_finite: what to do with points that are NaN or infinite: "error", or "drop" them.

    Returns:
        (n, channels) float32, see `lidar_channels`.

    Raises:
        FileFormatError: the file is missing or broken, holds no reflectance, or one that is not in a known range.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".bin" and columns is None:
        columns = 5 if path.name.lower().endswith(".pcd.bin") else 4
    try:
        points = None
        for name in REFLECTANCE if suffix in _NAMING and channels > 3 else ():
            try:
                points = read_points(path, features=(name,), num_points=None, not_finite=not_finite)
                break
            except FileFormatError as error:
                if "the points have no" not in error.problem:
                    raise
        if points is None:
            features = () if suffix in _NAMING or channels == 3 else None
            points = read_points(path, features=features, columns=columns, num_points=None, not_finite=not_finite)
        return lidar_channels(points, channels, reflectance=reflectance)
    except ValueError as error:
        if isinstance(error, FileFormatError):
            raise
        hint = f"; it was read with {columns} values per point, give columns for another number" if columns else ""
        raise FileFormatError(path, f"{error}{hint}") from None


def lidar_channels(points: np.ndarray, channels: int = 4, *, reflectance: float | None = None) -> np.ndarray:
    """The values of points that a model takes.

    The fourth value is reflectance, or intensity: in [0, 1], or up to 255, if it is above 1 anywhere, and then divided
    by that.

    Args:
        points: (n, 3 or more).
        channels: how many values are wanted, x, y, z first.
        reflectance: see `read_lidar`.

    Returns:
        (n, channels) float32.

    Raises:
        ValueError: there are too few values, or reflectance is negative or above 255.
    """
    if points.ndim != 2 or points.shape[1] < 3:
        raise ValueError(f"points must be (n, 3 or more), got {points.shape}")
    if points.shape[1] == 3 and channels == 4 and reflectance is not None:
        if not 0 <= reflectance <= 1:
            raise ValueError(f"reflectance must be in [0, 1], got {reflectance}")
        points = np.concatenate([points, np.full((len(points), 1), reflectance)], axis=1)
    if points.shape[1] < channels:
        raise ValueError(
            f"its points have {points.shape[1]} values, but {channels} are needed, x, y, z and reflectance first"
            + (
                "; reflectance=0.0, or --reflectance 0, gives all the same one, at some cost in accuracy"
                if channels == 4
                else ""
            )
        )
    chosen = points[:, :channels].astype(np.float32)  # a copy
    if channels > 3 and len(chosen):
        lowest, highest = float(chosen[:, 3].min()), float(chosen[:, 3].max())
        if lowest < 0 or highest > _BYTE:
            raise ValueError(
                f"reflectance, the fourth value, should be in [0, 1] or up to {_BYTE}, found {lowest:g} to {highest:g}"
            )
        if highest > 1:
            chosen[:, 3] /= _BYTE
    return chosen
