"""What an evaluation leaves in a folder: figures to look at, and the same as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pctransformer.datasets import CloudDataset
from pctransformer.evaluation.classification import Evaluation


def draw_evaluation(evaluation: Evaluation, samples: CloudDataset, figures: Path) -> None:
    """confusion.png, and errors.png with the most confident errors.

    Args:
        evaluation: of `samples`.
        samples: as the model saw them.
        figures: a folder that exists.
    """
    from pctransformer.visualization.figures import confusion_figure, error_gallery

    confusion_figure(evaluation.score).savefig(figures / "confusion.png", dpi=150)
    gallery = error_gallery(
        samples, evaluation.labels, evaluation.predicted, evaluation.confidence, evaluation.class_names
    )
    gallery.savefig(figures / "errors.png", dpi=150)


def draw_training(rows: list[dict[str, Any]], chosen: int, figures: Path) -> None:
    """training.png: what metrics.jsonl says, epoch by epoch."""
    from pctransformer.visualization.figures import training_figure

    training_figure(rows, chosen=chosen).savefig(figures / "training.png", dpi=150)


def autocast_type(precision: str) -> torch.dtype | None:
    """The precision of a run as `evaluate_classifier` wants it."""
    return torch.bfloat16 if precision == "bf16" else None
