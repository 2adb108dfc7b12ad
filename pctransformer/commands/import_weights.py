"""`pctransformer import-weights`: weights that others have trained become a run, which all commands take."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from pctransformer.errors import UserError
from pctransformer.training.settings import ModelOptions

if TYPE_CHECKING:
    from torch import nn

    from pctransformer.training.settings import ClassificationTraining, DetectionTraining


@dataclass(frozen=True)
class Config:
    weights: Positional[Annotated[Path, arg(metavar="WEIGHTS")]]
    """Their file (.pt .pth .t7 .bin .safetensors); `pctransformer info MODEL` says whose a model reads."""
    model: str
    """The classifier or detector that they are of, see `pctransformer models`."""
    classes: Annotated[Path | None, arg(metavar="NAMES.txt")] = None
    """Names of the classes, one a line, in the order of the logits. By default, for detectors, Car, Pedestrian and
    Cyclist."""
    model_options: ModelOptions = field(default_factory=dict)
    """Options of the model, where the weights are of another size than it has by default."""
    num_points: int = 1024
    """Of a classifier: points of a shape that its weights were trained on."""
    normals: bool = False
    """Of a classifier: its weights want normals, too."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """New folder. By default `runs/MODEL-imported`, numbered."""


def run(config: Config) -> int:
    """Write a folder like that of a run, with a checkpoint and settings; there is no log, and nothing was tested."""
    import pctransformer
    from pctransformer.commands.trained import check_free
    from pctransformer.models.tensor_file import write_tensors
    from pctransformer.training.checkpoint import BEST
    from pctransformer.training.model import make_model
    from pctransformer.training.run_folder import SETTINGS, RunFolder, numbered
    from pctransformer.training.serialization import to_json
    from pctransformer.training.settings import DetectionTraining

    check_free(config.out)
    _refuse_own(config.weights)
    settings, names = _settings(config)
    is_detector = isinstance(settings, DetectionTraining)
    channels = 4 if is_detector else 6 if config.normals else 3
    model = make_model(
        config.model, config.model_options, task="detection" if is_detector else "classification",
        in_channels=channels, num_classes=len(names),
    )  # fmt: skip
    loaded = _load(model, config)
    folder = RunFolder(config.out or numbered(Path("runs") / f"{config.model}-imported"))
    folder.create()
    folder.write_json(SETTINGS, to_json(settings))
    about = {
        "task": settings.task,
        "model": {
            "name": config.model,
            "options": {"in_channels": channels, **config.model_options},
            "num_classes": len(names),
        },
        "class_names": list(names),
        "settings": to_json(settings),
        "epoch": 0,
        "metrics": {},
        "version": pctransformer.__version__,
    }
    write_tensors(folder.path / "checkpoints" / BEST, model.state_dict(), about)
    print(f"{config.weights}: {loaded}")
    print(f"run:    {folder.path}, {config.model} of {len(names)} classes, {names[0]} to {names[-1]}")
    print(f"use it: pctransformer predict FILE --model {folder.path}")
    return 0


def _settings(config: Config) -> tuple[ClassificationTraining | DetectionTraining, tuple[str, ...]]:
    """Those of a training that would have led to such weights, as far as commands ask for them, and the classes.

    Precision is single: what others publish was measured so.
    """
    from pctransformer.datasets.layouts import words
    from pctransformer.models import model_info
    from pctransformer.training.settings import (
        ClassificationTraining,
        DataSettings,
        DetectionOptimization,
        DetectionTraining,
        ScanData,
        SupervisedOptimization,
    )

    try:
        task = model_info(config.model).task
    except ValueError as error:
        raise UserError(str(error)) from error
    names = None if config.classes is None else tuple(words(config.classes))
    if task == "detection":
        if config.normals:
            raise UserError("--normals is not for a detector")
        scans = ScanData() if names is None else ScanData(classes=names)
        return DetectionTraining(
            model=config.model, model_options=config.model_options, pretrained=config.weights, data=scans,
            optimization=DetectionOptimization(precision="float32"),
        ), scans.classes  # fmt: skip
    if task != "classification":
        raise UserError(f"--model {config.model} is for {task}; weights of classifiers and detectors can be imported")
    if names is None:
        raise UserError("--classes: what do the logits mean? Give a text file with the names, one a line")
    if config.num_points < 1:
        raise UserError(f"--num-points must be at least 1, got {config.num_points}")
    return ClassificationTraining(
        model=config.model, model_options=config.model_options, pretrained=config.weights,
        data=DataSettings(num_points=config.num_points, eval_points=config.num_points, normals=config.normals),
        optimization=SupervisedOptimization(precision="float32"),
    ), names  # fmt: skip


def _refuse_own(file: Path) -> None:
    """Our own checkpoints say all that would be asked here."""
    from pctransformer.models.tensor_file import read_tensors

    if file.is_dir():
        raise UserError(f"{file} is a folder; give a file of weights")
    if file.suffix == ".safetensors" and file.is_file() and read_tensors(file)[1]:
        raise UserError(f"{file} is a checkpoint of this package already; commands take it as --model {file}")


def _load(model: nn.Module, config: Config) -> str:
    """All weights, the last layer's included: nothing is trained here any more."""
    from pctransformer.models.registry import load_pretrained

    try:
        report = load_pretrained(model, config.model, config.weights)
    except (ValueError, FileNotFoundError) as error:
        raise UserError(str(error)) from error
    if report.kept:
        raise UserError(
            f"{config.weights} does not have all of {config.model}: {report}. Are --classes all classes that it was"
            " trained on? To train on with others there is `pctransformer train ... --pretrained`"
        )
    return str(report)
