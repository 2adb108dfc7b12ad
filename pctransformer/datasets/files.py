"""Reading and writing single files: point clouds and meshes as arrays.

Readers trust nothing: a missing, truncated or damaged file, a header that promises more than there is, and coordinates
that are not finite end in a `FileFormatError` that names the file, what was found and what was expected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pctransformer.datasets.formats import meshes, pcd, ply, tables
from pctransformer.datasets.formats.common import Columns, FileFormatError, Mesh
from pctransformer.datasets.surface import sample_triangles

__all__ = ["MESH_SUFFIXES", "POINT_SUFFIXES", "FileFormatError", "read_mesh", "read_points", "write_ply"]

MESH_SUFFIXES = (".ply", ".off", ".obj", ".stl")
POINT_SUFFIXES = (".ply", ".pcd", ".npy", ".npz", ".xyz", ".txt", ".csv", ".bin")
NORMALS = ("nx", "ny", "nz")

_MAX_COORDINATE = 1e12
"""Nothing on Earth is farther away in metres; larger numbers are bytes that were misread."""


def read_points(
    path: str | Path,
    *,
    features: Sequence[str] | None = None,
    columns: int | None = None,
    num_points: int | None = 4096,
    generator: torch.Generator | None = None,
    not_finite: Literal["error", "drop"] = "error",
) -> np.ndarray:
    """Read a point cloud; a mesh is sampled on its surface, evenly by area.

    A file with faces (.off, .obj, .stl, .ply) is a mesh; `read_mesh` gives the faces too. Colours stay in the range of
    the file. Large coordinates are kept in float64, from which `PointBatch.from_list` moves them to an origin.

    Args:
        path: .ply .pcd .npy .npz .xyz .txt .csv .bin .off .obj .stl
        features: values beside x, y, z to return, by the names in the file ("nx", "red", "intensity", ...); a mesh has
            "nx", "ny", "nz". None: all that a point file holds, in its order, and none of a mesh. Formats that do not
            name their columns take None (all) or () only.
        columns: values per point of a .bin file, which does not say it: 4 for KITTI, 5 for nuScenes. Others ignore it.
        num_points: how many points to draw from a mesh; None: take its vertices as points, with the values they have
            in the file, as scanned rooms are used. Others ignore it.
        generator: source of randomness for a mesh; None: always the same points.
        not_finite: what to do with points whose coordinates are NaN or infinite: "error", or "drop" them (depth cameras
            mark missing returns so).

    Returns:
        points (n, 3 + c): float64 where the file holds doubles or text, else float32.

    Raises:
        FileFormatError: the file is missing, broken or empty, of an unknown kind, or lacks a feature.
    """
    path = Path(path)
    if path.suffix.lower() not in {*MESH_SUFFIXES, *POINT_SUFFIXES}:
        known = " ".join(dict.fromkeys(POINT_SUFFIXES + MESH_SUFFIXES))
        raise FileFormatError(path, f"files that end in {path.suffix or 'nothing'!r} are not read; known are {known}")
    cloud, mesh = _read(path, columns)
    if len(mesh.triangles) and num_points is not None:
        return _sample(_checked_mesh(mesh, path), path, features or (), num_points, generator)
    return _finite(_selected(cloud, features, path), path, not_finite)


def read_mesh(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a mesh; polygons are cut into triangles.

    Args:
        path: .ply .off .obj .stl

    Returns:
        vertices (v, 3) float64.
        faces (f, 3) int64: faces[i] are three rows of vertices, counter-clockwise seen from outside where the file
            says so.

    Raises:
        FileFormatError: the file is missing, broken, of another kind, or holds no faces.
    """
    path = Path(path)
    if path.suffix.lower() not in MESH_SUFFIXES:
        raise FileFormatError(path, f"meshes end in one of {' '.join(MESH_SUFFIXES)}; read_points reads point clouds")
    _, mesh = _read(path, None)
    if not len(mesh.triangles):
        raise FileFormatError(
            path, f"there are {len(mesh.vertices)} vertices but no faces; read_points reads point clouds"
        )
    mesh = _checked_mesh(mesh, path)
    return mesh.vertices, mesh.triangles


