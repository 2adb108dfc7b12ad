"""`pctransformer train pretraining`: a backbone learns from shapes without labels, by making up what is hidden of them.

What is hidden in a step is drawn from (seed, step, process), as drop-out is. Of the held-out part always the same is
hidden, so that epochs can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pctransformer.datasets import CloudDataset, collate
from pctransformer.datasets.samples import generator_for
from pctransformer.evaluation.inference import evaluating
from pctransformer.heads.reconstruction import Reconstruction
from pctransformer.models import pretraining as models
from pctransformer.training import command, data
from pctransformer.training.checkpoint import Checkpoint
from pctransformer.training.command import Plan, describe_run
from pctransformer.training.distributed import World
from pctransformer.training.engine import Batch, Task
from pctransformer.training.model import make_model
from pctransformer.training.progress import Display
from pctransformer.training.report import autocast_type, draw_reconstruction, draw_training
from pctransformer.training.run_folder import RunFolder
from pctransformer.training.settings import Pretraining

_SHOWN = 6  # shapes in the figure


def run(settings: Pretraining) -> int:
    """The command; 0 when the training is done."""
    train(settings)
    return 0


def train(settings: Pretraining) -> RunFolder:
    """Train, choose the epoch by what is made up of held-out shapes, and write it all down.

    Returns:
        the run folder.

    Raises:
        UserError: data, weights or folders that are not as they should be, or a loss that is no number.
    """
    return command.train(settings, _plan)


# ---- the training ----------------------------------------------------------------------------------------------------
def _plan(settings: Pretraining, pretrained: Path | None, folder: RunFolder, world: World) -> Plan:
    sets = data.unlabelled_data(settings.data, settings.seed)
    made: dict[str, Any] = {"in_channels": 3, "num_classes": None}
    model = make_model(settings.model, settings.model_options, task="pretraining", pretrained=pretrained, **made)
    classifier = settings.model.removesuffix("_pretraining")
    return Plan(
        task=Task(
            model=model,
            samples=sets.train,
            collate=collate,
            loss=_Loss(model),
            validate=_Validation(sets.held_out, settings, world),
            prefer=lambda found: (-found["loss"],),
            about=describe_run(settings, sets.train, sets.held_out, **made),
        ),
        data=f"{' and '.join(settings.data.data)}: {len(sets.train)} shapes, {len(sets.held_out)} more held out",
        finish=lambda best, display: _finish(settings, sets.held_out, best, display, world.device),
        use=f"pctransformer train classification --model {classifier} --pretrained {folder.path}",
    )


class _Loss:
    """What the model says is to become small; with several terms, their sum and each of them."""

    def __init__(self, model: nn.Module) -> None:
        assert isinstance(model, models.Pretraining)
        self.terms = model.loss

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.of(model(batch[0]))

    def of(self, made_up: Reconstruction) -> dict[str, Tensor]:
        terms = self.terms(made_up)
        total = torch.stack([*terms.values()]).sum()
        return {"loss": total, **(terms if len(terms) > 1 else {})}


class _Validation:
    """The held-out part, shared among the processes batch by batch."""

    def __init__(self, held_out: CloudDataset, settings: Pretraining, world: World) -> None:
        self.held_out, self.settings, self.world = held_out, settings, world

    def __call__(self, model: nn.Module) -> dict[str, float]:
        loss, size = _Loss(model), self.settings.optimization.batch_size
        total = 0.0
        for begin in range(self.world.rank * size, len(self.held_out), self.world.size * size):
            rows = range(begin, min(begin + size, len(self.held_out)))
            made_up = _make_up(model, self.held_out, rows, self.settings, self.world.device)
            total += loss.of(made_up)["loss"].item() * len(rows)
        sums = self.world.total(torch.tensor([total], dtype=torch.float64))
        return {"loss": sums.item() / len(self.held_out)}


def _make_up(
    model: nn.Module, samples: CloudDataset, rows: Sequence[int], settings: Pretraining, device: torch.device
) -> Reconstruction:
    """Hide parts of some samples, always the same for the same rows, and make them up."""
    points, _ = collate([samples[row] for row in rows])
    dtype = autocast_type(settings.optimization.precision)
    with evaluating(model), torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        return model(points.to(device), generator_for(*rows))


# ---- after -----------------------------------------------------------------------------------------------------------
def _finish(
    settings: Pretraining, held_out: CloudDataset, best: Checkpoint, display: Display, device: torch.device
) -> Mapping[str, Any]:
    """Draw the training, and shapes from all over the held-out part with what is made up of them."""
    figures = display.folder.path / "figures"
    draw_training(display.folder.metrics(), best.about["epoch"], figures)
    count = min(len(held_out), _SHOWN)
    rows = [i * len(held_out) // count for i in range(count)]
    made_up = _make_up(best.build_model().to(device), held_out, rows, settings, device)
    draw_reconstruction([held_out[row] for row in rows], made_up, figures)
    loss = best.about["metrics"]["validation_loss"]
    display.say(f"held out: loss {loss:.4g}  of {len(held_out)} shapes, epoch {best.about['epoch']}")
    return {}
