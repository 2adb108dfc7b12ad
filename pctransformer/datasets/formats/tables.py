"""Bare numbers: npy, npz, text with one point per row, and raw float32."""

from __future__ import annotations

import io
import math
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np

from pctransformer.datasets.formats.common import (
    MAX_FILE_BYTES,
    Columns,
    FileFormatError,
    check_count,
    decode,
    parse_table,
    read_bytes,
    whole_number,
)

_DEFLATE_MAX_RATIO = 1032  # of the algorithm: more is not possible, so a larger promise is a lie


def _array(data: bytes, path: str | Path, what: str) -> np.ndarray:
    """The array in the bytes of a .npy file. Its size is checked before anything is allocated; objects are refused."""
    stream = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # arrays written by Python 2 are read all the same
            version = np.lib.format.read_magic(stream)
            if version not in ((1, 0), (2, 0), (3, 0)):
                raise ValueError(f"version {version}")
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(stream)
    except Exception as error:  # the header is a Python literal: its parser raises whatever Python's own does
        raise FileFormatError(path, f"{what} is not a readable npy array: {str(error)[:200]}") from None
    if dtype.hasobject or dtype.kind not in "fiubUS":
        raise FileFormatError(
            path, f"{what} holds {dtype}; only plain numbers and text are read, never pickled objects"
        )
    needed, found = math.prod(shape) * dtype.itemsize, len(data) - stream.tell()
    if min(shape, default=1) < 0 or needed != found:
        raise FileFormatError(path, f"{what} promises {shape} {dtype}, which are {needed} bytes, but there are {found}")
    if needed == 0:
        return np.empty(shape, dtype)
    flat = np.frombuffer(data, dtype, math.prod(shape), stream.tell())
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def read_npz_arrays(path: str | Path, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an .npz file by name, or only those named.

    Raises:
        FileFormatError: one of them is missing, larger than it can be, or damaged (every array carries a checksum).
    """
    data = read_bytes(path)
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            absent = [name for name in names or () if name not in members]
            if absent:
                raise FileFormatError(path, f"there is no array {absent[0]!r}, only {', '.join(members)[:200]}")
            total = sum(members[name].file_size for name in names or members)
            if total > min(len(data) * _DEFLATE_MAX_RATIO, MAX_FILE_BYTES):
                raise FileFormatError(path, f"its arrays claim to expand to {total} bytes, too many to be read")
            for name in names or members:
                arrays[name] = _array(archive.read(members[name]), path, f"array {name!r}")
    except FileFormatError:
        raise
    except Exception as error:  # zipfile, zlib and struct each have errors of their own for a damaged archive
        raise FileFormatError(path, f"this is not a readable npz archive: {str(error)[:200]}") from None
    return arrays


_FEW_ROWS, _MANY_COLUMNS = 6, 64  # so that points are taken for columns: coordinates, colours or normals, of many


def read_npy(path: str | Path) -> Columns:
    return Columns(_as_points(_array(read_bytes(path), path, "the file"), path))


def read_npz(path: str | Path) -> Columns:
    """The array called points, xyz or pos, or the only one there is."""
    arrays = read_npz_arrays(path)
    for name in ("points", "xyz", "pos"):
        if name in arrays:
            return Columns(_as_points(arrays[name], path))
    if not arrays:
        raise FileFormatError(path, "there are no arrays in it")
    if len(arrays) != 1:
        raise FileFormatError(path, f"none of the arrays {', '.join(arrays)[:200]} is called points, xyz or pos")
    return Columns(_as_points(next(iter(arrays.values())), path))


def _as_points(values: np.ndarray, path: str | Path) -> np.ndarray:
    if values.ndim != 2 or values.shape[1] < 3 or values.dtype.kind not in "fiu":
        raise FileFormatError(
            path, f"points should be numbers of shape (n, 3 + c), found {values.shape} {values.dtype}"
        )
    if len(values) <= _FEW_ROWS and values.shape[1] >= _MANY_COLUMNS:
        raise FileFormatError(
            path,
            f"points should be rows (n, 3 + c), found {values.shape}; if its columns are the points, transpose it",
        )
    wide = values.dtype.itemsize > 4 or (values.dtype.kind in "iu" and values.dtype.itemsize == 4)
    return values.astype(np.float64 if wide else np.float32)


def read_text(path: str | Path) -> Columns:
    """One point per row, values parted by blanks, commas or semicolons.

    Rows that start with # or // are comments. A first row with words names columns and is left out; a first row with
    one whole number is the number of points.
    """
    lines = [line.strip() for line in decode(read_bytes(path), path).splitlines()]
    lines = [line for line in lines if line and not line.startswith(("#", "//"))]
    promised = None
    if len(lines) > 1 and re.fullmatch(r"\d+", lines[0]):
        promised, lines = whole_number(lines[0], path, "the number of points"), lines[1:]
    elif lines and not _is_number(re.split(r"[\s,;]+", lines[0])[0]):
        lines = lines[1:]
    if promised is not None:
        check_count(len(lines), promised, path, "points")
    if not lines:
        raise FileFormatError(path, "there are no rows of numbers")
    delimiter = next((mark for mark in ",;" if mark in lines[0]), None)
    table = parse_table([line.rstrip(",;") for line in lines], path, "the list of points", delimiter=delimiter)
    if table.shape[1] < 3:
        raise FileFormatError(path, f"a point should have at least 3 values, it has {table.shape[1]}")
    return Columns(table)


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def read_bin(path: str | Path, columns: int | None) -> Columns:
    """Raw little-endian float32, `columns` values per point; the file itself does not say how many."""
    if columns is None:
        raise FileFormatError(
            path, "a .bin file does not say how many values a point has; give columns=4 for KITTI, 5 for nuScenes"
        )
    data = read_bytes(path)
    if columns < 3 or len(data) % (4 * columns):
        raise FileFormatError(path, f"{len(data)} bytes are not a whole number of points with {columns} float32 values")
    return Columns(np.frombuffer(data, "<f4").reshape(-1, columns).astype(np.float32))
