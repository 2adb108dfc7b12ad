"""The folder of a run, which explains itself and is never overwritten.

settings.json      every option, as the run resolved it
environment.json   command, versions, processor or GPU, commit
log.txt            what was printed
metrics.jsonl      one line per epoch; metrics.csv is the same as a table
checkpoints/       best.safetensors (chosen on the held-out part) and last.safetensors (to resume from)
results.json       the test, and figures/ to look at, once the training is done
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import pctransformer
from pctransformer.atomic import replace_file
from pctransformer.errors import UserError

SETTINGS, RESULTS = "settings.json", "results.json"


class RunFolder:
    """One run's folder. Processes that do not lead write nothing: their `writes` is False."""

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path, self.writes = path, writes

    def check_free(self) -> None:
        """Raise a UserError if there is something at this place already."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            is_run = (self.path / SETTINGS).is_file()
            hint = f"--resume {self.path} goes on with it, or g" if is_run else "g"
            raise UserError(f"{self.path} exists already and is not overwritten; {hint}ive another folder with --out")

    def create(self) -> None:
        """Make it.

        Raises:
            UserError: there is something already, or it cannot be made.
        """
        if not self.writes:
            return
        self.check_free()
        try:
            for folder in (self.path, self.path / "checkpoints", self.path / "figures"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path} cannot be made ({error.strerror}); give another folder with --out") from None

    @classmethod
    def open(cls, path: Path, writes: bool = True) -> RunFolder:
        """The folder of a run that has begun.

        Raises:
            UserError: it is none.
        """
        if not (path / SETTINGS).is_file():
            what = "holds no run (settings.json is missing)" if path.exists() else "does not exist"
            raise UserError(f"{path} {what}; --resume wants the folder of a run")
        return cls(path, writes)

    # ---- writing -----------------------------------------------------------------------------------------------------
    def write_json(self, name: str, values: Any) -> None:
        """`name` in the folder, as a whole or not at all."""
        if self.writes:
            replace_file(self.path / name, (json.dumps(values, indent=1) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """`name` in the folder.

        Raises:
            UserError: it cannot be read.
        """
        try:
            return json.loads((self.path / name).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path / name} cannot be read: {error}") from None

    def log(self, text: str) -> None:
        """Add lines to log.txt."""
        if self.writes:
            with open(self.path / "log.txt", "a", encoding="utf-8") as file:
                file.write(text.rstrip("\n") + "\n")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    # ---- metrics -----------------------------------------------------------------------------------------------------
    def metrics(self) -> list[dict[str, Any]]:
        """One row per epoch so far."""
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """All rows, as JSON lines and as a table: a few hundred small rows, so both are written anew."""
        if not self.writes:
            return
        replace_file(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
        table = io.StringIO()
        columns = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        replace_file(self.path / "metrics.csv", table.getvalue().encode())


def numbered(path: Path) -> Path:
    """The path, or with the first number that is free: runs/pct, runs/pct-2, ..."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def environment(device: torch.device, processes: int) -> dict[str, Any]:
    """What a run depends on besides its settings."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "command": " ".join(sys.argv),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "pctransformer": pctransformer.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpu": gpu,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "system": platform.platform(),
    }


def same_run(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has changed since a run began that may change its numbers."""
    names = ("pctransformer", "commit", "torch", "gpu", "processor", "threads", "processes")
    return [f"{name} was {kept.get(name)}, is {now[name]}" for name in names if kept.get(name) != now[name]]


def _commit() -> str | None:
    """The commit of the source tree that runs, marked where files have changed; None for an installed package."""
    folder = Path(pctransformer.__file__).parents[1]
    if not (folder / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
