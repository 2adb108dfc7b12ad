"""What every kind of `predict` does with what was found: names of files, the record, and what could not be used."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pctransformer.errors import UserError

RECORD = "predictions.json"

Read = TypeVar("Read")


def each_file(files: Sequence[Path], use: Callable[[Path], Read], failed: list[dict[str, str]]) -> Iterator[Read]:
    """What comes of each file that can be used; what is wrong with the others is added to `failed`."""
    for file in files:
        try:
            read = use(file)
        except (UserError, ValueError, OSError) as error:
            reason = str(error) if str(file) in str(error) else f"{file}: {error}"
            failed.append({"file": str(file), "reason": reason.replace("not_finite='drop'", "--not-finite drop")})
        else:
            yield read


class Stems:
    """What the files of each prediction are called: as its own file, with a number where several share that name."""

    def __init__(self) -> None:
        self.given: set[str] = set()

    def __call__(self, file: str) -> str:
        stem = name = Path(file).stem
        number = 1
        while name in self.given:
            number += 1
            name = f"{stem}-{number}"
        self.given.add(name)
        return name


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Make a folder and write into it; a UserError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); give another folder with --out") from None


def conclude(
    record: dict[str, Any], folder: Path, num_files: int, *, as_json: bool, table: Callable[[], None], written: str
) -> int:
    """Write predictions.json, print it or the table, say what failed and what is in the folder.

    Args:
        record: "predictions" and "failed", and what all of them share.
        folder: for predictions.json.
        num_files: files that were asked for.
        as_json: whether to print the record instead of the table.
        table: prints what was predicted.
        written: files in the folder, in words.

    Returns:
        the exit code: 1 where a file could not be used.

    Raises:
        UserError: the folder cannot be written.
    """
    predictions, failed = record["predictions"], record["failed"]
    if predictions:
        with writing(folder):
            (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    if as_json:
        print(json.dumps(record, indent=2), flush=True)
    elif predictions:
        table()
    if failed and num_files > 1:
        print(f"pctransformer: {len(failed)} of {num_files} files could not be used:", file=sys.stderr)
    for fault in failed:
        print(f"pctransformer: {fault['reason']}", file=sys.stderr)
    if predictions:
        print(f"{written}: {folder}", file=sys.stderr if as_json else sys.stdout)
    return 1 if failed else 0
