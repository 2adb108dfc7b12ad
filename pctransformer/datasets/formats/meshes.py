"""OFF, OBJ and STL: surfaces made of polygons."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pctransformer.datasets.formats.common import (
    FileFormatError,
    Mesh,
    check_count,
    decode,
    parse_table,
    read_bytes,
    triangulate,
    whole_number,
)

# ---- OFF -------------------------------------------------------------------------------------------------------------
_OFF_COLUMNS = {"OFF": (3,), "COFF": (6, 7), "NOFF": (6,), "CNOFF": (9, 10)}


def read_off(path: str | Path) -> Mesh:
    """OFF, also with the counts right behind the word (`OFF490 518 0`, as some of ModelNet); COFF and NOFF.

    Colours and normals are left out. The kinds with another number of dimensions, and binary OFF, are refused.
    """
    text = decode(read_bytes(path), path)
    lines = [line for raw in text.splitlines() if (line := raw.split("#", 1)[0].strip())]
    head = re.match(r"(\w*?OFF)\b|(\w*?OFF)(?=\d)", lines[0] if lines else "")
    kind = (head[1] or head[2]) if head else ""
    if head is None or kind not in _OFF_COLUMNS:
        start = lines[0][:40] if lines else ""
        raise FileFormatError(
            path, f"the file should start with one of {', '.join(_OFF_COLUMNS)}, it starts with {start!r}"
        )
    rest = lines[0][head.end() :].strip()
    rows = ([rest] if rest else []) + lines[1:]
    counts = rows[0].split() if rows else []
    if not 2 <= len(counts) <= 3:
        raise FileFormatError(
            path, f"the header should hold the numbers of vertices, faces and edges, found {rows[:1]}"
        )
    num_vertices = whole_number(counts[0], path, "the number of vertices")
    num_faces = whole_number(counts[1], path, "the number of faces")
    check_count(len(rows) - 1, num_vertices + num_faces, path, "vertices and faces")
    table = parse_table(rows[1 : 1 + num_vertices], path, "the list of vertices")
    if num_vertices and table.shape[1] not in _OFF_COLUMNS[kind]:
        wanted = " or ".join(map(str, _OFF_COLUMNS[kind]))
        raise FileFormatError(path, f"a vertex of {kind} should have {wanted} values, it has {table.shape[1]}")
    polygons = _off_faces(rows[1 + num_vertices :], path)
    return Mesh(table[:, :3].reshape(-1, 3), triangulate(polygons, num_vertices, path))


def _off_faces(lines: list[str], path: str | Path) -> np.ndarray | list[np.ndarray]:
    """Corners of each face; a colour may follow them. Faces that are all alike are read at once."""
    try:
        table = parse_table(lines, path, "the list of faces", dtype=np.int64)
        if lines and (table[:, 0] == table[0, 0]).all() and 0 <= table[0, 0] < table.shape[1]:
            return table[:, 1 : 1 + table[0, 0]]
    except FileFormatError:
        pass  # rows of different lengths, or colours with a fraction: row by row then
    polygons = []
    for line in lines:
        tokens = line.split()
        corners = whole_number(tokens[0], path, "the number of corners of a face")
        if len(tokens) <= corners:
            raise FileFormatError(path, f"a face promises {corners} corners, but its row is {line[:80]!r}")
        numbers = [whole_number(token, path, "the corner of a face") for token in tokens[1 : 1 + corners]]
        polygons.append(np.array(numbers, np.int64))
    return polygons


# ---- OBJ -------------------------------------------------------------------------------------------------------------
def read_obj(path: str | Path) -> Mesh:
    """Vertices `v` and faces `f` of a Wavefront OBJ; texture, normals, colours, groups and materials are left out.

    The format has no counts, so a file that was cut off between two rows cannot be told from a whole one.
    """
    text = read_bytes(path).decode("utf-8", errors="replace").replace("\\\n", " ")  # names of materials may be anything
    lines = [line.strip() for line in text.splitlines()]
    vertex_lines = [line[2:] for line in lines if line.startswith(("v ", "v\t"))]
    face_lines = [line[2:] for line in lines if line.startswith(("f ", "f\t"))]
    if not vertex_lines:
        raise FileFormatError(path, "there is no row that starts with 'v ', so there are no vertices")
    table = parse_table(vertex_lines, path, "the list of vertices")
    if table.shape[1] not in (3, 4, 6, 7):
        raise FileFormatError(
            path, f"a vertex should have 3 coordinates, perhaps a weight or colour; it has {table.shape[1]} values"
        )
    has_negative = any("-" in line for line in face_lines)
    before = _vertices_before_faces(lines) if has_negative else [0] * len(face_lines)
    polygons = []
    for line, count in zip(face_lines, before):
        try:
            corners = [int(token.split("/", 1)[0]) for token in line.split("#", 1)[0].split()]
        except ValueError:
            raise FileFormatError(path, f"a face should list vertex numbers, found {line[:80]!r}") from None
        if any(abs(c) > len(table) or c == 0 for c in corners):
            raise FileFormatError(path, f"a face refers to {line[:80]!r}, but there are {len(table)} vertices")
        polygons.append(np.array([c - 1 if c > 0 else count + c for c in corners], np.int64))
    return Mesh(table[:, :3], triangulate(polygons, len(table), path))


def _vertices_before_faces(lines: list[str]) -> list[int]:
    """How many vertices came before each face: negative corners count back from there."""
    counts, seen = [], 0
    for line in lines:
        if line.startswith(("v ", "v\t")):
            seen += 1
        elif line.startswith(("f ", "f\t")):
            counts.append(seen)
    return counts


# ---- STL -------------------------------------------------------------------------------------------------------------
_STL_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def read_stl(path: str | Path) -> Mesh:
    """Binary STL where the size of the file says so, text otherwise. Triangles do not share vertices."""
    data = read_bytes(path)
    promised = int.from_bytes(data[80:84], "little")
    if len(data) == 84 + promised * _STL_TRIANGLE.itemsize:
        corners = np.frombuffer(data, _STL_TRIANGLE, promised, 84)["corners"].astype(np.float64)
    elif data.lstrip()[:5].lower() == b"solid" and b"facet" in data:
        corners = _stl_text(data, path)
    else:
        there = max(len(data) - 84, 0) / _STL_TRIANGLE.itemsize
        if len(data) < 84:
            raise FileFormatError(path, f"neither a text that begins with solid, nor 84 bytes of header: {len(data)}")
        raise FileFormatError(path, f"the header promises {promised} triangles, but there are bytes for {there:.6g}")
    return Mesh(corners.reshape(-1, 3), np.arange(3 * len(corners)).reshape(-1, 3))


def _stl_text(data: bytes, path: str | Path) -> np.ndarray:
    lines = [line.strip().lower() for line in data.decode("utf-8", errors="replace").splitlines() if line.strip()]
    if not lines[-1].startswith("endsolid"):
        raise FileFormatError(
            path, f"the last row should be 'endsolid', it is {lines[-1][:40]!r}; the file was cut off"
        )
    body = [line for line in lines if not line.startswith(("solid", "endsolid"))]
    shape = ("facet", "outer", "vertex", "vertex", "vertex", "endloop", "endfacet")
    for i, line in enumerate(body):
        if line.split()[0] != shape[i % 7]:
            raise FileFormatError(path, f"expected a row that starts with {shape[i % 7]!r}, found {line[:80]!r}")
    check_count(len(body), -(-len(body) // 7) * 7, path, "rows of facets")
    table = parse_table(
        [line[len("vertex") :] for line in body if line.startswith("vertex")], path, "the list of vertices"
    )
    if len(body) and table.shape[1] != 3:
        raise FileFormatError(path, f"a vertex should have 3 coordinates, it has {table.shape[1]} values")
    return table.reshape(-1, 3, 3)
