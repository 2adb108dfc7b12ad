"""`pctransformer train detection`: from LiDAR scans with boxes to a detector, tested by KITTI's rules, with figures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pctransformer.datasets.kitti import CLASS_NAMES
from pctransformer.datasets.scans import collate_scans
from pctransformer.errors import UserError
from pctransformer.evaluation.scans import detect_in_scans
from pctransformer.heads.anchor import anchors_from_boxes
from pctransformer.models import list_models, model_options
from pctransformer.models.detector import Detector
from pctransformer.training import command
from pctransformer.training.checkpoint import Checkpoint
from pctransformer.training.command import Plan, describe_run
from pctransformer.training.detection_report import Judged, judge, report
from pctransformer.training.distributed import World
from pctransformer.training.engine import Batch, Task
from pctransformer.training.model import make_model, start_from
from pctransformer.training.progress import Display
from pctransformer.training.report import as_trained, draw_training
from pctransformer.training.run_folder import RunFolder
from pctransformer.training.scans import ScanPart, TrainingScans, check_testing_scans, testing_scans, training_scans
from pctransformer.training.settings import DetectionTraining, ScanData


def run(settings: DetectionTraining) -> int:
    """The command; 0 when the training is done."""
    train(settings)
    return 0


def train(settings: DetectionTraining) -> RunFolder:
    """Train, choose the epoch by the average precision on held-out scans, test, and write it all down.

    Returns:
        the run folder.

    Raises:
        UserError: data, weights or folders that are not as they should be, or a loss that is no number.
    """
    return command.train(settings, _plan)


# ---- the training ----------------------------------------------------------------------------------------------------
def _plan(settings: DetectionTraining, pretrained: Path | None, folder: RunFolder, world: World) -> Plan:
    data = settings.data
    check_testing_scans(data)
    scans = training_scans(data, settings.seed)
    made: dict[str, Any] = {"in_channels": _channels(scans), "num_classes": len(data.classes)}
    options = {**_anchors(settings, scans), **settings.model_options}
    model = make_model(settings.model, options, task="detection", **made)
    assert isinstance(model, Detector)
    weights = start_from(model, settings.model, options, pretrained)
    box = (*model.grid.low, *model.grid.high)
    samples = scans.samples(data, box, settings.seed, settings.optimization.epochs)
    about = describe_run(settings, scans.train, scans.held_out, **made, **options)
    return Plan(
        task=Task(
            model=model,
            samples=samples,
            collate=collate_scans,
            loss=_Loss(model),
            validate=_Validation(scans.held_out, settings, world),
            prefer=_prefer,
            about={**about, "class_names": list(data.classes), "camera_view": _seen_by_camera(data, scans)},
        ),
        data=_describe_data(data, scans),
        finish=lambda best, display: _finish(settings, best, display, world.device),
        use=f"pctransformer predict FILE --model {folder.path}",
        weights=weights,
    )


def _seen_by_camera(settings: ScanData, scans: TrainingScans) -> bool:
    """Whether the detector knows only what a camera sees: your own scans have none, whatever the settings say."""
    return settings.camera_view and any(part.frames for part in scans.sources)


def _describe_data(settings: ScanData, scans: TrainingScans) -> str:
    share = settings.label_fraction
    return (
        f"{' and '.join(settings.data)}: {len(scans.train)} scans, {len(scans.held_out)} more held out"
        f"{'' if share == 1 else f', the {100 * share:.4g} % that are labelled'}; looked for:"
        f" {', '.join(settings.classes)}"
    )


def _channels(scans: TrainingScans) -> int:
    return scans.train.scans[0].points.shape[1]


def _anchors(settings: DetectionTraining, scans: TrainingScans) -> dict[str, Any]:
    """Anchors of other classes than KITTI's have the sizes of their boxes."""
    if settings.data.classes == CLASS_NAMES or settings.model not in list_models(task="detection"):
        return {}  # what is wrong with another model, `make_model` says
    if settings.model_options.get("head", model_options(settings.model)["head"].default) != "anchor":
        return {}
    parts = scans.train.scans
    labelled = [parts[i] for i in range(len(parts))]
    boxes, labels = (np.concatenate([getattr(scan, name) for scan in labelled]) for name in ("boxes", "labels"))
    try:
        anchors = anchors_from_boxes(boxes, labels, len(settings.data.classes))
    except ValueError as error:
        names = ", ".join(f"{i} {name}" for i, name in enumerate(settings.data.classes))
        raise UserError(f"--classes: {error} (classes: {names})") from None
    return {"anchors": [list(anchor) for anchor in anchors]}


class _Loss:
    """The loss of the model itself, which is asked outside of what averages gradients."""

    def __init__(self, model: Detector) -> None:
        self.of = model.loss

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        points, boxes = batch
        return self.of(model(points), boxes)


class _Validation:
    """The held-out scans, shared among the processes."""

    def __init__(self, held_out: ScanPart, settings: DetectionTraining, world: World) -> None:
        self.held_out, self.settings, self.world = held_out, settings, world

    def __call__(self, model: nn.Module) -> dict[str, float]:
        if not len(self.held_out):
            return {}
        rows = range(self.world.rank, len(self.held_out), self.world.size)
        own = detect_in_scans(
            model, self.held_out.scans, rows=rows, **as_trained(self.settings.optimization, self.world.device)
        )
        found = sorted(self.world.gather(own), key=lambda one: one.row)
        judged = judge(found, self.held_out)
        return {"loss": float(np.mean([one.loss for one in found])), **judged.in_short()}


def _prefer(found: Mapping[str, float]) -> tuple[float, ...] | None:
    """Without held-out scans the last epoch is taken, as in published trainings."""
    return (found["ap_3d"], -found["loss"]) if found else None


# ---- after -----------------------------------------------------------------------------------------------------------
def _finish(settings: DetectionTraining, best: Checkpoint, display: Display, device: torch.device) -> Mapping[str, Any]:
    """Test the epoch that was chosen, once; write detections and draw figures."""
    part = testing_scans(settings.data, "test")
    model = best.build_model().to(device)
    begun = time.perf_counter()
    found = detect_in_scans(model, part.scans, **as_trained(settings.optimization, device))
    speed = len(part) / (time.perf_counter() - begun)
    judged: Judged = judge(found, part)
    folder = display.folder.path
    draw_training(display.folder.metrics(), best.about["epoch"], folder / "figures")
    report(judged, folder, folder / "figures")
    display.console.print(judged.table())
    chosen = f"chosen on {best.about['data']['held_out']} held out" if best.about["data"]["held_out"] else "the last"
    display.say(f"test: {judged.line()}  of {len(part)} scans, epoch {best.about['epoch']}, {chosen}")
    return {"test": judged.as_dict(), "test_scans_per_second": round(speed, 1)}