def write_ply(
    path: str | Path,
    xyz: np.ndarray,
    *,
    colors: np.ndarray | None = None,
    features: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write points as binary little-endian PLY, as MeshLab, CloudCompare and Open3D open it.

    The file appears as a whole or not at all; one that is there already is replaced.

    Args:
        path: where to; its folder must exist.
        xyz: (n, 3); float64 is stored as double, anything else as float.
        colors: (n, 3) red, green, blue: uint8, or floats in [0, 1].
        features: further columns (n,) by name, stored as float, for example {"nx": ..., "attention": ...}.

    Raises:
        ValueError: shapes do not fit together, colours are out of range, or a name is not one plain word.
    """
    xyz = np.asarray(xyz)
    if xyz.ndim != 2 or xyz.shape[1] != 3:
        raise ValueError(f"xyz must be (n, 3), got {xyz.shape}")
    if colors is not None:
        colors = np.asarray(colors)
        if colors.shape != xyz.shape:
            raise ValueError(f"colors must be (n, 3) with n = {len(xyz)}, got {colors.shape}")
        if colors.dtype != np.uint8:
            if not (colors.dtype.kind == "f" and np.all((colors >= 0) & (colors <= 1))):
                raise ValueError(f"colors must be uint8, or floats in [0, 1], got {colors.dtype}")
            colors = np.round(colors * 255).astype(np.uint8)
    extra = {name: np.asarray(column) for name, column in (features or {}).items()}
    for name, column in extra.items():
        if not name.isidentifier() or not name.isascii() or name in ("x", "y", "z", "red", "green", "blue"):
            raise ValueError(f"the name of a feature must be one plain word that is not taken yet, got {name!r}")
        if column.shape != (len(xyz),):
            raise ValueError(f"feature {name!r} must be (n,) with n = {len(xyz)}, got {column.shape}")
    ply.write(path, xyz, colors, extra)


_NO_FACES = Mesh(np.empty((0, 3)), np.empty((0, 3), np.int64))


def _read(path: Path, columns: int | None) -> tuple[Columns, Mesh]:
    """The points, or vertices, of a file and its faces."""
    match path.suffix.lower():
        case ".ply":
            return ply.read(path)
        case ".off" | ".obj" | ".stl" as suffix:
            readers = {".off": meshes.read_off, ".obj": meshes.read_obj, ".stl": meshes.read_stl}
            mesh = readers[suffix](path)
            return Columns(mesh.vertices, ("x", "y", "z")), mesh
        case ".pcd":
            return pcd.read(path), _NO_FACES
        case ".npy":
            return tables.read_npy(path), _NO_FACES
        case ".npz":
            return tables.read_npz(path), _NO_FACES
        case ".bin":
            return tables.read_bin(path, columns), _NO_FACES
        case _:
            return tables.read_text(path), _NO_FACES


def _selected(cloud: Columns, features: Sequence[str] | None, path: Path) -> np.ndarray:
    if features is None:
        return cloud.values
    if cloud.names is None:
        if features:
            raise FileFormatError(
                path, f"its columns have no names to find {', '.join(features)} by; take them by position"
            )
        return cloud.values[:, :3]
    absent = [name for name in features if name not in cloud.names]
    if absent:
        raise FileFormatError(path, f"the points have no {', '.join(absent)}, only {', '.join(cloud.names)}")
    return cloud.values[:, [0, 1, 2, *(cloud.names.index(name) for name in features)]]


def _finite(points: np.ndarray, path: Path, not_finite: str) -> np.ndarray:
    bad = ~(np.isfinite(points).all(axis=1) & (np.abs(points[:, :3]) <= _MAX_COORDINATE).all(axis=1))
    if not_finite == "drop":
        points = points[~bad]
    elif bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise FileFormatError(
            path,
            f"{int(bad.sum())} of {len(points)} points are NaN, infinite or beyond {_MAX_COORDINATE:g}, first in"
            f" row {row}: {points[row].tolist()[:8]}; not_finite='drop' leaves such points out",
        )
    if not len(points):
        raise FileFormatError(path, "there are no points")
    return points


def _checked_mesh(mesh: Mesh, path: Path) -> Mesh:
    used = mesh.vertices[np.unique(mesh.triangles)]
    bad = ~(np.abs(used) <= _MAX_COORDINATE).all(axis=1)
    if bad.any():
        raise FileFormatError(
            path, f"{int(bad.sum())} of {len(used)} vertices of faces are NaN, infinite or beyond {_MAX_COORDINATE:g}"
        )
    return mesh


def _sample(
    mesh: Mesh, path: Path, features: Sequence[str], num_points: int, generator: torch.Generator | None
) -> np.ndarray:
    absent = [name for name in features if name not in NORMALS]
    if absent:
        raise FileFormatError(path, f"a mesh has only {', '.join(NORMALS)} beside x, y, z, not {', '.join(absent)}")
    try:
        points, normals, _ = sample_triangles(mesh.vertices[mesh.triangles], num_points, generator)
    except ValueError as error:
        raise FileFormatError(path, str(error)) from None
    return np.concatenate([points, normals[:, [NORMALS.index(name) for name in features]]], axis=1)
