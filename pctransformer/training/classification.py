"""`pctransformer train classification`: from shapes to a trained classifier, its test score and its figures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pctransformer
from pctransformer.datasets import CloudDataset, collate
from pctransformer.errors import UserError
from pctransformer.evaluation.classification import Evaluation, evaluate_classifier
from pctransformer.training import checkpoint, data
from pctransformer.training.checkpoint import BEST, LAST, Checkpoint
from pctransformer.training.distributed import World, join_world
from pctransformer.training.engine import Batch, Task, Trainer
from pctransformer.training.model import make_model
from pctransformer.training.optimizers import computes_in_bf16
from pctransformer.training.progress import Display, duration
from pctransformer.training.repeatability import keep_freed_memory, repeatable_kernels
from pctransformer.training.report import autocast_type, draw_evaluation, draw_training
from pctransformer.training.run_folder import RESULTS, SETTINGS, RunFolder, environment, numbered, same_run
from pctransformer.training.settings import (
    ClassificationTraining,
    OptimizationSettings,
    differences,
    from_json,
    to_json,
)


def run(settings: ClassificationTraining) -> int:
    """The command; 0 when the training is done."""
    train(settings)
    return 0


def train(settings: ClassificationTraining) -> RunFolder:
    """Train, choose the epoch on the held-out part, test, and write it all down.

    Returns:
        the run folder.

    Raises:
        UserError: data, weights or folders that are not as they should be, or a loss that is no number.
    """
    if settings.keep_memory:
        keep_freed_memory()
    with join_world(settings.device) as world, repeatable_kernels(world.device), _termination():
        settings, folder, begun = _folder(settings, world)
        display = Display(folder, quiet=not world.leads)
        if begun and (folder.path / RESULTS).is_file():
            display.console.print(f"{folder.path} is done; `pctransformer evaluate {folder.path}` looks at it again")
            return folder
        try:
            _train(settings, folder, world, display)
        except KeyboardInterrupt:
            display.say(f"interrupted; `{_resume_command(folder)}` goes on")
            raise
        return folder


# ---- before ----------------------------------------------------------------------------------------------------------
def _folder(settings: ClassificationTraining, world: World) -> tuple[ClassificationTraining, RunFolder, bool]:
    """The run folder with the settings that hold in it, and whether they were there already."""
    if settings.resume is not None:
        folder = RunFolder.open(settings.resume, writes=world.leads)
        return _kept(settings, folder), folder, True
    optimization = settings.optimization
    if optimization.precision == "auto":
        bf16 = computes_in_bf16(world.device)
        optimization = dataclasses.replace(optimization, precision="bf16" if bf16 else "float32")
    settings = dataclasses.replace(settings, optimization=optimization)
    path = settings.out or numbered(Path("runs") / f"{settings.model}-{Path(settings.data.data).stem}")
    folder = RunFolder(path, writes=world.leads)
    folder.check_free()
    return settings, folder, False


def _kept(given: ClassificationTraining, folder: RunFolder) -> ClassificationTraining:
    """The settings of a run that goes on: its own. Where it runs may change, what it computes may not."""
    try:
        kept = from_json(ClassificationTraining, folder.read_json(SETTINGS))
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder.path / SETTINGS} is not of this version: {error}") from None
    changed = differences(given, kept)
    for name in ("resume", "device", "workers", "save_steps", "keep_memory"):
        changed.pop(name, None)
    if changed:
        name, (ours, theirs) = next(iter(changed.items()))
        raise UserError(
            f"--{name.replace('_', '-')} {ours} was given, but {folder.path} was begun with {theirs}, and a run"
            " keeps its settings. Leave it out to go on, or begin a new run"
        )
    where = {name: getattr(given, name) for name in ("device", "workers", "save_steps", "keep_memory")}
    return dataclasses.replace(kept, **where, resume=folder.path)


@contextmanager
def _termination() -> Iterator[None]:
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
def _train(settings: ClassificationTraining, folder: RunFolder, world: World, display: Display) -> None:
    begun = time.perf_counter()
    resumed = _last_checkpoint(folder) if settings.resume else None
    around = environment(world.device, world.size)
    sets = _read(settings, "train")
    torch.manual_seed(settings.seed)
    class_names = sets.train.class_names
    model = make_model(
        settings.model, settings.model_options,
        in_channels=6 if settings.data.normals else 3, num_classes=len(class_names),
        pretrained=settings.pretrained if resumed is None else None,  # it may be gone; the checkpoint has all
    )  # fmt: skip
    about = {
        "task": "classification",
        "model": {
            "name": settings.model,
            "options": {"in_channels": model.in_channels, **settings.model_options},
            "num_classes": len(class_names),
        },
        "class_names": list(class_names),
        "settings": to_json(settings),
        "data": _facts(sets),
        "version": pctransformer.__version__,
    }
    if resumed is not None:
        _check_same_data(resumed, about)
    task = Task(
        model=model,
        samples=sets.train,
        collate=collate,
        loss=_Loss(settings.optimization.label_smoothing),
        validate=_Validation(sets.held_out, settings.optimization, world),
        prefer=lambda found: (found["oa"], -found["loss"]),
        about=about,
    )
    trainer = Trainer(
        task, settings.optimization, folder, world,
        seed=settings.seed, workers=settings.workers, save_steps=settings.save_steps, resume=resumed, display=display,
    )  # fmt: skip
    if settings.resume is None:  # not before: faults of the user should leave no folder behind
        world.wait()
        folder.create()
    _say_what_is_trained(display, settings, around, sets, model, world)
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
        _finish(settings, folder, world, display, around, time.perf_counter() - begun)
    world.wait()


def _read(settings: ClassificationTraining, split: str) -> Any:
    """Both parts of the training set, or the test set."""
    try:
        if split == "train":
            return data.training_data(settings.data, settings.seed)
        return data.testing_data(settings.data)
    except FileNotFoundError as error:
        raise UserError(str(error)) from None


def _last_checkpoint(folder: RunFolder) -> Checkpoint | None:
    path = folder.checkpoints / LAST
    return checkpoint.read(path) if path.is_file() else None  # stopped before its first checkpoint: begin again


def _facts(sets: data.TrainingData) -> dict[str, Any]:
    """By what to know the data again: how many shapes, and a digest of their names, classes and sizes, in order."""
    digest = hashlib.sha256()
    for part in (sets.train, sets.held_out):
        for sample in (part.samples[i] for i in range(len(part))):
            digest.update(json.dumps([sample.name, sample.label, len(sample)]).encode())
    return {"train": len(sets.train), "held_out": len(sets.held_out), "sha256": digest.hexdigest()}


def _check_same_data(resumed: Checkpoint, about: Mapping[str, Any]) -> None:
    for key in ("class_names", "data"):
        if resumed.about[key] != about[key]:
            raise UserError(
                f"the data has changed since the run began: it was {resumed.about[key]}, now it is"
                f" {about[key]}. A run goes on with the data it began with; begin a new run with --pretrained"
                f" {resumed.path.parent / BEST}"
            )


class _Loss:
    """Cross-entropy with label smoothing, and the accuracy."""

    def __init__(self, label_smoothing: float) -> None:
        self.label_smoothing = label_smoothing

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        points, labels = batch
        logits = model(points).float()
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing), "accuracy": accuracy}


class _Validation:
    """The held-out part, shared among the processes."""

    def __init__(self, held_out: CloudDataset, settings: OptimizationSettings, world: World) -> None:
        self.share = held_out.subset(range(world.rank, len(held_out), world.size))
        self.settings, self.world = settings, world

    def __call__(self, model: nn.Module) -> dict[str, float]:
        found = _evaluate(model, self.share, self.settings, self.world.device)
        sums = torch.tensor([found.loss * len(found.labels), len(found.labels)], dtype=torch.float64)
        loss, count = self.world.total(sums).tolist()
        score = dataclasses.replace(found.score, confusion=self.world.total(found.score.confusion).cpu())
        return {"loss": loss / count, "oa": score.overall_accuracy, "macc": score.mean_class_accuracy}


def _evaluate(
    model: nn.Module, samples: CloudDataset, settings: OptimizationSettings, device: torch.device
) -> Evaluation:
    dtype = autocast_type(settings.precision)
    return evaluate_classifier(model, samples, batch_size=settings.batch_size, device=device, dtype=dtype)


# ---- after -----------------------------------------------------------------------------------------------------------
def _finish(
    settings: ClassificationTraining,
    folder: RunFolder,
    world: World,
    display: Display,
    around: Mapping[str, Any],
    seconds: float,
) -> None:
    """Test the epoch that was chosen, once, and write results and figures."""
    best = checkpoint.read(folder.checkpoints / BEST)
    model = best.build_model().to(world.device)
    samples = _read(settings, "test")
    tested = _evaluate(model, samples, settings.optimization, world.device)
    rows = folder.metrics()
    draw_training(rows, best.about["epoch"], folder.path / "figures")
    draw_evaluation(tested, samples, folder.path / "figures")
    folder.write_json(  # last: it says that the run is done
        RESULTS,
        {
            "task": "classification",
            "epoch": best.about["epoch"],
            "validation": {k.removeprefix("validation_"): v for k, v in best.about["metrics"].items() if "valid" in k},
            "test": tested.as_dict(),
            "seconds": round(sum(row["seconds"] for row in rows), 1),
            "environment": dict(around),
        },
    )
    display.console.print(tested.score.table())
    display.say(
        f"test: OA {tested.score.overall_accuracy:.4f}  mAcc {tested.score.mean_class_accuracy:.4f}  of"
        f" {len(samples)} shapes, epoch {best.about['epoch']}, chosen on {best.about['data']['held_out']} held out;"
        f" {duration(seconds)} in all"
    )
    display.say(f"figures:    {folder.path / 'figures'}\ncheckpoint: {best.path}")
    display.say(f"use it:     pctransformer predict FILE --model {folder.path}")


def _say_what_is_trained(
    display: Display,
    settings: ClassificationTraining,
    around: Mapping[str, Any],
    sets: data.TrainingData,
    model: nn.Module,
    world: World,
) -> None:
    """What the run is, before it begins."""
    where = around["gpu"] or f"{around['processor']}, {around['threads']} threads"
    processes = f", {world.size} processes" if world.size > 1 else ""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    options = "".join(f" {name}={value}" for name, value in settings.model_options.items())
    train = sets.train
    display.say(
        f"pctransformer {pctransformer.__version__}, torch {around['torch']}, {where}{processes},"
        f" {settings.optimization.precision}\n"
        f"model:  {settings.model}{options}, {parameters:,} parameters\n"
        f"data:   {settings.data.data}: {len(train)} shapes of {len(train.class_names)} classes,"
        f" {len(sets.held_out)} more held out\n"
        f"folder: {display.folder.path}"
    )


def _resume_command(folder: RunFolder) -> str:
    return f"pctransformer train classification --resume {folder.path}"
