"""`pctransformer robustness`: trained classifiers on corrupted shapes, 7 corruptions in 5 severities."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from pctransformer.commands.terminal import console
from pctransformer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pctransformer.commands.trained import Trained
    from pctransformer.training.settings import ClassificationTraining, DataSettings


@dataclass(frozen=True)
class Config:
    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN|CHECKPOINT...", help_behavior_hint="(required)")]]
    """Folders of runs, whose best checkpoints are taken, or checkpoint files; all with the same classes."""
    baseline: Annotated[Path | None, arg(metavar="RUN|CHECKPOINT")] = None
    """What mCE is relative to; evaluated, too. By default the first of several runs."""
    data: str | None = None
    """Other data than the runs': `generated`, a .npz or a folder; its test part is corrupted."""
    eval_points: int | None = None
    """Points of a shape before it is corrupted, instead of as many as the runs were evaluated with."""
    seed: int = 0
    """Of the corruptions: models tested with the same seed see the same clouds."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` is a GPU where there is one."""
    out: Path | None = None
    """Folder for results.json and figures; it must not exist yet. By default RUN/robustness of the first, numbered."""
    json: bool = False
    """Print JSON instead of a table."""


def run(config: Config) -> int:
    """Evaluate all runs on all corruptions, print, write."""
    from pctransformer.commands.trained import Trained, check_free, make_folder
    from pctransformer.evaluation.robustness import Robustness, comparison_table, evaluate_robustness
    from pctransformer.training import data
    from pctransformer.training.settings import ClassificationTraining
    from pctransformer.visualization.robustness import corruption_gallery, robustness_figure

    if config.seed < 0:
        raise UserError(f"--seed must be 0 or more, got {config.seed}")
    paths = _paths(config)
    check_free(config.out)
    baseline = config.baseline or (paths[0] if len(paths) > 1 else None)
    trained = {str(path): Trained.read(path, ClassificationTraining) for path in paths}
    of_data = _data(config, trained)
    samples = data.open_split(of_data, "test")
    for one in trained.values():
        one.check_names(samples, of_data.data)

    found: dict[str, Robustness] = {}
    for number, (name, one) in enumerate(trained.items(), 1):
        own = dataclasses.replace(of_data, normals=one.settings.data.normals)
        model, how = one.on(config.device)
        clean = samples.with_transform(data.evaluation_transform(own))
        with _bar(f"{name} ({number} of {len(trained)})") as step:
            found[name] = evaluate_robustness(model, clean, seed=config.seed, after_each=step, **how)

    reference = None if baseline is None else found[str(baseline)]
    result = {
        "data": of_data.data,
        "split": "test",
        "eval_points": of_data.eval_points,
        "seed": config.seed,
        "baseline": None if baseline is None else str(baseline),
        "models": [
            {
                "name": name,
                "checkpoint": str(trained[name].checkpoint.path),
                "epoch": trained[name].checkpoint.about["epoch"],
                **one.as_dict(reference),
            }
            for name, one in found.items()
        ],
    }
    folder = make_folder(config.out, trained[str(paths[0])].checkpoint.path, "robustness")
    text = json.dumps(result, indent=1) + "\n"
    (folder / "results.json").write_text(text)
    robustness_figure(found).savefig(folder / "robustness.png", dpi=150)
    shown = samples.with_transform(data.evaluation_transform(of_data))[0]
    corruption_gallery(shown, seed=config.seed).savefig(folder / "corruptions.png", dpi=150)
    if config.json:
        print(text, end="")
        return 0
    out = console()
    if baseline is None:
        (only,) = found.values()
        out.print(only.table())
        out.print(f"\nmOA {only.mean_overall_accuracy:.4f}  ({len(samples)} shapes, each corrupted in 35 ways)")
    else:
        out.print(comparison_table(found, str(baseline)))
        out.print(f"\nmCE and RmCE are relative to {baseline}  ({len(samples)} shapes, each corrupted in 35 ways)")
    out.print(f"results and figures: {folder}")
    return 0


def _paths(config: Config) -> list[Path]:
    """All that is evaluated, the baseline last unless it is one of the runs."""
    paths = list(dict.fromkeys(config.runs))
    if not paths:
        raise UserError("robustness of what? give runs of `pctransformer train classification`, or checkpoint files")
    if config.baseline is not None and config.baseline not in paths:
        paths.append(config.baseline)
    return paths


def _data(config: Config, trained: dict[str, Trained[ClassificationTraining]]) -> DataSettings:
    """One test set for all models, with normals if any of them wants some.

    Raises:
        UserError: the runs were evaluated on different shapes, and nobody says on which to test.
    """
    settings = [one.settings.data for one in trained.values()]
    for name, given in (("data", config.data), ("eval_points", config.eval_points)):
        values = list(dict.fromkeys(getattr(one, name) for one in settings))
        if given is None and len(values) > 1:
            raise UserError(
                f"the runs were evaluated with --{name.replace('_', '-')} {' and '.join(map(str, values))}, and models"
                f" can be compared only on the same shapes; say on which, with --{name.replace('_', '-')}"
            )
    changes: dict[str, Any] = {"data": config.data, "eval_points": config.eval_points}
    changed = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(settings[0], normals=any(one.normals for one in settings), **changed)


@contextmanager
def _bar(title: str) -> Iterator[Callable[[], None]]:
    """A bar over the test sets of a model, if somebody watches; it moves when the function is called."""
    from rich.console import Console
    from rich.progress import Progress

    from pctransformer.datasets.corruptions import CORRUPTIONS, SEVERITIES

    err = Console(stderr=True)
    with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(title, total=1 + len(CORRUPTIONS) * len(SEVERITIES))
        yield lambda: progress.advance(task)
