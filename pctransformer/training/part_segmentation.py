"""`pctransformer train part-segmentation`: from shapes with parts to a model that tells them, its test and its figures.

As papers do it: the model is told what each object is; in the loss all parts of all objects compete for a point, in the
evaluation only those that the object's category has.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pctransformer.datasets import CloudDataset, collate_parts
from pctransformer.evaluation.segmentation import PartScore, evaluate_segmenter
from pctransformer.training import command, data
from pctransformer.training.checkpoint import Checkpoint
from pctransformer.training.command import Plan, describe_data, describe_run
from pctransformer.training.distributed import World
from pctransformer.training.engine import Batch, Task
from pctransformer.training.model import make_model
from pctransformer.training.point_loss import point_loss
from pctransformer.training.progress import Display
from pctransformer.training.report import as_trained, draw_parts, draw_training
from pctransformer.training.run_folder import RunFolder
from pctransformer.training.settings import OptimizationSettings, PartSegmentationTraining


def run(settings: PartSegmentationTraining) -> int:
    """The command; 0 when the training is done."""
    train(settings)
    return 0


def train(settings: PartSegmentationTraining) -> RunFolder:
    """Train, choose the epoch by the instance mIoU of the held-out part, test, and write it all down.

    Returns:
        the run folder.

    Raises:
        UserError: data, weights or folders that are not as they should be, or a loss that is no number.
    """
    return command.train(settings, _plan)


# ---- the training ----------------------------------------------------------------------------------------------------
def _plan(settings: PartSegmentationTraining, pretrained: Path | None, folder: RunFolder, world: World) -> Plan:
    data.check_testing_data(settings.data)
    sets = data.training_data(settings.data, settings.seed)
    names = {"class_names": list(sets.train.class_names), "part_names": list(sets.train.part_names)}
    made: dict[str, Any] = {
        "in_channels": 6 if settings.data.normals else 3,
        "num_classes": len(names["part_names"]),
        "num_categories": len(names["class_names"]),
    }
    model = make_model(settings.model, settings.model_options, task="segmentation", pretrained=pretrained, **made)
    return Plan(
        task=Task(
            model=model,
            samples=sets.train,
            collate=collate_parts,
            loss=part_loss,
            validate=_Validation(sets.held_out, settings.optimization, world),
            prefer=lambda found: (found["instance_miou"], -found["loss"]),
            about={**describe_run(settings, sets.train, sets.held_out, **made), **names},
        ),
        data=f"{describe_data(settings.data, sets.train, sets.held_out)}; {len(names['part_names'])} parts",
        finish=lambda best, display: _finish(settings, best, display, world.device),
        use=f"pctransformer predict FILE --model {folder.path} --category {names['class_names'][0]}",
    )


def part_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Cross-entropy of all points with a label, among all parts, and the share of them that are right."""
    points, category, labels = batch
    return point_loss(model(points, category), labels)


class _Validation:
    """The held-out part, shared among the processes; what is found does not depend on how many they are."""

    def __init__(self, held_out: CloudDataset, settings: OptimizationSettings, world: World) -> None:
        self.held_out, self.settings, self.world = held_out, settings, world
        self.rows = torch.arange(world.rank, len(held_out), world.size)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        share = self.held_out.subset(self.rows)
        found = evaluate_segmenter(model, share, **as_trained(self.settings, self.world.device))
        ious = torch.zeros(len(self.held_out), dtype=torch.float64).index_copy(0, self.rows, found.score.ious)
        of_points = [found.score.correct, found.score.points, found.loss * found.score.points]
        sums = self.world.total(torch.cat([ious, torch.tensor(of_points, dtype=torch.float64)])).cpu()
        correct, points, loss = sums[len(ious) :].tolist()
        score = PartScore(sums[: len(ious)], self.held_out.labels, self.held_out.class_names, int(correct), int(points))
        return {
            "loss": loss / points,
            "instance_miou": score.instance_mean_iou,
            "class_miou": score.class_mean_iou,
            "accuracy": score.point_accuracy,
        }


# ---- after -----------------------------------------------------------------------------------------------------------
def _finish(
    settings: PartSegmentationTraining, best: Checkpoint, display: Display, device: torch.device
) -> Mapping[str, Any]:
    """Test the epoch that was chosen, once, and draw figures."""
    samples = data.testing_data(settings.data)
    model = best.build_model().to(device)
    begun = time.perf_counter()
    tested = evaluate_segmenter(model, samples, **as_trained(settings.optimization, device))
    speed = len(samples) / (time.perf_counter() - begun)
    folder = display.folder
    draw_training(folder.metrics(), best.about["epoch"], folder.path / "figures")
    draw_parts(tested, samples, folder.path / "figures")
    display.console.print(tested.score.table())
    display.say(
        f"test: instance mIoU {tested.score.instance_mean_iou:.4f}  class mIoU {tested.score.class_mean_iou:.4f}  of"
        f" {len(samples)} shapes, epoch {best.about['epoch']}, chosen on {best.about['data']['held_out']} held out"
    )
    return {"test": tested.as_dict(), "test_shapes_per_second": round(speed, 1)}
