"""`pctransformer train classification`: from shapes to a trained classifier, its test score and its figures."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pctransformer.datasets import CloudDataset, collate
from pctransformer.evaluation.classification import evaluate_classifier
from pctransformer.training import command, data
from pctransformer.training.checkpoint import Checkpoint
from pctransformer.training.command import Plan, describe_data, describe_run
from pctransformer.training.distributed import World
from pctransformer.training.engine import Batch, Task
from pctransformer.training.model import make_model
from pctransformer.training.progress import Display
from pctransformer.training.report import as_trained, draw_evaluation, draw_training
from pctransformer.training.run_folder import RunFolder
from pctransformer.training.settings import ClassificationTraining, OptimizationSettings


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
    return command.train(settings, _plan)


# ---- the training ----------------------------------------------------------------------------------------------------
def _plan(settings: ClassificationTraining, pretrained: Path | None, folder: RunFolder, world: World) -> Plan:
    data.check_testing_data(settings.data)
    sets = data.training_data(settings.data, settings.seed)
    class_names = sets.train.class_names
    made: dict[str, Any] = {"in_channels": 6 if settings.data.normals else 3, "num_classes": len(class_names)}
    if settings.freeze:
        made["linear_probe"] = True
    model = make_model(settings.model, settings.model_options, task="classification", pretrained=pretrained, **made)
    about = describe_run(settings, sets.train, sets.held_out, **made)
    return Plan(
        task=Task(
            model=model,
            samples=sets.train,
            collate=collate,
            loss=_Loss(settings.optimization.label_smoothing),
            validate=_Validation(sets.held_out, settings.optimization, world),
            prefer=lambda found: (found["oa"], -found["loss"]),
            about={**about, "class_names": list(class_names)},
        ),
        data=describe_data(settings.data, sets.train, sets.held_out),
        finish=lambda best, display: _finish(settings, best, display, world.device),
        use=f"pctransformer predict FILE --model {folder.path}",
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
        found = evaluate_classifier(model, self.share, **as_trained(self.settings, self.world.device))
        sums = torch.tensor([found.loss * len(found.labels), len(found.labels)], dtype=torch.float64)
        loss, count = self.world.total(sums).tolist()
        score = dataclasses.replace(found.score, confusion=self.world.total(found.score.confusion).cpu())
        return {"loss": loss / count, "oa": score.overall_accuracy, "macc": score.mean_class_accuracy}


# ---- after -----------------------------------------------------------------------------------------------------------
def _finish(
    settings: ClassificationTraining, best: Checkpoint, display: Display, device: torch.device
) -> Mapping[str, Any]:
    """Test the epoch that was chosen, once, and draw figures."""
    samples = data.testing_data(settings.data)
    model = best.build_model().to(device)
    begun = time.perf_counter()
    tested = evaluate_classifier(model, samples, **as_trained(settings.optimization, device))
    speed = len(samples) / (time.perf_counter() - begun)
    folder = display.folder
    draw_training(folder.metrics(), best.about["epoch"], folder.path / "figures")
    draw_evaluation(tested, samples, folder.path / "figures")
    display.console.print(tested.score.table())
    display.say(
        f"test: OA {tested.score.overall_accuracy:.4f}  mAcc {tested.score.mean_class_accuracy:.4f}  of"
        f" {len(samples)} shapes, epoch {best.about['epoch']}, chosen on {best.about['data']['held_out']} held out"
    )
    return {"test": tested.as_dict(), "test_shapes_per_second": round(speed, 1)}
