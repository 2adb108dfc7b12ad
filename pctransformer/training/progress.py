"""What a training prints: a bar where somebody watches, one plain line per epoch anyway, all of it in log.txt."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pctransformer.training.run_folder import RunFolder

_SHOWN = {  # column of metrics.jsonl: how a line per epoch shows it
    "train_loss": "loss {:#.3g}",
    "train_accuracy": "accuracy {:.3f}",
    "validation_loss": "| held out: loss {:#.3g}",
    "validation_oa": "OA {:.3f}",
    "validation_macc": "mAcc {:.3f}",
    "validation_instance_miou": "instance mIoU {:.3f}",
    "validation_class_miou": "class mIoU {:.3f}",
    "validation_miou": "mIoU {:.3f}",
    "validation_ap_bev": "AP from above {:.1f}",
    "validation_ap_3d": "3-D {:.1f}",
    "lr": "| lr {:.1e}",
    "shapes_per_second": "{:.0f} samples/s",
}


class Display:
    """Prints for one training and keeps its log."""

    def __init__(self, folder: RunFolder, quiet: bool = False) -> None:
        self.folder, self.quiet = folder, quiet
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self.bar: Progress | None = None

    def say(self, text: str) -> None:
        """Print lines and keep them."""
        self.console.print(text, markup=False)
        self.folder.log(text)

    @contextlib.contextmanager
    def showing(self, epochs: int, steps: int) -> Iterator[None]:
        """While this lasts a bar shows the steps of the epoch, if the output is a terminal."""
        self.epochs, self.steps = epochs, steps
        self.begun, self.finished = time.perf_counter(), 0
        if not self.console.is_terminal:
            yield
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        with Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True) as self.bar:
            self.bar.add_task("", total=steps)
            yield
        self.bar = None

    def step_done(self, reported: Mapping[str, float]) -> None:
        if self.bar is not None:
            self.bar.update(TaskID(0), advance=1, description=f"loss {reported['loss']:#.3g}")

    def epoch_done(self, row: Mapping[str, Any], is_best: bool) -> None:
        self.finished += 1
        left = (time.perf_counter() - self.begun) / self.finished * (self.epochs - row["epoch"])
        parts = [text.format(row[name]) for name, text in _SHOWN.items() if name in row]
        width = len(str(self.epochs))
        time_left = f"| {duration(left)} left" if row["epoch"] < self.epochs else ""
        mark = " *" if is_best else ""
        self.say(f"epoch {row['epoch']:{width}}/{self.epochs}  {'  '.join(parts)}  {time_left}{mark}".rstrip())
        if self.bar is not None:
            self.bar.reset(TaskID(0), total=self.steps)


def duration(seconds: float) -> str:
    """75 s, 12 min, 3.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
