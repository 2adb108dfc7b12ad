"""PLY, the Stanford polygon format: text, and binary of either byte order."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from pctransformer.atomic import replace_file
from pctransformer.datasets.formats.common import (
    Columns,
    FileFormatError,
    Mesh,
    check_count,
    decode,
    parse_table,
    read_bytes,
    triangulate,
    whole_number,
)

_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"float": "f4", "double": "f8"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float32": "f4", "float64": "f8"},
}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_HEADER_BYTES = 2**16


@dataclasses.dataclass
class _Property:
    name: str
    dtype: str  # of the value, or of the values of a list
    count_dtype: str | None = None  # of the length of a list


@dataclasses.dataclass
class _Element:
    name: str
    count: int
    properties: list[_Property]

    @property
    def has_lists(self) -> bool:
        return any(p.count_dtype for p in self.properties)


_Values = dict[str, "np.ndarray | list[np.ndarray]"]


def read(path: str | Path) -> tuple[Columns, Mesh]:
    """The vertices with all their values, and the faces, if any."""
    data = read_bytes(path)
    order, elements, start = _header(data, path)
    body = _read_binary(data, start, order, elements, path) if order else _read_text(data[start:], elements, path)
    if "vertex" not in body:
        raise FileFormatError(path, f"there is no element 'vertex', only {', '.join(body) or 'nothing'}")
    vertex = body["vertex"]
    absent = [name for name in "xyz" if name not in vertex]
    if absent:
        raise FileFormatError(path, f"the vertices have no {', '.join(absent)}, only {', '.join(vertex)}")
    columns = {name: column for name, column in vertex.items() if isinstance(column, np.ndarray) and column.ndim == 1}
    names = ("x", "y", "z", *(name for name in columns if name not in ("x", "y", "z")))
    dtype = np.result_type(np.float32, *(column.dtype for column in columns.values()))
    table = np.stack([columns[name].astype(dtype) for name in names], axis=1)
    vertices = table[:, :3].astype(np.float64)
    return Columns(table, names), Mesh(vertices, _triangles(body, len(vertices), path))


def _triangles(values: dict[str, _Values], num_vertices: int, path: str | Path) -> np.ndarray:
    face = values.get("face", {})
    polygons = face.get("vertex_indices", face.get("vertex_index", np.empty((0, 3), np.int64)))
    if isinstance(polygons, np.ndarray) and polygons.ndim != 2:
        raise FileFormatError(path, "vertex_indices of the faces should be a list property")
    blocks = [triangulate(polygons, num_vertices, path)]
    for strip in values.get("tristrips", {}).get("vertex_indices", []):
        blocks.append(_strip_triangles(np.asarray(strip), num_vertices, path))
    return np.concatenate(blocks)


def _strip_triangles(strip: np.ndarray, num_vertices: int, path: str | Path) -> np.ndarray:
    """Triangles of strips that are separated by -1; every second one is turned to face the same way."""
    strip = strip.astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(strip, 3) if len(strip) >= 3 else np.empty((0, 3), np.int64)
    position = np.arange(len(strip))
    last_break = np.maximum.accumulate(np.where(strip == -1, position, -1))[: len(windows)]
    odd = (position[: len(windows)] - last_break - 1) % 2 == 1
    windows = np.where(odd[:, None], windows[:, [1, 0, 2]], windows)
    return triangulate(windows[(windows != -1).all(axis=1)], num_vertices, path)


def _header(data: bytes, path: str | Path) -> tuple[str, list[_Element], int]:
    if not data.startswith(b"ply"):
        raise FileFormatError(path, f"a PLY file starts with 'ply', this one with {data[:8]!r}")
    end = data.find(b"end_header", 0, _HEADER_BYTES)
    stop = data.find(b"\n", end)
    if end < 0 or stop < 0:
        raise FileFormatError(path, "the header does not end with 'end_header'; the file was cut off")
    lines = decode(data[:end], path, "the header").splitlines()
    order, elements = None, []
    for line in lines[1:]:
        match line.split():
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", word, _] if word in _ORDERS:
                order = _ORDERS[word]
            case ["element", name, count]:
                elements.append(_Element(name, whole_number(count, path, f"the number of {name}"), []))
            case ["property", "list", count, kind, name] if elements and count in _TYPES and kind in _TYPES:
                elements[-1].properties.append(_Property(name, _TYPES[kind], _TYPES[count]))
            case ["property", kind, name] if elements and kind in _TYPES:
                elements[-1].properties.append(_Property(name, _TYPES[kind]))
            case _:
                raise FileFormatError(path, f"the header has a line that is not PLY: {line[:80]!r}")
    if order is None:
        raise FileFormatError(path, f"the header names no format; it should be one of {', '.join(_ORDERS)}")
    for element in elements:
        names = [p.name for p in element.properties]
        if len(set(names)) != len(names) or (element.count and not names):
            raise FileFormatError(path, f"element {element.name!r} has properties {names}; each name should come once")
        if any(p.count_dtype and p.count_dtype[0] == "f" for p in element.properties):
            raise FileFormatError(path, f"element {element.name!r} has a list whose length is not a whole number")
    return order, elements, stop + 1


# ---- binary ----------------------------------------------------------------------------------------------------------
def _read_binary(
    data: bytes, position: int, order: str, elements: list[_Element], path: str | Path
) -> dict[str, _Values]:
    values: dict[str, _Values] = {}
    for element in elements:
        smallest = sum(int((p.count_dtype or p.dtype)[1:]) for p in element.properties)
        room = len(data) - position
        if element.count * smallest > room:
            fit = room // smallest
            raise FileFormatError(
                path, f"the header promises {element.count} rows of {element.name}, but there are bytes for {fit}"
            )
        read = _read_lists if element.has_lists else _read_rows
        values[element.name], position = read(data, position, order, element, path)
    if position != len(data):
        raise FileFormatError(path, f"{len(data) - position} bytes follow the last element; its header is wrong")
    return values


def _read_rows(data: bytes, position: int, order: str, element: _Element, path: str | Path) -> tuple[_Values, int]:
    dtype = np.dtype([(p.name, order + p.dtype) for p in element.properties])
    rows = np.frombuffer(data, dtype, element.count, position)
    native: _Values = {p.name: rows[p.name].astype(p.dtype) for p in element.properties}
    return native, position + element.count * dtype.itemsize


def _read_lists(data: bytes, position: int, order: str, element: _Element, path: str | Path) -> tuple[_Values, int]:
    """Rows with lists. Where all lists are as long as those of the first row, they are read at once."""
    lengths, end = _row_lengths(data, position, order, element, path) if element.count else ({}, position)
    fields: list[tuple] = []
    for p in element.properties:
        if p.count_dtype:
            fields += [
                (f"{p.name} length", order + p.count_dtype),
                (p.name, order + p.dtype, (lengths.get(p.name, 3),)),
            ]
        else:
            fields.append((p.name, order + p.dtype))
    dtype = np.dtype(fields)
    if element.count * dtype.itemsize <= len(data) - position:
        rows = np.frombuffer(data, dtype, element.count, position)
        if all((rows[f"{name} length"] == length).all() for name, length in lengths.items()):
            uniform: _Values = {p.name: rows[p.name].astype(p.dtype) for p in element.properties}
            return uniform, position + element.count * dtype.itemsize
    gathered: dict[str, list] = {p.name: [] for p in element.properties}
    for _ in range(element.count):
        lengths, end = _row_lengths(data, position, order, element, path)
        for p in element.properties:
            if p.count_dtype:
                position += int(p.count_dtype[1:])
            column = np.frombuffer(data, order + p.dtype, lengths.get(p.name, 1), position)
            position += column.nbytes
            gathered[p.name].append(column.astype(p.dtype) if p.count_dtype else column[0])
        assert position == end
    return {
        p.name: g if p.count_dtype else np.array(g, p.dtype) for p, g in zip(element.properties, gathered.values())
    }, position


def _row_lengths(
    data: bytes, position: int, order: str, element: _Element, path: str | Path
) -> tuple[dict[str, int], int]:
    """Lengths of the lists in the row at `position`, and where it ends."""
    lengths = {}
    for p in element.properties:
        length = 1
        if p.count_dtype:
            size = int(p.count_dtype[1:])
            field = data[position : position + size]
            length = int.from_bytes(field, "big" if order == ">" else "little", signed=p.count_dtype[0] == "i")
            lengths[p.name] = length
            position += size
        position += length * int(p.dtype[1:])
        if length < 0 or position > len(data):
            raise FileFormatError(
                path, f"a list in {element.name} promises {length} values, more than the rest of the file holds"
            )
    return lengths, position


# ---- text ------------------------------------------------------------------------------------------------------------
def _read_text(data: bytes, elements: list[_Element], path: str | Path) -> dict[str, _Values]:
    lines = [line for line in decode(data, path).splitlines() if line.strip()]
    check_count(len(lines), sum(element.count for element in elements), path, "rows")
    values: dict[str, _Values] = {}
    begin = 0
    for element in elements:
        block = lines[begin : begin + element.count]
        begin += element.count
        values[element.name] = (
            _text_lists(block, element, path) if element.has_lists else _text_rows(block, element, path)
        )
    return values


def _text_rows(lines: list[str], element: _Element, path: str | Path) -> _Values:
    table = parse_table(lines, path, f"element {element.name}")
    width = len(element.properties)
    if lines and table.shape[1] != width:
        raise FileFormatError(path, f"rows of {element.name} should hold {width} values, they hold {table.shape[1]}")
    return {p.name: table[:, i] if lines else np.empty(0) for i, p in enumerate(element.properties)}


def _text_lists(lines: list[str], element: _Element, path: str | Path) -> _Values:
    gathered: dict[str, list] = {p.name: [] for p in element.properties}
    for line in lines:
        tokens, at = line.split(), 0
        for p in element.properties:
            length = 1
            if p.count_dtype:
                length = whole_number(tokens[at] if at < len(tokens) else "", path, f"a list length in {element.name}")
                at += 1
            try:
                column = np.array([float(token) for token in tokens[at : at + length]])
            except ValueError:
                column = np.empty(0)
            if len(column) != length or not np.isfinite(column).all():
                raise FileFormatError(path, f"a row of {element.name} does not hold what it promises: {line[:80]!r}")
            gathered[p.name].append(column if p.count_dtype else column[0])
            at += length
        if at != len(tokens):
            raise FileFormatError(path, f"a row of {element.name} is longer than it promises: {line[:80]!r}")
    return {p.name: gathered[p.name] if p.count_dtype else np.array(gathered[p.name]) for p in element.properties}


# ---- writing ---------------------------------------------------------------------------------------------------------
def write(path: str | Path, xyz: np.ndarray, colors: np.ndarray | None, extra: dict[str, np.ndarray]) -> None:
    fields: list[tuple[str, str]] = [(name, "<f8" if xyz.dtype == np.float64 else "<f4") for name in "xyz"]
    if colors is not None:
        fields += [(name, "|u1") for name in ("red", "green", "blue")]
    fields += [(name, "<f4") for name in extra]
    rows = np.empty(len(xyz), fields)
    for i, name in enumerate("xyz"):
        rows[name] = xyz[:, i]
    if colors is not None:
        for i, name in enumerate(("red", "green", "blue")):
            rows[name] = colors[:, i]
    for name, column in extra.items():
        rows[name] = column
    words = {"<f4": "float", "<f8": "double", "|u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(xyz)}"]
    header += [f"property {words[kind]} {name}" for name, kind in fields]
    replace_file(path, "\n".join([*header, "end_header", ""]).encode("ascii") + rows.tobytes())
