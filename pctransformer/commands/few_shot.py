"""`pctransformer few-shot`: how well a trained or pretrained model's features do with a handful of labels."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from pctransformer.commands.terminal import print_table
from pctransformer.errors import UserError

if TYPE_CHECKING:
    from pctransformer.training.checkpoint import Checkpoint
    from pctransformer.training.settings import DataSettings

PROTOCOL = "frozen features, logistic regression; shots from the training part, queries from the test part"


@dataclass(frozen=True)
class Config:
    run: Positional[Annotated[Path, arg(metavar="RUN|CHECKPOINT")]]
    """The folder of a run, of pretraining or of classification, whose best checkpoint is taken, or a checkpoint."""
    data: str | None = None
    """Labelled shapes: `generated`, a .npz or a folder. By default the run's, if it is one."""
    eval_points: int | None = None
    """Points of a shape, instead of as many as the run was evaluated with."""
    ways: tuple[int, ...] = (5, 10)
    """Numbers of classes."""
    shots: tuple[int, ...] = (10, 20)
    """Numbers of shapes of each class to learn from."""
    queries: int = 20
    """Shapes of each class to classify."""
    trials: int = 10
    """How often classes and shapes are drawn."""
    seed: int = 0
    """Of the draw."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` is a GPU where there is one."""
    out: Path | None = None
    """Folder for results.json; it must not exist yet. By default RUN/few-shot, numbered."""
    json: bool = False
    """Print JSON instead of a table."""


def run(config: Config) -> int:
    """Make features once, try every number of ways with every number of shots, print, write."""
    from pctransformer.commands.trained import check_free, make_folder
    from pctransformer.evaluation.classification import predict_logits
    from pctransformer.evaluation.few_shot import few_shot
    from pctransformer.models.linear_probe import PooledTokens
    from pctransformer.training import checkpoint, data
    from pctransformer.training.distributed import choose_device

    if config.seed < 0:
        raise UserError(f"--seed must be 0 or more, got {config.seed}")
    check_free(config.out)
    best = checkpoint.read(config.run)
    of_data = _data(config, best)
    device = choose_device(config.device)
    model = PooledTokens(best.build_model()).to(device)
    transform = data.evaluation_transform(of_data)
    parts = [data.open_split(of_data, split).with_transform(transform) for split in ("train", "test")]
    of_training, of_test = ((predict_logits(model, part, device=device), part.labels) for part in parts)
    try:
        scores = [
            few_shot(
                *of_training, *of_test,
                ways=ways, shots=shots, queries=config.queries, trials=config.trials, seed=config.seed,
            )
            for ways in config.ways
            for shots in config.shots
        ]  # fmt: skip
    except ValueError as error:
        raise UserError(f"{of_data.data}: {error}") from None
    result = {
        "checkpoint": str(best.path),
        "epoch": best.about["epoch"],
        "data": of_data.data,
        "eval_points": of_data.eval_points,
        "seed": config.seed,
        "protocol": PROTOCOL,
        "results": [score.as_dict() for score in scores],
    }
    folder = make_folder(config.out, best.path, "few-shot")
    text = json.dumps(result, indent=1) + "\n"
    (folder / "results.json").write_text(text)
    if config.json:
        print(text, end="")
        return 0
    rows = [
        (f"{score.ways} ways, {score.shots} shots", f"{100 * score.mean:.1f}", "" if score.std is None else
         f"\u00b1 {100 * score.std:.1f}")
        for score in scores
    ]  # fmt: skip
    print_table(("", "accuracy %", ""), rows, right=(1,))
    print(f"\n{config.trials} trials, {config.queries} queries of each class, {of_data.data}; {PROTOCOL}")
    print(f"results: {folder / 'results.json'}")
    return 0


def _data(config: Config, best: Checkpoint) -> DataSettings:
    """Where labelled shapes come from, seen as the run sees shapes.

    Raises:
        UserError: the run cannot say it alone, or gives no features of clouds.
    """
    from pctransformer.models.registry import pretrained_model
    from pctransformer.training.settings import ClassificationTraining, DataSettings, Pretraining

    task = best.about.get("task")
    if task == "classification":
        of_data = best.settings(ClassificationTraining).data
    elif task == "pretraining" and pretrained_model(best.about["model"]["name"]).task == "classification":
        theirs = best.settings(Pretraining).data
        if config.data is None and len(theirs.data) > 1:
            raise UserError(f"{best.path} was pretrained on {', '.join(theirs.data)}; say with --data what to classify")
        of_data = DataSettings(
            data=theirs.data[0],
            num_points=theirs.num_points,
            eval_points=theirs.num_points,
            num_shapes=theirs.num_shapes,
        )
    else:
        what = "pretraining on scans" if task == "pretraining" else task
        raise UserError(
            f"{best.path} was trained for {what}; few-shot wants a model of classification or pretraining on shapes"
        )
    changes: dict[str, Any] = {"data": config.data, "eval_points": config.eval_points}
    return dataclasses.replace(of_data, **{name: value for name, value in changes.items() if value is not None})
