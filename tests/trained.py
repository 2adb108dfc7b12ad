"""A checkpoint as training leaves it, of a model too small to be good at anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pctransformer.models import create_model
from pctransformer.models.tensor_file import write_tensors
from pctransformer.training.settings import ClassificationTraining, DataSettings, SupervisedOptimization, to_json

CLASSES = ("bowl", "cup", "vase")


def write_checkpoint(
    path: Path, *, normals: bool = False, precision: str = "float32", seed: int = 0, **changes: Any
) -> Path:
    """`path` with random weights; `changes` replace what it says about itself."""
    settings = ClassificationTraining(
        model="pct",
        data=DataSettings(num_points=64, eval_points=48, normals=normals),
        optimization=SupervisedOptimization(precision=precision),  # type: ignore[arg-type]
    )
    options = {"in_channels": 6 if normals else 3, "dim": 16, "width": 32, "tokens": [32, 16], "k": 8}
    torch.manual_seed(seed)
    model = create_model("pct", num_classes=len(CLASSES), **options)
    about = {
        "task": "classification",
        "model": {"name": "pct", "options": options, "num_classes": len(CLASSES)},
        "class_names": list(CLASSES),
        "settings": to_json(settings),
        "epoch": 7,
        "metrics": {"validation_oa": 0.9375},
        "version": "0.1.0",
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, {**model.state_dict(), "training/step": torch.tensor(5)}, about)
    return path
