"""What an evaluation leaves in a folder: figures to look at, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pctransformer.datasets import CloudDataset, Sample
from pctransformer.datasets.scans import Scan
from pctransformer.evaluation.classification import Evaluation
from pctransformer.evaluation.segmentation import PartEvaluation
from pctransformer.evaluation.semantic import SceneScore
from pctransformer.evaluation.tiles import SceneLogits
from pctransformer.heads.column_reconstruction import ColumnReconstruction
from pctransformer.heads.reconstruction import Reconstruction
from pctransformer.training.settings import OptimizationSettings


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
        samples, evaluation.labels, evaluation.predicted, evaluation.confidence, evaluation.class_names, up=samples.up
    )
    gallery.savefig(figures / "errors.png", dpi=150)


def draw_parts(evaluation: PartEvaluation, samples: CloudDataset, figures: Path) -> None:
    """classes.png with the IoU of each class, and parts.png: of each class one shape, its true and its predicted parts.

    Args:
        evaluation: of `samples`.
        samples: as the model saw them.
        figures: a folder that exists.
    """
    from pctransformer.visualization.segmentation import class_figure, part_gallery

    class_figure(evaluation.score).savefig(figures / "classes.png", dpi=150)
    part_gallery(samples, evaluation).savefig(figures / "parts.png", dpi=150)


class SceneFigures:
    """What an evaluation of scenes leaves: confusion.png, and scene-1.png and so on with true and predicted classes.

    Args:
        folder: that exists.
        class_names: of the points.
        limit: scenes that are drawn, the first ones.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], limit: int = 3) -> None:
        self.folder, self.class_names, self.limit, self.count = folder, class_names, limit, 0

    def add(self, sample: Sample, found: SceneLogits) -> None:
        """Draw a scene; the `seen` of `evaluate_scenes`."""
        from pctransformer.visualization.scenes import scene_figure

        self.count += 1
        if self.count > self.limit:
            return
        true = None if sample.point_labels is None else sample.point_labels.numpy()
        name = Path(sample.name).name
        figure = scene_figure(sample.xyz.numpy(), found.labels.numpy(), self.class_names, name, true=true)
        figure.savefig(self.folder / f"scene-{self.count}.png", dpi=110)

    def finish(self, score: SceneScore) -> None:
        """Draw the confusion matrix of all scenes."""
        from pctransformer.visualization.figures import confusion_figure

        confusion_figure(score).savefig(self.folder / "confusion.png", dpi=150)


def draw_training(rows: list[dict[str, Any]], chosen: int, figures: Path) -> None:
    """training.png: what metrics.jsonl says, epoch by epoch."""
    from pctransformer.visualization.figures import training_figure

    training_figure(rows, chosen=chosen).savefig(figures / "training.png", dpi=150)


def draw_reconstruction(samples: Sequence[Sample], made_up: Reconstruction, figures: Path) -> None:
    """reconstruction.png: clouds, what a model saw of each, and what it made up.

    Args:
        samples: as the model saw them, points alone.
        made_up: of these, in this order.
        figures: a folder that exists.
    """
    from pctransformer.visualization.reconstruction import reconstruction_figure

    figure = reconstruction_figure(
        [sample.xyz for sample in samples],
        [points.flatten(0, 1) for points in made_up.visible.cpu()],
        [points.flatten(0, 1) for points in made_up.predicted_xyz.cpu()],
        [sample.name for sample in samples],
    )
    figure.savefig(figures / "reconstruction.png", dpi=150)


def draw_scans_made_up(scans: Sequence[Scan], made_up: ColumnReconstruction, figures: Path) -> None:
    """reconstruction.png: scans from above, what a model saw of each, what was hidden, and what it made up.

    Args:
        scans: as the model saw them.
        made_up: of these, in this order.
        figures: a folder that exists.
    """
    from pctransformer.visualization.scan_reconstruction import ScanMadeUp, scan_reconstruction_figure

    true = made_up.true
    cloud = true.hidden.nonzero()[:, 0].cpu()
    chance = made_up.occupied_logits.float().sigmoid().cpu()
    shown = []
    for i, (scan, visible) in enumerate(zip(scans, true.visible.split())):
        own = (cloud == i).to(true.hidden.device)
        hidden = (true.points + true.centers[:, None])[own].flatten(0, 1).cpu()
        drawn = made_up.predicted_xyz[own].flatten(0, 1).float().cpu()
        shown.append(ScanMadeUp(scan.name, *(part.numpy() for part in (visible.xyz.cpu(), hidden, drawn, chance[i]))))
    (low_x, low_y, _), (high_x, high_y, _) = true.grid.low, true.grid.high
    figure = scan_reconstruction_figure(shown, range=(low_x, low_y, high_x, high_y))
    figure.savefig(figures / "reconstruction.png", dpi=110)


def as_trained(optimization: OptimizationSettings, device: torch.device) -> dict[str, Any]:
    """The arguments with which evaluations treat a model as its training does, once it is on that device."""
    dtype = autocast_type(optimization.precision)
    return {"batch_size": optimization.batch_size, "device": device, "dtype": dtype}


def autocast_type(precision: str) -> torch.dtype | None:
    """The precision of a run as `torch.autocast` wants it; None for none."""
    return torch.bfloat16 if precision == "bf16" else None
