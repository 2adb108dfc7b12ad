"""Many trainings, each in a process of its own, some at the same time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from pctransformer.training.run_folder import RESULTS, SETTINGS
from pctransformer.training.serialization import to_arguments
from pctransformer.training.settings import Training


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        settings: of the training.
        fault: None if it is done, otherwise the last line that it printed.
    """

    settings: Training
    fault: str | None


def is_done(settings: Training) -> bool:
    """Whether the training's run folder has results."""
    assert settings.out is not None
    return (settings.out / RESULTS).is_file()


def train_many(trainings: Sequence[Training], jobs: int, ended: Callable[[Outcome], None]) -> None:
    """Run those trainings that are not done, in their order; those that have begun go on where they stopped.

    Each is `pctransformer train ...`, so that none shares memory, threads or random numbers with another. They share
    the cores evenly, unless OMP_NUM_THREADS says otherwise. When this function is interrupted it stops them all.

    Args:
        trainings: with run folders, all different.
        jobs: how many run at the same time.
        ended: called when one has come to its end.

    Raises:
        KeyboardInterrupt: one of them was interrupted.
    """
    waiting = [settings for settings in trainings if not is_done(settings)]
    running: list[_Process] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_Process(waiting.pop(0), jobs))
            time.sleep(0.05)
            for process in [process for process in running if process.has_ended()]:
                running.remove(process)
                ended(process.outcome())
    finally:
        for process in running:
            process.stop()


class _Process:
    def __init__(self, settings: Training, jobs: int) -> None:
        self.settings = settings
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        environment = {"OMP_NUM_THREADS": str(max(cores // jobs, 1)), **os.environ}
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the process
        self.process = subprocess.Popen(
            _command(settings), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.errors, env=environment
        )

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def outcome(self) -> Outcome:
        code = self.process.returncode
        with self.errors:
            self.errors.seek(0)
            lines = self.errors.read().decode(errors="replace").strip().splitlines()
        if code in (130, -signal.SIGINT, -signal.SIGTERM):
            raise KeyboardInterrupt
        fault = lines[-1].removeprefix("pctransformer: ") if lines else f"exit code {code}"
        return Outcome(self.settings, fault if code else None)

    def stop(self) -> None:
        """As Ctrl-C does; what it has saved stays."""
        self.process.terminate()
        self.process.wait()
        self.errors.close()


def _command(settings: Training) -> list[str]:
    """The command line that begins a training or goes on with it."""
    assert settings.out is not None
    words = [sys.executable, "-m", "pctransformer", "train", settings.task]
    if (settings.out / SETTINGS).is_file():
        where = ["--device", settings.device, "--workers", str(settings.workers)]
        return [*words, "--resume", str(settings.out), *where]
    if settings.out.exists():  # stopped before it had written its settings
        shutil.rmtree(settings.out)
    return [*words, *to_arguments(settings)]
