"""`pctransformer train semantic-segmentation`: from scenes with labelled points to a model that tells what they are.

A step shows pieces of some scenes, the epoch is chosen by the mIoU of whole held-out scenes, segmented in tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pctransformer.datasets import CloudDataset, collate_parts
from pctransformer.evaluation.semantic import SceneScore, evaluate_scenes
from pctransformer.models import model_info, model_options
from pctransformer.training import command
from pctransformer.training.checkpoint import Checkpoint
from pctransformer.training.command import Plan, describe_run
from pctransformer.training.distributed import World
from pctransformer.training.engine import Batch, Task
from pctransformer.training.model import make_model
from pctransformer.training.point_loss import point_loss
from pctransformer.training.progress import Display
from pctransformer.training.report import SceneFigures, draw_training
from pctransformer.training.run_folder import RunFolder
from pctransformer.training.scenes import check_testing_scenes, open_scenes, tiling, training_scenes
from pctransformer.training.settings import SemanticSegmentationTraining


def run(settings: SemanticSegmentationTraining) -> int:
    """The command; 0 when the training is done."""
    train(settings)
    return 0


def train(settings: SemanticSegmentationTraining) -> RunFolder:
    """Train, choose the epoch by the mIoU of held-out scenes, test, and write it all down.

    Returns:
        the run folder.

    Raises:
        UserError: data, weights or folders that are not as they should be, or a loss that is no number.
    """
    return command.train(settings, _plan)


# ---- the training ----------------------------------------------------------------------------------------------------
def _plan(settings: SemanticSegmentationTraining, pretrained: Path | None, folder: RunFolder, world: World) -> Plan:
    check_testing_scenes(settings.data)
    scenes = training_scenes(settings.data, settings.seed)
    names = scenes.train.part_names
    made: dict[str, Any] = {"in_channels": 6 if settings.data.colors else 3, "num_classes": len(names)}
    options = {**_cells(settings), **settings.model_options}
    model = make_model(settings.model, options, task="segmentation", pretrained=pretrained, **made)
    about = describe_run(settings, scenes.train, scenes.held_out, **made, **_cells(settings))
    return Plan(
        task=Task(
            model=model,
            samples=scenes.pieces,
            collate=collate_parts,
            loss=_loss,
            validate=_Validation(scenes.held_out, settings, world),
            prefer=lambda found: (found["miou"], -found["loss"]),
            about={**about, "class_names": list(names)},
        ),
        data=f"{settings.data.data}: {len(scenes.train)} scenes, {len(scenes.held_out)} more held out;"
        f" {len(names)} classes of points",
        finish=lambda best, display: _finish(settings, best, display, world.device),
        use=f"pctransformer predict FILE --model {folder.path}",
    )


def _cells(settings: SemanticSegmentationTraining) -> dict[str, Any]:
    """The model's own cells, where it has any, begin with those of the data."""
    name = settings.model
    has_cells = model_info(name).task == "segmentation" and "cell_size" in model_options(name)
    return {"cell_size": settings.data.cell_size} if has_cells else {}


def _loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    points, _, labels = batch
    return point_loss(model(points), labels)


class _Validation:
    """Whole held-out scenes, shared among the processes."""

    def __init__(self, held_out: CloudDataset, settings: SemanticSegmentationTraining, world: World) -> None:
        self.share = held_out.subset(range(world.rank, len(held_out), world.size))
        self.settings, self.world = settings, world

    def __call__(self, model: nn.Module) -> dict[str, float]:
        found = evaluate_scenes(model, self.share, **tiling(self.settings, self.world.device))
        score = SceneScore(self.world.total(found.score.confusion).cpu(), found.score.class_names)
        loss = self.world.total(torch.tensor([found.total_loss], dtype=torch.float64)).item()
        return {
            "loss": loss / max(score.count, 1),
            "miou": score.mean_iou,
            "oa": score.overall_accuracy,
            "macc": score.mean_class_accuracy,
        }


# ---- after -----------------------------------------------------------------------------------------------------------
def _finish(
    settings: SemanticSegmentationTraining, best: Checkpoint, display: Display, device: torch.device
) -> Mapping[str, Any]:
    """Test the epoch that was chosen, once, and draw figures."""
    scenes = open_scenes(settings.data, "test")
    model = best.build_model().to(device)
    figures = SceneFigures(display.folder.path / "figures", scenes.part_names)
    tested = evaluate_scenes(model, scenes, **tiling(settings, device), seen=figures.add)
    draw_training(display.folder.metrics(), best.about["epoch"], figures.folder)
    figures.finish(tested.score)
    display.console.print(tested.score.table())
    display.say(
        f"test: mIoU {tested.score.mean_iou:.4f}  mAcc {tested.score.mean_class_accuracy:.4f}  OA"
        f" {tested.score.overall_accuracy:.4f}  of {len(scenes)} scenes, epoch {best.about['epoch']}, chosen on"
        f" {best.about['data']['held_out']} held out"
    )
    return {"test": tested.as_dict()}
