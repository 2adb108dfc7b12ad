"""What every `pctransformer train ...` does around its task: the run folder, settings that a run keeps, the end.

A task gives a `Plan`; `training/classification.py` is the pattern.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from torch import nn

import pctransformer
from pctransformer.datasets import CloudDataset
from pctransformer.errors import UserError
from pctransformer.training import checkpoint
from pctransformer.training.checkpoint import BEST, Checkpoint
from pctransformer.training.distributed import World, join_world
from pctransformer.training.engine import Task, Trainer
from pctransformer.training.limits import check_numbers
from pctransformer.training.model import check_task
from pctransformer.training.optimizers import computes_in_bf16
from pctransformer.training.progress import Display, duration
from pctransformer.training.repeatability import keep_freed_memory, repeatable_kernels
from pctransformer.training.resuming import last_checkpoint, refuse_changes
from pctransformer.training.run_folder import RESULTS, SETTINGS, RunFolder, environment, numbered, same_run
from pctransformer.training.scans import ScanPart
from pctransformer.training.serialization import to_json
from pctransformer.training.settings import DataSettings, Training

TrainingSettings = TypeVar("TrainingSettings", bound=Training)


@dataclasses.dataclass(frozen=True)
class Plan:
    """One training, as its task sees it.

    Attributes:
        task: for the engine.
        data: what it is trained on, in words.
        finish: called in the process that leads when all epochs are done, with the checkpoint of the chosen one: draws
            figures, prints how good it is, and gives what results.json is to have besides what all have.
        use: the command that uses what was trained.
        weights: those that it starts from, in words; "" where nobody says.
    """

    task: Task
    data: str
    finish: Callable[[Checkpoint, Display], Mapping[str, Any]]
    use: str
    weights: str = ""


MakePlan: TypeAlias = Callable[[TrainingSettings, Path | None, RunFolder, World], Plan]
"""Reads data and makes the model from settings, and weights to start from. Torch's generators are seeded before."""


def train(settings: TrainingSettings, plan: MakePlan[TrainingSettings]) -> RunFolder:
    """Train in a new run folder, or go on in one that has begun, and write it all down.

    Args:
        settings: of a new run, or those that one which goes on was begun with, see `training/resuming.py`; only where
            it runs, and how often it is saved, may have changed.
        plan: of the task.

    Returns:
        the run folder.

    Raises:
        UserError: data, weights or folders that are not as they should be, or a loss that is no number.
    """
    if settings.keep_memory:
        keep_freed_memory()
    with join_world(settings.device) as world, repeatable_kernels(world.device), termination_as_interruption():
        settings, folder = _folder(settings, world)
        display = Display(folder, quiet=not world.leads)
        if settings.resume is not None and (folder.path / RESULTS).is_file():
            display.console.print(f"{folder.path} is done; `pctransformer info {folder.path}` says what it gave")
            return folder
        try:
            _train(settings, plan, folder, world, display)
        except KeyboardInterrupt:
            display.say(f"interrupted; `pctransformer train {settings.task} --resume {folder.path}` goes on")
            raise
        return folder


def describe_run(
    settings: Training,
    train: CloudDataset | ScanPart,
    held_out: CloudDataset | ScanPart,
    *,
    num_classes: int | None,
    **options: Any,
) -> dict[str, Any]:
    """What a task's checkpoints say about themselves, see `training/checkpoint.py`; tasks with classes add their names.

    Args:
        settings: of the run.
        train, held_out: both parts of the data; how many samples, and a digest of what is known of them without their
            points, tell whether it has changed.
        num_classes, options: of the model, besides the options that settings give it.
    """
    digest = hashlib.sha256()
    for part in (train, held_out):
        for facts in part.facts():
            digest.update(json.dumps(facts).encode())
    return {
        "task": settings.task,
        "model": {
            "name": settings.model,
            "options": {**options, **settings.model_options},
            "num_classes": num_classes,
        },
        "settings": to_json(settings),
        "data": {"train": len(train), "held_out": len(held_out), "sha256": digest.hexdigest()},
        "version": pctransformer.__version__,
    }


def describe_data(settings: DataSettings, train: CloudDataset, held_out: CloudDataset) -> str:
    """What a model is trained on, in words, where shapes have classes."""
    share = settings.label_fraction
    return (
        f"{settings.data}: {len(train)} shapes of {len(train.class_names)} classes, {len(held_out)} more held out"
        f"{'' if share == 1 else f', the {100 * share:.4g} % that are labelled'}"
    )


