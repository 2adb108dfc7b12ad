"""`pctransformer train pretraining`: a backbone learns from shapes or LiDAR scans without labels, by making up what is
hidden of them.

What is hidden in a step is drawn from (seed, step, process), as drop-out is. Of the held-out part always the same is
hidden, so that epochs can be compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pctransformer.datasets.samples import generator_for
from pctransformer.evaluation.inference import evaluating
from pctransformer.models import pretraining as models
from pctransformer.models.registry import pretrained_model
from pctransformer.training import command, unlabelled
from pctransformer.training.checkpoint import Checkpoint
from pctransformer.training.command import Plan, describe_run
from pctransformer.training.distributed import World
from pctransformer.training.engine import Batch, Task
from pctransformer.training.model import check_task, make_model
from pctransformer.training.progress import Display
from pctransformer.training.report import autocast_type, draw_training
from pctransformer.training.run_folder import RunFolder
from pctransformer.training.settings import DetectionOptimization, OptimizationSettings, Pretraining
from pctransformer.training.unlabelled import Unlabelled


def run(settings: Pretraining) -> int:
    """The command; 0 when the training is done."""
    train(settings)
    return 0


def train(settings: Pretraining) -> RunFolder:
    """Train, choose the epoch by what is made up of held-out samples, and write it all down.

    Returns:
        the run folder.

    Raises:
        UserError: data, weights or folders that are not as they should be, or a loss that is no number.
    """
    return command.train(_with_batch_size(settings), _plan)


def _with_batch_size(settings: Pretraining) -> Pretraining:
    """Where none is given, that of other trainings on samples of the same kind."""
    optimization = settings.optimization
    if optimization.batch_size == 0:
        usual = DetectionOptimization if _is_of_scans(settings.model) else OptimizationSettings
        optimization = dataclasses.replace(optimization, batch_size=usual.batch_size)
    return dataclasses.replace(settings, optimization=optimization)


def _is_of_scans(model: str) -> bool:
    """Whether a model learns from scans, to become a detector, or else from shapes.

    Raises:
        UserError: there is no such model for pretraining.
    """
    check_task(model, "pretraining")
    return pretrained_model(model).task == "detection"


# ---- the training ----------------------------------------------------------------------------------------------------
def _plan(settings: Pretraining, pretrained: Path | None, folder: RunFolder, world: World) -> Plan:
    data = _open(settings)
    made: dict[str, Any] = {"in_channels": data.channels, "num_classes": None}
    model = make_model(settings.model, settings.model_options, task="pretraining", pretrained=pretrained, **made)
    heir = pretrained_model(settings.model)
    return Plan(
        task=Task(
            model=model,
            samples=data.train,
            collate=data.collate,
            loss=_Loss(model),
            validate=_Validation(data, settings, world),
            prefer=lambda found: (-found["loss"],),
            about=describe_run(settings, *data.parts, **made),
        ),
        data=f"{' and '.join(settings.data.data)}: {len(data.train)} {data.kind}, {len(data.held_out)} more held out",
        finish=lambda best, display: _finish(settings, data, best, display, world.device),
        use=f"pctransformer train {heir.task} --model {heir.name} --pretrained {folder.path}",
    )


def _open(settings: Pretraining) -> Unlabelled:
    return (unlabelled.scans if _is_of_scans(settings.model) else unlabelled.shapes)(settings.data, settings.seed)


class _Loss:
    """What the model says is to become small; with several terms, their sum and each of them."""

    def __init__(self, model: nn.Module) -> None:
        assert isinstance(model, models.Pretraining)
        self.terms = model.loss

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.of(model(batch[0]))

    def of(self, made_up: Any) -> dict[str, Tensor]:
        terms = self.terms(made_up)
        total = torch.stack([*terms.values()]).sum()
        return {"loss": total, **(terms if len(terms) > 1 else {})}


class _Validation:
    """The held-out part, shared among the processes batch by batch."""

    def __init__(self, data: Unlabelled, settings: Pretraining, world: World) -> None:
        self.data, self.settings, self.world = data, settings, world

    def __call__(self, model: nn.Module) -> dict[str, float]:
        loss, size, count = _Loss(model), self.settings.optimization.batch_size, len(self.data.held_out)
        total = 0.0
        for begin in range(self.world.rank * size, count, self.world.size * size):
            rows = range(begin, min(begin + size, count))
            made_up = _make_up(model, self.data, rows, self.settings, self.world.device)
            total += loss.of(made_up)["loss"].item() * len(rows)
        sums = self.world.total(torch.tensor([total], dtype=torch.float64))
        return {"loss": sums.item() / count}


def _make_up(
    model: nn.Module, data: Unlabelled, rows: Sequence[int], settings: Pretraining, device: torch.device
) -> Any:
    """What the model makes up of some held-out samples, of which always the same is hidden for the same rows."""
    points, _ = data.collate([data.held_out[row] for row in rows])
    dtype = autocast_type(settings.optimization.precision)
    with evaluating(model), torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        return model(points.to(device), generator_for(*rows))


# ---- after -----------------------------------------------------------------------------------------------------------
def _finish(
    settings: Pretraining, data: Unlabelled, best: Checkpoint, display: Display, device: torch.device
) -> Mapping[str, Any]:
    """Draw the training, and samples from all over the held-out part with what is made up of them."""
    figures = display.folder.path / "figures"
    draw_training(display.folder.metrics(), best.about["epoch"], figures)
    count = min(len(data.held_out), data.shown)
    rows = [i * len(data.held_out) // count for i in range(count)]
    made_up = _make_up(best.build_model().to(device), data, rows, settings, device)
    data.draw([data.held_out[row] for row in rows], made_up, figures)
    loss = best.about["metrics"]["validation_loss"]
    display.say(f"held out: loss {loss:.4g}  of {len(data.held_out)} {data.kind}, epoch {best.about['epoch']}")
    return {}
