"""A checkpoint as training leaves it, of a model too small to be good at anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pctransformer.models import create_model
from pctransformer.models.tensor_file import write_tensors
from pctransformer.training.serialization import to_json
from pctransformer.training.settings import (
    ClassificationTraining,
    DataSettings,
    PartData,
    PartOptimization,
    PartSegmentationTraining,
    SceneData,
    SemanticSegmentationTraining,
    SupervisedOptimization,
)

CLASSES = ("bowl", "cup", "vase")
PARTS = ("bowl/foot", "bowl/wall", "cup/wall", "cup/handle", "vase/body", "vase/foot", "vase/neck")


PCT = {"dim": 16, "width": 32, "tokens": [32, 16], "k": 8}


def write_checkpoint(
    path: Path,
    *,
    name: str = "pct",
    options: Mapping[str, Any] = PCT,
    normals: bool = False,
    precision: str = "float32",
    seed: int = 0,
    **changes: Any,
) -> Path:
    """`path` with random weights; `changes` replace what it says about itself."""
    settings = ClassificationTraining(
        model=name,
        data=DataSettings(num_points=64, eval_points=48, normals=normals),
        optimization=SupervisedOptimization(precision=precision),  # type: ignore[arg-type]
    )
    made = {"in_channels": 6 if normals else 3, **options}
    torch.manual_seed(seed)
    weights = create_model(name, num_classes=len(CLASSES), **made).state_dict()
    about = {
        "task": "classification",
        "model": {"name": name, "options": made, "num_classes": len(CLASSES)},
        "class_names": list(CLASSES),
        "settings": to_json(settings),
        "epoch": 7,
        "metrics": {"validation_oa": 0.9375},
        "version": "0.1.0",
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, {**weights, "training/step": torch.tensor(5)}, about)
    return path


def write_part_checkpoint(
    path: Path,
    *,
    classes: tuple[str, ...] = CLASSES,
    parts: tuple[str, ...] = PARTS,
    kept_parts: tuple[str, ...] | None = None,
    normals: bool = False,
) -> Path:
    """`path` with random weights of a model that tells parts; `kept_parts` is what it says of their names instead."""
    settings = PartSegmentationTraining(
        model="point_transformer_v3_seg",
        data=PartData(num_points=64, eval_points=48, normals=normals),
        optimization=PartOptimization(precision="float32"),
    )
    options = {
        "in_channels": 6 if normals else 3, "num_categories": len(classes), "dims": [16, 32], "depths": [1, 1],
        "up_dims": [16], "up_depths": [1], "patch_size": 16, "cell_size": 0.1,
    }  # fmt: skip
    torch.manual_seed(0)
    model = create_model("point_transformer_v3_seg", num_classes=len(parts), **options)
    torch.nn.init.normal_(model.head.classifier.weight)  # so that all parts occur
    about = {
        "task": "part-segmentation",
        "model": {"name": "point_transformer_v3_seg", "options": options, "num_classes": len(parts)},
        "class_names": list(classes),
        "part_names": list(parts if kept_parts is None else kept_parts),
        "settings": to_json(settings),
        "epoch": 7,
        "metrics": {"validation_instance_miou": 0.5},
        "version": "0.1.0",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, model.state_dict(), about)
    return path


ROOM_PARTS = ("wall", "floor", "chair")


def write_scene_checkpoint(path: Path, *, tile_points: int, colors: bool = False, **options: Any) -> Path:
    """A model of scenes with random weights, which sees one point in each 0.2 m."""
    name = "point_transformer_v3_small_seg"
    made = {"in_channels": 6 if colors else 3, "cell_size": 0.2, "patch_size": 32, **options}
    torch.manual_seed(0)
    weights = create_model(name, num_classes=len(ROOM_PARTS), **made).state_dict()
    data = SceneData(cell_size=0.2, tile_points=tile_points, colors=colors)
    about = {
        "task": SemanticSegmentationTraining.task,
        "model": {"name": name, "options": made, "num_classes": len(ROOM_PARTS)},
        "class_names": list(ROOM_PARTS),
        "settings": to_json(SemanticSegmentationTraining(model=name, data=data)),
        "epoch": 1,
        "metrics": {},
        "version": "0.1.0",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, weights, about)
    return path
