"""`pctransformer evaluate`: a trained model on labelled shapes, scenes or scans: its run's test set, or other data."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from pctransformer.commands.terminal import console
from pctransformer.errors import UserError

if TYPE_CHECKING:
    from pctransformer.evaluation.classification import Evaluation
    from pctransformer.evaluation.segmentation import PartEvaluation


@dataclass(frozen=True)
class Config:
    run: Positional[Annotated[Path, arg(metavar="RUN|CHECKPOINT")]]
    """The folder of a run, whose best checkpoint is taken, or a checkpoint file."""
    data: str | None = None
    """Other data than the run's: `generated`, a .npz or a folder; its classes must be the model's."""
    split: Literal["test", "train", "trainval"] = "test"
    """Part of the data. For a detector `test` is the val of KITTI, whose labels are known, `trainval` all of it."""
    eval_points: int | None = None
    """Points of a shape, instead of as many as the run was evaluated with."""
    votes: int = 0
    """Of a classifier, also average over so many randomly scaled copies (Liu et al. 2019); reported apart from the
    plain result."""
    nms: Annotated[float | None, arg(metavar="IOU")] = None
    """Of a detector: overlap seen from above, beyond which the box that scores less is dropped, whatever its class; 1:
    all stay. By default that of its head: 0.01 for anchors and centres, 1 for queries, which need no suppression."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` is a GPU where there is one."""
    out: Path | None = None
    """Folder for results.json and figures; it must not exist yet. By default RUN/evaluation, numbered."""
    json: bool = False
    """Print JSON instead of a table."""


def run(config: Config) -> int:
    """Evaluate, print, write."""
    from pctransformer.commands.trained import Trained, check_free, make_folder
    from pctransformer.datasets.transforms import Compose, RandomScale
    from pctransformer.evaluation.classification import evaluate_classifier, vote
    from pctransformer.evaluation.segmentation import PartEvaluation, evaluate_segmenter
    from pctransformer.training import checkpoint, data
    from pctransformer.training.report import draw_evaluation, draw_parts
    from pctransformer.training.settings import (
        ClassificationTraining,
        DetectionTraining,
        PartSegmentationTraining,
        Pretraining,
        SemanticSegmentationTraining,
    )

    if config.votes < 0:
        raise UserError(f"--votes must be 0 or more, got {config.votes}")
    if config.nms is not None and not 0 <= config.nms <= 1:
        raise UserError(f"--nms is an overlap from 0 to 1, got {config.nms}")
    best = checkpoint.read(config.run)
    if config.nms is not None and best.about.get("task") != DetectionTraining.task:
        raise UserError(f"--nms is for detectors; the task of {best.path} is {best.about.get('task')!r}")
    if best.about.get("task") == Pretraining.task:
        raise UserError(
            f"{best.path} was pretrained without labels, so that there is nothing to be right about; `few-shot` says"
            " what its features of shapes are worth, `train` with --pretrained teaches it more"
        )
    if best.about.get("task") == SemanticSegmentationTraining.task:
        from pctransformer.commands import scenes

        return scenes.evaluate(config, best)
    if best.about.get("task") == DetectionTraining.task:
        from pctransformer.commands import detections

        return detections.evaluate(config, best)
    if config.split == "trainval":
        raise UserError("--split trainval is for detectors")
    check_free(config.out)
    trained = Trained.read(config.run, ClassificationTraining, PartSegmentationTraining)
    of_parts = isinstance(trained.settings, PartSegmentationTraining)
    if config.votes and of_parts:
        raise UserError(f"--votes is for classifiers; {trained.checkpoint.path} tells parts")
    changes: dict[str, Any] = {"data": config.data, "eval_points": config.eval_points}
    changed = {name: value for name, value in changes.items() if value is not None}
    of_data = dataclasses.replace(trained.settings.data, **changed)
    samples = data.open_split(of_data, config.split)
    trained.check_names(samples, of_data.data)

    model, how = trained.on(config.device)
    transform = data.evaluation_transform(of_data)
    samples = samples.with_transform(transform)
    plain: Evaluation | PartEvaluation
    plain = evaluate_segmenter(model, samples, **how) if of_parts else evaluate_classifier(model, samples, **how)
    result = {
        "checkpoint": str(trained.checkpoint.path),
        "epoch": trained.checkpoint.about["epoch"],
        "data": of_data.data,
        "split": config.split,
        "eval_points": of_data.eval_points,
        "result": plain.as_dict(),
    }
    voted = None
    if config.votes:
        changing = samples.with_transform(Compose((transform, RandomScale(0.8, 1.25))))
        voted = vote(model, changing, config.votes, **how)
        result["with_votes"] = voted.as_dict()

    folder = make_folder(config.out, trained.checkpoint.path, "evaluation")
    text = json.dumps(result, indent=1) + "\n"
    (folder / "results.json").write_text(text)
    if isinstance(plain, PartEvaluation):
        draw_parts(plain, samples, folder)
    else:
        draw_evaluation(plain, samples, folder)
    if config.json:
        print(text, end="")
        return 0
    out = console()
    out.print(plain.score.table())
    out.print(f"\n{_line(plain)}  ({len(samples)} shapes, {config.split})")
    if voted is not None:
        out.print(f"{_line(voted)}  ({config.votes} votes, not comparable with the line above)")
    out.print(f"results and figures: {folder}")
    return 0


def _line(evaluation: Evaluation | PartEvaluation) -> str:
    from pctransformer.evaluation.segmentation import PartScore

    score = evaluation.score
    if isinstance(score, PartScore):
        numbers = {"instance mIoU": score.instance_mean_iou, "class mIoU": score.class_mean_iou}
    else:
        numbers = {"OA": score.overall_accuracy, "mAcc": score.mean_class_accuracy}
    return "  ".join(f"{name} {'-' if math.isnan(number) else f'{number:.4f}'}" for name, number in numbers.items())
