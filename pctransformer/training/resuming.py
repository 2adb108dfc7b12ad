"""Going on with a run, or with a comparison of runs: it keeps the settings that it was begun with.

A command line with `--resume RUN` is read on top of the run's settings: what it says counts, be it a default or not,
and what it leaves out is as the run has it. In Python that is `replace(kept_settings(kind, RUN), workers=4)`.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pctransformer.errors import UserError
from pctransformer.training import checkpoint
from pctransformer.training.checkpoint import LAST, Checkpoint
from pctransformer.training.run_folder import SETTINGS, RunFolder
from pctransformer.training.serialization import Settings, differences, from_json
from pctransformer.training.settings import Training


def last_checkpoint(folder: RunFolder) -> Checkpoint | None:
    """What a run goes on from; None if it was stopped before its first checkpoint, and begins again."""
    path = folder.checkpoints / LAST
    return checkpoint.read(path) if path.is_file() else None


def kept_settings(kind: type[Settings], path: Path) -> Settings:
    """The settings that a run was begun with, and the run as what they go on with.

    Args:
        kind: their dataclass, which has a field `resume`.
        path: the run's folder, or a comparison's.

    Raises:
        UserError: it is none, or another command has begun it, or a version with other settings.
    """
    folder = RunFolder.open(path, writes=False)
    begun = last_checkpoint(folder)
    if begun is not None and not (issubclass(kind, Training) and begun.about["task"] == kind.task):
        raise UserError(
            f"{path} was begun by another command; `pctransformer train {begun.about['task']} --resume {path}` goes on"
            " with it"
        )
    try:
        return from_json(kind, {**folder.read_json(SETTINGS), "resume": str(path)})
    except (ValueError, TypeError) as error:
        raise UserError(f"{path / SETTINGS} is of another command, or of another version: {error}") from None


def refuse_changes(given: Any, *, free: Collection[str], reason: str) -> None:
    """Refuse to go on with settings that are not the run's.

    Args:
        given: with the run in `resume`.
        free: names of settings that may be others.
        reason: why the rest may not, and what to do instead: how the message ends.

    Raises:
        UserError: one differs; or see `kept_settings`.
    """
    kept = kept_settings(type(given), given.resume)
    for name, (ours, theirs) in differences(given, kept).items():
        if name not in free:
            raise UserError(
                f"--{name.replace('_', '-')} {ours} was given, but {given.resume} was begun with {theirs}{reason}"
            )
