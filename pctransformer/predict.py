"""A trained model, ready to predict: `load("runs/first").predict("chair.ply")`."""

from __future__ import annotations

from pathlib import Path

import torch

from pctransformer.errors import UserError
from pctransformer.predict_boxes import DetectorPredictor
from pctransformer.predict_classes import ClassPredictor
from pctransformer.predict_parts import PartPredictor
from pctransformer.predict_scenes import ScenePredictor
from pctransformer.training import checkpoint
from pctransformer.training.distributed import choose_device
from pctransformer.training.settings import (
    ClassificationTraining,
    DetectionTraining,
    PartSegmentationTraining,
    SemanticSegmentationTraining,
)


def load(
    run_or_checkpoint: str | Path, device: str | torch.device = "cpu"
) -> ClassPredictor | PartPredictor | ScenePredictor | DetectorPredictor:
    """A trained model, ready to predict classes of clouds, parts of objects, what each point of a scene is, or boxes.

    Args:
        run_or_checkpoint: the folder of a run, of which the best checkpoint is taken, or a checkpoint file.
        device: "cpu", "cuda", "cuda:1"; "auto" for a GPU where there is one.

    Raises:
        UserError: there is no checkpoint, it is damaged, it is of pretraining, or a later version has written it; or
            there is no such device.

    Example:
        print(load("runs/first").predict("chair.ply"))
        print(load("runs/parts").predict("chair.ply", "chair"))
        print(load("runs/rooms").predict("scan.ply"))
        print(load("runs/detection").predict("velodyne/000008.bin"))
    """
    chosen = choose_device(str(device))
    read = checkpoint.read(run_or_checkpoint)
    task = read.about.get("task")
    kinds = (ClassificationTraining, PartSegmentationTraining, SemanticSegmentationTraining, DetectionTraining)
    tasks = [kind.task for kind in kinds]
    if task not in tasks:
        raise UserError(f"{read.path} was trained for {task}; predictions want a model for one of {', '.join(tasks)}")
    model = read.build_model()
    classes, parts = read.about.get("class_names", []), read.about.get("part_names", [])
    names, what = (parts, "part") if task == PartSegmentationTraining.task else (classes, "class")
    if len(names) != (outputs := read.about["model"]["num_classes"]):
        raise UserError(f"{read.path} has {len(names)} {what} names, but its model has {outputs} classes")
    if task == PartSegmentationTraining.task:
        return PartPredictor(model, classes, parts, read.settings(PartSegmentationTraining), chosen)
    if task == SemanticSegmentationTraining.task:
        return ScenePredictor(model, classes, read.settings(SemanticSegmentationTraining), chosen)
    if task == DetectionTraining.task:
        view = read.about.get("camera_view")
        return DetectorPredictor(model, classes, read.settings(DetectionTraining), chosen, camera_view=view)
    return ClassPredictor(model, classes, read.settings(ClassificationTraining), chosen)
