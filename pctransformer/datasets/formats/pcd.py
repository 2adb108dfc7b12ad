"""PCD, the format of the Point Cloud Library: text, binary, and binary compressed with LZF."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pctransformer.datasets.formats.common import (
    Columns,
    FileFormatError,
    check_count,
    decode,
    parse_table,
    read_bytes,
    whole_number,
)

_TYPES = {f"{kind}{size}" for kind in "IU" for size in (1, 2, 4, 8)} | {"F4", "F8"}
_NEEDED = ("FIELDS", "SIZE", "TYPE", "WIDTH", "HEIGHT", "DATA")
_MAX_VALUES_PER_POINT = 4096
_LZF_MAX_RATIO = 88  # the longest copy, 264 bytes, takes 3


def read(path: str | Path) -> Columns:
    """All fields with one value per point; normal_x becomes nx, and packed rgb becomes red, green, blue."""
    data = read_bytes(path)
    header, start = _header(data, path)
    names, dtypes, counts = _fields(header, path)
    points = _num_points(header, path)
    body, kind = data[start:], header["DATA"][0]
    row_bytes = sum(dtype.itemsize * count for dtype, count in zip(dtypes, counts))
    if kind == "ascii":
        columns = _from_text(body, names, dtypes, counts, points, path)
    elif kind == "binary":
        _check_bytes(len(body), points * row_bytes, path, exact=False)
        layout = np.dtype([(f"{i}", dtype, (count,)) for i, (dtype, count) in enumerate(zip(dtypes, counts))])
        rows = np.frombuffer(body, layout, points)
        columns = [rows[f"{i}"] for i in range(len(names))]
    elif kind == "binary_compressed":
        columns = _from_compressed(body, dtypes, counts, points, points * row_bytes, path)
    else:
        raise FileFormatError(path, f"DATA should be ascii, binary or binary_compressed, it is {kind[:40]!r}")
    return _named(names, columns, path)


def _header(data: bytes, path: str | Path) -> tuple[dict[str, list[str]], int]:
    header: dict[str, list[str]] = {}
    position = 0
    while "DATA" not in header:
        end = data.find(b"\n", position, position + 2**16)
        if end < 0 or len(header) > 16:
            raise FileFormatError(
                path, f"the header should end with a line DATA; it has {', '.join(header) or 'nothing'}"
            )
        words = decode(data[position:end], path, "the header").split()
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
        position = end + 1
    absent = [key for key in _NEEDED if not header.get(key)]
    if absent:
        raise FileFormatError(path, f"the header has no {', '.join(absent)}")
    return header, position


def _fields(header: dict[str, list[str]], path: str | Path) -> tuple[list[str], list[np.dtype], list[int]]:
    names, sizes, kinds = header["FIELDS"], header["SIZE"], header["TYPE"]
    counts = [whole_number(c, path, "COUNT") for c in header.get("COUNT", ["1"] * len(names))]
    lengths = [len(names), len(sizes), len(kinds), len(counts)]
    if len(set(lengths)) != 1:
        raise FileFormatError(
            path,
            f"FIELDS, SIZE, TYPE, COUNT should be as many, they are {lengths}",
        )
    codes = [f"{kind.upper()}{size}" for kind, size in zip(kinds, sizes)]
    unknown = [code for code in codes if code not in _TYPES]
    if unknown or min(counts) < 1 or sum(counts) > _MAX_VALUES_PER_POINT:
        raise FileFormatError(
            path, f"the fields {list(zip(names, codes, counts))[:20]} are not of types that PCD knows"
        )
    named = [name for name in names if name != "_"]
    if len(set(named)) != len(named):
        raise FileFormatError(path, f"FIELDS should name each field once, found {' '.join(names)[:80]}")
    return names, [np.dtype("<" + code.lower()) for code in codes], counts


def _num_points(header: dict[str, list[str]], path: str | Path) -> int:
    width, height = (whole_number(header[key][0], path, key) for key in ("WIDTH", "HEIGHT"))
    if header.get("POINTS"):
        points = whole_number(header["POINTS"][0], path, "POINTS")
        if points != width * height:
            raise FileFormatError(path, f"POINTS is {points}, but WIDTH x HEIGHT is {width} x {height}")
    return width * height


def _check_bytes(found: int, needed: int, path: str | Path, *, exact: bool) -> None:
    if found < needed or (exact and found > needed):
        raise FileFormatError(path, f"the header promises {needed} bytes of points, but there are {found}")


def _from_text(
    body: bytes, names: list[str], dtypes: list[np.dtype], counts: list[int], points: int, path: str | Path
) -> list[np.ndarray]:
    lines = [line for line in decode(body, path).splitlines() if line.strip()]
    check_count(len(lines), points, path, "points")
    table = parse_table(lines, path, "the list of points") if lines else np.empty((0, sum(counts)))
    if table.shape[1] != sum(counts):
        raise FileFormatError(path, f"a point should have {sum(counts)} values, it has {table.shape[1]}")
    columns = np.split(table, np.cumsum(counts)[:-1], axis=1)
    for i, (name, dtype) in enumerate(zip(names, dtypes)):
        if name in ("rgb", "rgba"):  # four bytes written as one number, of the type the header names
            column = columns[i]
            if dtype.kind != "f" and not ((column >= 0) & (column < 2**32)).all():
                raise FileFormatError(path, f"{name} should hold whole numbers of four bytes")
            columns[i] = column.astype(dtype)
    return columns


def _from_compressed(
    body: bytes, dtypes: list[np.dtype], counts: list[int], points: int, needed: int, path: str | Path
) -> list[np.ndarray]:
    """Two lengths, then the compressed bytes of all x, all y, ..."""
    if len(body) < 8:
        raise FileFormatError(path, "the lengths of the compressed points are missing; the file was cut off")
    compressed, expanded = np.frombuffer(body, "<u4", 2).tolist()
    _check_bytes(expanded, needed, path, exact=True)
    if compressed > len(body) - 8 or expanded > compressed * _LZF_MAX_RATIO:
        found = f"{compressed} bytes to be expanded to {expanded}, but {len(body) - 8} follow"
        raise FileFormatError(path, f"the compressed points promise {found}")
    raw = lzf_expand(body[8 : 8 + compressed], expanded, path)
    columns, position = [], 0
    for dtype, count in zip(dtypes, counts):
        columns.append(np.frombuffer(raw, dtype, points * count, position).reshape(points, count))
        position += columns[-1].nbytes
    return columns


def lzf_expand(data: bytes, size: int, path: str | Path) -> bytes:
    """Undo Marc Lehmann's LZF: runs of up to 32 literal bytes, and copies of up to 264 bytes from the last 8192."""
    out = bytearray()
    position, end = 0, len(data)
    try:
        while position < end and len(out) <= size:
            control = data[position]
            position += 1
            if control < 32:
                if position + control + 1 > end:
                    raise IndexError
                out += data[position : position + control + 1]
                position += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += data[position]
                position += 1
            start = len(out) - ((control & 31) << 8) - data[position] - 1
            position += 1
            if start < 0:
                raise IndexError
            length += 2
            distance = len(out) - start
            chunk = bytes(out[start : start + length])
            if distance < length:  # the copy reads what it writes: a pattern repeated
                chunk = (chunk * (length // distance + 1))[:length]
            out += chunk
    except IndexError:
        raise FileFormatError(path, f"the compressed points are broken at byte {position} of {end}") from None
    if len(out) != size or position != end:
        raise FileFormatError(path, f"the compressed points should expand to {size} bytes, they expand to {len(out)}")
    return bytes(out)


def _named(names: list[str], columns: list[np.ndarray], path: str | Path) -> Columns:
    """One column per name: histograms and padding are left out, packed colours unpacked."""
    flat: dict[str, np.ndarray] = {}
    for name, column in zip(names, columns):
        if name == "_" or column.shape[1] != 1:
            continue
        values = column[:, 0]
        if name in ("rgb", "rgba") and values.dtype.itemsize == 4:
            packed = np.ascontiguousarray(values).view("<u4")
            for channel, shift in (("red", 16), ("green", 8), ("blue", 0)):
                flat[channel] = ((packed >> shift) & 255).astype(np.float32)
        else:
            flat[{"normal_x": "nx", "normal_y": "ny", "normal_z": "nz"}.get(name, name)] = values
    absent = [name for name in "xyz" if name not in flat]
    if absent:
        raise FileFormatError(path, f"the points have no {', '.join(absent)}, only {', '.join(names)[:80]}")
    ordered = ("x", "y", "z", *(name for name in flat if name not in ("x", "y", "z")))
    kind = np.result_type(np.float32, *(column.dtype for column in flat.values()))
    dtype = np.float64 if kind.itemsize > 4 else np.float32
    return Columns(np.stack([flat[name].astype(dtype) for name in ordered], axis=1), ordered)
