"""What every format needs: the one error, the bytes of a file, and numbers from lines of text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pctransformer.errors import UserError

MAX_FILE_BYTES = 4 * 2**30
"""Larger files are refused: no single cloud needs them, and reading takes several times their size in memory."""


class FileFormatError(UserError, ValueError):
    """A file is missing, broken, or not what it says it is; the message names it, what was found and what expected."""

    def __init__(self, path: str | Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path, self.problem = Path(path), problem

    def __reduce__(self):
        return type(self), (self.path, self.problem)  # so that it travels out of a DataLoader's worker


@dataclasses.dataclass(frozen=True)
class Columns:
    """Points as a file holds them.

    Attributes:
        values: (n, c) float32 or float64.
        names: c names of the columns, or None where the format does not name them.
    """

    values: np.ndarray
    names: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Mesh:
    """vertices (v, 3) float64, and triangles (t, 3) int64 of rows of them."""

    vertices: np.ndarray
    triangles: np.ndarray


def read_bytes(path: str | Path) -> bytes:
    path = Path(path)
    if not path.exists():
        raise FileFormatError(path, "there is no such file")
    if not path.is_file():
        raise FileFormatError(path, "this is not a file; a folder of files is read with folder_dataset")
    size = path.stat().st_size
    if size == 0:
        raise FileFormatError(path, "the file is empty")
    if size > MAX_FILE_BYTES:
        raise FileFormatError(path, f"the file has {size} bytes, more than the {MAX_FILE_BYTES} that are read at once")
    return path.read_bytes()


def decode(data: bytes, path: str | Path, what: str = "the file") -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise FileFormatError(path, f"{what} should be plain text, but byte {error.start} is 0x{byte:02x}") from None


def whole_number(token: str, path: str | Path, what: str) -> int:
    """A number of things: digits only, at most 15 of them."""
    if not (token.isdecimal() and len(token) <= 15):
        raise FileFormatError(path, f"{what} should be a whole number, found {token[:40]!r}")
    return int(token)


def parse_table(
    lines: Sequence[str], path: str | Path, what: str, *, delimiter: str | None = None, dtype: type = np.float64
) -> np.ndarray:
    """Numbers (rows, columns) from lines that all have the same number of them."""
    if not lines:
        return np.empty((0, 0), dtype)
    try:
        return np.loadtxt(lines, dtype=dtype, comments=None, delimiter=delimiter, ndmin=2)
    except (ValueError, OverflowError) as error:
        reason = str(error).split(";")[0].rstrip(".")
        raise FileFormatError(path, f"{what} cannot be read as rows of equally many numbers: {reason}") from None


def check_count(found: int, promised: int, path: str | Path, what: str) -> None:
    if found != promised:
        state = "it was cut off, or its header is wrong" if found < promised else "its header is wrong"
        raise FileFormatError(path, f"the header promises {promised} {what}, but there are {found}; {state}")


def triangulate(polygons: Sequence[np.ndarray] | np.ndarray, num_vertices: int, path: str | Path) -> np.ndarray:
    """Cut polygons into fans of triangles.

    Args:
        polygons: (m, s) or m arrays of vertex numbers. Those with fewer than three corners have no surface and are
            left out.
        num_vertices: v, to check the numbers against.

    Returns:
        triangles (t, 3) int64.
    """
    fans = []
    groups: dict[int, list[np.ndarray]] = {}
    if isinstance(polygons, np.ndarray):
        groups[polygons.shape[1]] = [polygons]
    else:
        for polygon in polygons:
            groups.setdefault(len(polygon), []).append(polygon[None])
    for corners, group in groups.items():
        block = np.concatenate(group).astype(np.int64) if group else np.empty((0, corners), np.int64)
        wrong = (block < 0) | (block >= num_vertices)
        if wrong.any():
            found = block[wrong][0]
            raise FileFormatError(path, f"a face refers to vertex {found}, but there are {num_vertices} vertices")
        fans += [block[:, [0, i, i + 1]] for i in range(1, corners - 1)]
    return np.concatenate(fans) if fans else np.empty((0, 3), np.int64)
