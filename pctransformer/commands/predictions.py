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


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """predictions.json."""
    with writing(folder):
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def tell_failed(failed: Sequence[dict[str, str]], count: int) -> None:
    """Say which of so many files could not be used, and why."""
    if failed and count > 1:
        print(f"pctransformer: {len(failed)} of {count} files could not be used:", file=sys.stderr)
    for fault in failed:
        print(f"pctransformer: {fault['reason']}", file=sys.stderr)
