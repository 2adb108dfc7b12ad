"""Files of boxes that need no camera: text with one box a line, and JSON; labels, or detections with scores.

    # class x y z dx dy dz heading [score]         [{"class": "Car", "box": [12.1, -3.0, -0.9, 4.2, 1.8, 1.6, 0.1]},
    Car 12.1 -3.0 -0.9 4.2 1.8 1.6 0.1              {"class": "Car", "box": [...], "score": 0.93}]

A box is x, y, z of its geometric centre, dx, dy, dz along its own axes in metres, and heading, radians
counter-clockwise from +x; x forward, y left, z up (see `pctransformer.boxes`). What follows # is a comment. The layout
of OpenPCDet for one's own data, whose lines end with the class, "12.1 -3.0 -0.9 4.2 1.8 1.6 0.1 Car", is read, too: a
line that begins with a number is one of these.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from pctransformer.atomic import replace_file
from pctransformer.datasets.formats.common import FileFormatError
from pctransformer.errors import did_you_mean

IGNORED = "DontCare"
"""The class of boxes that are neither to be found nor wrong to find."""
BOX_SUFFIXES = (".txt", ".json")
_NUMBERS = ("x", "y", "z", "dx", "dy", "dz", "heading", "score")
_MAX_NUMBER = 1e6  # metres, or radians: larger ones are bytes that were misread, and float32 would not hold them


@dataclasses.dataclass(frozen=True, eq=False)
class NamedBoxes:
    """The m boxes of one scan.

    Attributes:
        types: (m,) str, the class of each.
        boxes: (m, 7) float32.
        scores: (m,) float32 of detections, None for labels.
    """

    types: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.types)
        if self.boxes.shape != (count, 7) or (self.scores is not None and self.scores.shape != (count,)):
            scores = None if self.scores is None else self.scores.shape
            raise ValueError(f"{count} types need boxes ({count}, 7) and scores ({count},), got {self.boxes.shape} and"
                             f" {scores}")  # fmt: skip

    def __len__(self) -> int:
        return len(self.types)


def read_boxes(path: str | Path, *, class_names: Collection[str] | None = None) -> NamedBoxes:
    """Read a .txt or a .json, see this module; a file without boxes is a scan without objects.

    Args:
        path: the file.
        class_names: that boxes may have, beside DontCare. None: any.

    Raises:
        FileFormatError: naming the line, or the place in the list, and what is wrong there: another number of columns,
            something that is no number or not finite, a negative size, an unknown class, scores of some boxes only.
    """
    path = Path(path)
    if path.suffix.lower() not in BOX_SUFFIXES:
        raise FileFormatError(path, f"boxes are read from {' and '.join(BOX_SUFFIXES)} files")
    if not path.is_file():
        raise FileFormatError(path, "there is no such file; it should hold the boxes of a scan, and may be empty")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileFormatError(path, f"this should be text, but byte {error.start} is none of UTF-8") from None
    rows = _from_json(text, path) if path.suffix.lower() == ".json" else _from_text(text, path)
    types, numbers = [], []
    scored = bool(rows) and len(rows[0][2]) == 8
    for place, name, values in rows:
        problem = _problem(name, values, class_names)
        if problem is None and (len(values) == 8) != scored:
            problem = "has a score, others have none" if not scored else "has no score, others have one"
        if problem is not None:
            raise FileFormatError(path, f"{place} {problem}")
        types.append(name)
        numbers.append(values)
    table = np.array(numbers, np.float32).reshape(len(rows), 8 if scored else 7)
    return NamedBoxes(np.array(types, np.str_), table[:, :7], table[:, 7] if scored else None)


def _problem(name: str, values: list[float], class_names: Collection[str] | None) -> str | None:
    """What is wrong with a box, if anything."""
    for column, value in zip(_NUMBERS, values):
        if not math.isfinite(value) or abs(value) > _MAX_NUMBER:
            return f"has {column} = {value:g}; it should be a finite number in metres or radians"
    for column, value in zip(_NUMBERS[3:6], values[3:6]):
        if value < 0:
            return f"has a negative size, {column} = {value:g}; sizes are along the box's own axes"
    if class_names is not None and name != IGNORED and name not in class_names:
        return f"is of the class {name!r}, which is not known; {did_you_mean(name, class_names)}"
    return None


_Row = tuple[str, str, list[float]]  # where it stands, its class, 7 or 8 numbers


def _from_text(text: str, path: Path) -> list[_Row]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        place = f"line {number}"
        if _as_number(words[0]) is not None:  # the class comes last, or last but the score
            at = 7
            wanted = "x y z dx dy dz heading class, and maybe a score"
        else:
            at, wanted = 0, "class x y z dx dy dz heading, and maybe a score"
        if len(words) not in (8, 9):
            raise FileFormatError(path, f"{place} has {len(words)} columns, not 8 or 9: {wanted}")
        values = []
        for word in words[:at] + words[at + 1 :]:
            value = _as_number(word)
            if value is None:
                raise FileFormatError(path, f"{place} has {word[:40]!r} where a number should be: {wanted}")
            values.append(value)
        rows.append((place, words[at], values))
    return rows


def _as_number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _from_json(text: str, path: Path) -> list[_Row]:
    if not text.strip():
        return []
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(path, f"this is not JSON: {str(error)[:200]}") from None
    if not isinstance(content, list):
        raise FileFormatError(path, f"there should be a list of boxes, found {str(content)[:40]!r}")
    rows = []
    for i, entry in enumerate(content):
        place = f"entry {i}"
        name, box = (entry.get("class"), entry.get("box")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(box, list) or len(box) != 7:
            raise FileFormatError(
                path, f'{place} should be {{"class": "Car", "box": [7 numbers]}}, found {str(entry)[:80]!r}'
            )
        numbers = [*box, entry["score"]] if entry.get("score") is not None else box
        if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in numbers):
            raise FileFormatError(path, f"{place} has something that is no number in {str(numbers)[:80]}")
        try:
            rows.append((place, name, [float(value) for value in numbers]))
        except OverflowError:
            raise FileFormatError(path, f"{place} has a number that is far too large") from None
    return rows


# ---- writing ---------------------------------------------------------------------------------------------------------
def write_boxes(path: str | Path, boxes: NamedBoxes) -> None:
    """Write a .txt or a .json, as `read_boxes` reads them; lengths and angles with four decimals, scores with six.

    The file appears as a whole or not at all.

    Raises:
        ValueError: the name of a class is not one word that a line of text can begin with, or the file has another
            ending.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        lines = [json.dumps(row) for row in as_records(boxes)]
        text = "[" + ",\n ".join(lines) + "]\n"
    elif path.suffix.lower() == ".txt":
        text = "".join(f"{line}\n" for line in _lines(boxes))
    else:
        raise ValueError(f"boxes are written to {' and '.join(BOX_SUFFIXES)} files, not to {path}")
    replace_file(path, text.encode())


def as_records(boxes: NamedBoxes) -> list[dict[str, Any]]:
    """The boxes as plain values for JSON: class, box, and score where there are scores."""
    scores = [None] * len(boxes) if boxes.scores is None else boxes.scores.tolist()
    return [
        {"class": str(name), "box": [round(value, 4) for value in box]}
        | ({} if score is None else {"score": round(score, 6)})
        for name, box, score in zip(boxes.types, boxes.boxes.tolist(), scores)
    ]


def _lines(boxes: NamedBoxes) -> list[str]:
    lines = ["# class x y z dx dy dz heading" + ("" if boxes.scores is None else " score")]
    for row in as_records(boxes):
        name = row["class"]
        if len(name.split()) != 1 or "#" in name or name != name.strip() or _as_number(name) is not None:
            raise ValueError(f"the class {name!r} cannot stand in a line of text; write a .json, or call it one word")
        line = f"{name} {' '.join(f'{value:.4f}' for value in row['box'])}"
        lines.append(line if "score" not in row else f"{line} {row['score']:.6f}")
    return lines
