"""`pctransformer evaluate`: a trained classifier on labelled shapes: the test set of its run, or any other data."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from pctransformer.commands.terminal import console
from pctransformer.errors import UserError


@dataclass(frozen=True)
class Config:
    run: Positional[Annotated[Path, arg(metavar="RUN|CHECKPOINT")]]
    """The folder of a run, whose best checkpoint is taken, or a checkpoint file."""
    data: str | None = None
    """Other data than the run's: `generated`, a .npz or a folder; its classes must be the model's."""
    split: Literal["test", "train"] = "test"
    """Part of the data."""
    eval_points: int | None = None
    """Points of a shape, instead of as many as the run was evaluated with."""
    votes: int = 0
    """Also average over so many randomly scaled copies (Liu et al. 2019); reported apart from the plain result."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` is a GPU where there is one."""
    out: Path | None = None
    """Folder for results.json and figures; it must not exist yet. By default RUN/evaluation, numbered."""
    json: bool = False
    """Print JSON instead of a table."""


def run(config: Config) -> int:
    """Evaluate, print, write."""
    from pctransformer.datasets.transforms import Compose, RandomScale
    from pctransformer.evaluation.classification import evaluate_classifier, vote
    from pctransformer.training import checkpoint, data
    from pctransformer.training.distributed import choose_device
    from pctransformer.training.report import autocast_type, draw_evaluation
    from pctransformer.training.run_folder import numbered
    from pctransformer.training.settings import ClassificationTraining

    if config.votes < 0:
        raise UserError(f"--votes must be 0 or more, got {config.votes}")
    best = checkpoint.read(config.run)
    if best.about.get("task") != "classification":
        raise UserError(f"{best.path} is no classifier: its task is {best.about.get('task')!r}")
    settings = best.settings(ClassificationTraining)
    changes: dict[str, Any] = {"data": config.data, "eval_points": config.eval_points}
    changed = {name: value for name, value in changes.items() if value is not None}
    of_data = dataclasses.replace(settings.data, **changed)
    samples = data.open_split(of_data, config.split)
    _check_classes(best.about["class_names"], samples.class_names, of_data.data)
    folder = _folder(config)

    transform = data.evaluation_transform(of_data)
    device = choose_device(config.device)
    model = best.build_model().to(device)
    how: dict[str, Any] = {
        "batch_size": settings.optimization.batch_size,
        "device": device,
        "dtype": autocast_type(settings.optimization.precision),
    }
    samples = samples.with_transform(transform)
    plain = evaluate_classifier(model, samples, **how)
    result = {
        "checkpoint": str(best.path),
        "epoch": best.about["epoch"],
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

    folder = folder or numbered(checkpoint.folder_of(best.path) / "evaluation")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}); give another folder with --out") from None
    text = json.dumps(result, indent=1) + "\n"
    (folder / "results.json").write_text(text)
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


def _line(evaluation: Any) -> str:
    score = evaluation.score
    macc = score.mean_class_accuracy
    return f"OA {score.overall_accuracy:.4f}  mAcc {'-' if math.isnan(macc) else f'{macc:.4f}'}"


def _folder(config: Config) -> Path | None:
    """Where results go, if that was said; looked at before the work is done."""
    if config.out is not None and config.out.exists():
        raise UserError(f"{config.out} exists already and is not overwritten; give another folder with --out")
    return config.out


def _check_classes(trained: list[str], found: tuple[str, ...], source: str) -> None:
    if tuple(trained) == found:
        return
    unknown = sorted(set(found) - set(trained))
    what = f"{', '.join(unknown[:5])} are not among them" if unknown else "they are others, or in another order"
    raise UserError(
        f"the model knows {len(trained)} classes, {', '.join(trained[:5])}{', ...' if len(trained) > 5 else ''}, and"
        f" {source} has {len(found)}: {what}. Evaluation needs the same classes in the same order; train with"
        " --pretrained to teach it others"
    )