# ---- before ----------------------------------------------------------------------------------------------------------
def _folder(settings: TrainingSettings, world: World) -> tuple[TrainingSettings, RunFolder]:
    """The run folder, and the settings that hold in it."""
    optimization = settings.optimization
    if optimization.precision == "auto":
        bf16 = computes_in_bf16(world.device)
        optimization = dataclasses.replace(optimization, precision="bf16" if bf16 else "float32")
    settings = dataclasses.replace(settings, optimization=optimization)
    if settings.resume is not None:
        refuse_changes(
            settings,
            free=("device", "workers", "save_steps", "keep_memory"),
            reason=", and a run keeps its settings. Leave it out to go on, or begin a new run",
        )
        return settings, RunFolder.open(settings.resume, writes=world.leads)
    data = "-".join(Path(source).stem for source in settings.sources)
    folder = RunFolder(settings.out or numbered(Path("runs") / f"{settings.model}-{data}"), writes=world.leads)
    folder.check_free()
    return settings, folder


@contextmanager
def termination_as_interruption() -> Iterator[None]:
    """Treat SIGTERM, which schedulers send before they kill, as Ctrl-C."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: signals are somebody else's business
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- the training ----------------------------------------------------------------------------------------------------
def _train(
    settings: TrainingSettings,
    plan: MakePlan[TrainingSettings],
    folder: RunFolder,
    world: World,
    display: Display,
) -> None:
    begun = time.perf_counter()
    check_numbers(settings)
    check_task(settings.model, settings.model_task)  # before data, which may take long to make
    resumed = last_checkpoint(folder) if settings.resume else None
    around = environment(world.device, world.size)
    torch.manual_seed(settings.seed)
    # weights to start from may be gone when a run goes on; its checkpoint has all
    planned = plan(settings, settings.pretrained if resumed is None else None, folder, world)
    if resumed is not None:
        _check_same_data(resumed, planned.task.about)
    trainer = Trainer(
        planned.task, settings.optimization, folder, world,
        seed=settings.seed, workers=settings.workers, save_steps=settings.save_steps, resume=resumed, display=display,
    )  # fmt: skip
    if settings.resume is None:  # not before: faults of the user should leave no folder behind
        world.wait()
        folder.create()
    _say_what_is_trained(display, settings, planned, around, world)
    if settings.resume is None:
        folder.write_json(SETTINGS, to_json(settings))
        folder.write_json("environment.json", around)
    else:
        for change in same_run(folder.read_json("environment.json"), around):
            display.say(f"note: {change}; the numbers may differ from an unbroken run's")
        display.say(f"resumed after epoch {trainer.progress.epoch}")
    trainer.fit()
    world.wait()
    if world.leads:
        _finish(planned, folder, display, around, begun)
    world.wait()


def _check_same_data(resumed: Checkpoint, about: Mapping[str, Any]) -> None:
    for key in ("class_names", "part_names", "data"):
        if resumed.about.get(key) != about.get(key):
            raise UserError(
                f"the data has changed since the run began: it was {resumed.about.get(key)}, now it is"
                f" {about.get(key)}. A run goes on with the data it began with; begin a new run with --pretrained"
                f" {resumed.path.parent / BEST}"
            )


def _say_what_is_trained(
    display: Display, settings: Training, planned: Plan, around: Mapping[str, Any], world: World
) -> None:
    """What the run is, before it begins."""
    where = around["gpu"] or f"{around['processor']}, {around['threads']} threads"
    processes = f", {world.size} processes" if world.size > 1 else ""
    options = "".join(f" {name}={value}" for name, value in settings.model_options.items())
    display.say(
        f"pctransformer {pctransformer.__version__}, torch {around['torch']}, {where}{processes},"
        f" {settings.optimization.precision}\n"
        f"model:  {settings.model}{options}, {_parameters(planned.task.model)}\n"
        + (f"start:  {planned.weights}\n" if planned.weights else "")
        + f"data:   {planned.data}\n"
        f"folder: {display.folder.path}"
    )


def _parameters(model: nn.Module) -> str:
    everything = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return f"{everything:,} parameters" + (f", {trained:,} of them trained" if trained < everything else "")


# ---- after -----------------------------------------------------------------------------------------------------------
def _finish(planned: Plan, folder: RunFolder, display: Display, around: Mapping[str, Any], begun: float) -> None:
    """Let the task show how good the chosen epoch is, and write results."""
    best = checkpoint.read(folder.checkpoints / BEST)
    found = planned.finish(best, display)
    metrics = best.about["metrics"]
    folder.write_json(  # last: it says that the run is done
        RESULTS,
        {
            "task": best.about["task"],
            "epoch": best.about["epoch"],
            "validation": {k.removeprefix("validation_"): v for k, v in metrics.items() if k.startswith("validation_")},
            **found,
            "seconds": round(sum(row["seconds"] for row in folder.metrics()), 1),
            "environment": dict(around),
        },
    )
    display.say(
        f"figures:    {folder.path / 'figures'}\ncheckpoint: {best.path}\nuse it:     {planned.use}"
        f"\n{duration(time.perf_counter() - begun)} in all"
    )
