"""`pctransformer compare-mixers`: is attention necessary? One backbone with each token mixer, trained alike.

OUT/settings.json       every option
OUT/log.txt             what was printed
OUT/runs/MIXER-SEED/    the run folder of each training
OUT/comparison.md       the table and what follows from it; comparison.json the same with the result of each run
OUT/comparison.png      accuracy against cost
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from tyro.conf import arg

from pctransformer.atomic import replace_file
from pctransformer.commands.terminal import print_table
from pctransformer.errors import UserError
from pctransformer.layers.mixers.registry import Family, list_mixers, mixer_info
from pctransformer.training.settings import (
    ClassificationTraining,
    DataSettings,
    SupervisedOptimization,
    Training,
    differences,
    from_json,
    to_json,
)

if TYPE_CHECKING:
    from pctransformer.evaluation.mixers import MixerResult
    from pctransformer.models.cost import Cost
    from pctransformer.training.many import Outcome
    from pctransformer.training.progress import Display
    from pctransformer.training.run_folder import RunFolder


@dataclass(frozen=True)
class Backbone:
    """What is around the mixers: `patch_mixer`, see `pctransformer info patch_mixer`."""

    dim: int = 96
    """Channels of tokens."""
    depth: int = 4
    """Blocks."""
    num_patches: int = 32
    """Tokens of a shape."""
    patch_size: int = 32
    """Points that a token is made of."""
    widths: tuple[int, int] = (16, 32)
    """Channels of the layers that make tokens of patches."""
    pool: Literal["mean", "max", "max_mean"] = "max_mean"
    """How tokens become one vector; `max_mean` is both, without which attention learns more slowly than others."""
    block: Literal["transformer", "published"] = "transformer"
    """`transformer` puts every mixer in the place of attention and leaves all else alone; `published` takes the whole
    block that a mixer was published in."""


@dataclass(frozen=True)
class Config:
    out: Path | None = None
    """Folder; it must not exist yet. By default runs/mixers-DATA, numbered."""
    resume: Path | None = None
    """Go on with the comparison in this folder, with its settings; --mixers and --seeds may be others."""
    mixers: Annotated[tuple[str, ...], arg(metavar="MIXER...")] = field(default_factory=lambda: tuple(list_mixers()))
    """What is compared."""
    seeds: Annotated[tuple[int, ...], arg(metavar="INT...")] = (0, 1, 2)
    """Each mixer is trained once with each: what differs from seed to seed is noise."""
    jobs: int = 1
    """Trainings at the same time; they share the processor's cores."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` is a GPU where there is one."""
    workers: int = 0
    """Processes of each training that prepare shapes."""
    backbone: Backbone = field(default_factory=Backbone)
    data: DataSettings = field(default_factory=lambda: DataSettings(num_points=1024))
    optimization: SupervisedOptimization = field(
        default_factory=lambda: SupervisedOptimization(epochs=8, batch_size=16, warmup_epochs=1.0, ema=0.99)
    )


def run(config: Config) -> int:
    """Train what is not trained yet, compare, print, write; 1 where a training failed."""
    from pctransformer.training.command import termination_as_interruption
    from pctransformer.training.many import is_done
    from pctransformer.training.progress import Display

    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("compare-mixers starts processes itself; call it without torchrun, and with --jobs")
    config, folder = _folder(config)
    trainings = _trainings(config, folder.path)
    costs = _costs(config)  # reads the data and makes every model: their faults show before anything is written
    _begin(config, folder)
    display = Display(folder)
    with termination_as_interruption():
        try:
            failed = _train(trainings, config.jobs, display)
        except KeyboardInterrupt:
            display.say(f"interrupted; `pctransformer compare-mixers --resume {folder.path}` goes on")
            raise
    if any(is_done(settings) for settings in trainings):
        _finish(config, folder, trainings, costs, display)
    for outcome in failed:
        display.say(f"{_describe(outcome.settings)} failed: {outcome.fault}")
    return 1 if failed else 0


# ---- before ----------------------------------------------------------------------------------------------------------
def _folder(config: Config) -> tuple[Config, RunFolder]:
    """The folder, and the options that hold in it."""
    from pctransformer.training.run_folder import RunFolder, numbered

    if config.resume is None:
        folder = RunFolder(config.out or numbered(Path("runs") / f"mixers-{Path(config.data.data).stem}"))
        folder.check_free()
    else:
        folder = RunFolder.open(config.resume)
        config = _kept(config, folder)
    for name in config.mixers:
        try:
            mixer_info(name)
        except ValueError as error:
            raise UserError(f"--mixers: {error}") from None
    for option, values in (("mixers", config.mixers), ("seeds", config.seeds)):
        if not values or len(set(values)) < len(values):
            raise UserError(
                f"--{option} must be one or more, all different, got {' '.join(map(str, values)) or 'none'}"
            )
    if config.jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {config.jobs}")
    return config, folder


def _kept(given: Config, folder: RunFolder) -> Config:
    """The options of a comparison that goes on: its own, but for what is trained and where."""
    from pctransformer.training.run_folder import SETTINGS

    try:
        kept = from_json(Config, folder.read_json(SETTINGS))
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder.path / SETTINGS} is not of a comparison, or of another version: {error}") from None
    changed = differences(given, kept)
    changes = {
        name: changed.pop(name)[0] for name in ("mixers", "seeds", "jobs", "device", "workers") if name in changed
    }
    changed.pop("resume", None)
    if changed:
        name, (ours, theirs) = next(iter(changed.items()))
        raise UserError(
            f"--{name.replace('_', '-')} {ours} was given, but {folder.path} was begun with {theirs}; all trainings of"
            " a comparison have the same. Leave it out to go on, or begin another comparison"
        )
    return dataclasses.replace(kept, **changes, out=folder.path, resume=None)


def _trainings(config: Config, path: Path) -> list[ClassificationTraining]:
    """Every mixer with the first seed, then with the next one."""
    return [
        ClassificationTraining(
            out=path / "runs" / f"{mixer}-{seed}",
            model="patch_mixer",
            model_options=_model_options(config, mixer),
            seed=seed,
            device=config.device,
            workers=config.workers,
            data=config.data,
            optimization=config.optimization,
        )
        for seed in config.seeds
        for mixer in config.mixers
    ]


def _model_options(config: Config, mixer: str) -> dict[str, Any]:
    return {"mixer": mixer, **to_json(config.backbone)}


def _costs(config: Config) -> dict[str, Cost]:
    """Of the network with each mixer."""
    import torch

    from pctransformer.models.cost import cost
    from pctransformer.training.data import training_data
    from pctransformer.training.model import make_model

    classes = len(training_data(config.data, seed=0).train.class_names)
    channels = 6 if config.data.normals else 3
    shape = torch.rand(1, config.data.eval_points, channels, generator=torch.Generator().manual_seed(0))
    costs = {}
    for mixer in config.mixers:
        options = _model_options(config, mixer)
        model = make_model("patch_mixer", options, task="classification", in_channels=channels, num_classes=classes)
        costs[mixer] = cost(model, shape)[0]
    return costs


def _begin(config: Config, folder: RunFolder) -> None:
    from pctransformer.training.run_folder import SETTINGS

    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder.path} cannot be made ({error.strerror}); give another folder with --out") from None
    folder.write_json(SETTINGS, to_json(config))


# ---- the trainings ---------------------------------------------------------------------------------------------------
def _train(trainings: Sequence[ClassificationTraining], jobs: int, display: Display) -> list[Outcome]:
    """Train; give those that failed."""
    from pctransformer.training.many import is_done, train_many
    from pctransformer.training.progress import duration
    from pctransformer.training.run_folder import RESULTS

    left = sum(not is_done(settings) for settings in trainings)
    display.say(
        f"{len(trainings)} trainings, {len(trainings) - left} of them done, {jobs} at a time: {display.folder.path}"
    )
    begun = time.perf_counter()
    outcomes: list[Outcome] = []

    def ended(outcome: Outcome) -> None:
        outcomes.append(outcome)
        assert outcome.settings.out is not None
        if outcome.fault is None:
            found = display.folder.read_json(str((outcome.settings.out / RESULTS).relative_to(display.folder.path)))
            what = f"OA {found['test']['overall_accuracy']:.4f}, {duration(found['seconds'])}"
        else:
            what = f"failed: {outcome.fault}"
        more = left - len(outcomes)
        time_left = f"; {duration((time.perf_counter() - begun) / len(outcomes) * more)} left" if more else ""
        display.say(f"{len(trainings) - more}/{len(trainings)}  {_describe(outcome.settings)}: {what}{time_left}")

    train_many(trainings, jobs, ended)
    return [outcome for outcome in outcomes if outcome.fault is not None]


def _describe(settings: Training) -> str:
    return f"{settings.model_options['mixer']}, seed {settings.seed}"


# ---- after -----------------------------------------------------------------------------------------------------------
def _result(mixer: str, cost: Cost, runs: Sequence[RunFolder]) -> MixerResult:
    """What the finished trainings with one mixer gave."""
    from pctransformer.evaluation.mixers import MixerResult
    from pctransformer.training.run_folder import RESULTS, SETTINGS

    found = [run.read_json(RESULTS) for run in runs]
    epochs = [row for run in runs for row in run.metrics()]
    return MixerResult(
        name=mixer,
        family=mixer_info(mixer).family,
        seeds=tuple(run.read_json(SETTINGS)["seed"] for run in runs),
        overall_accuracy=tuple(one["test"]["overall_accuracy"] for one in found),
        mean_class_accuracy=tuple(one["test"]["mean_class_accuracy"] for one in found),
        parameters=cost.parameters,
        multiply_adds=cost.multiply_adds,
        train_shapes_per_second=statistics.median(row["shapes_per_second"] for row in epochs),
        test_shapes_per_second=statistics.median(one["test_shapes_per_second"] for one in found),
        peak_memory_mb=max((row["peak_memory_mb"] for row in epochs if row["peak_memory_mb"]), default=None),
        seconds=statistics.median(one["seconds"] for one in found),
    )


def _finish(
    config: Config,
    folder: RunFolder,
    trainings: Sequence[ClassificationTraining],
    costs: Mapping[str, Cost],
    display: Display,
) -> None:
    """Compare, print and write."""
    from pctransformer.evaluation.comparison import Comparison, Scores
    from pctransformer.evaluation.mixers import HEADER, conclusions, table
    from pctransformer.training.many import is_done
    from pctransformer.training.run_folder import RESULTS, RunFolder, same_run
    from pctransformer.visualization.comparison import comparison_figure

    runs: dict[str, list[RunFolder]] = {}
    for settings in trainings:
        if settings.out is not None and is_done(settings):
            runs.setdefault(settings.model_options["mixer"], []).append(RunFolder(settings.out))
    results = [_result(mixer, costs[mixer], of_mixer) for mixer, of_mixer in runs.items()]
    first, *others = [run.read_json(RESULTS) for of_mixer in runs.values() for run in of_mixer]
    test_shapes, environment = first["test"]["count"], first["environment"]
    said = conclusions(results, test_shapes)
    if unlike := sorted({change for other in others for change in same_run(environment, other["environment"])}):
        said.append(f"Not all trainings ran alike: {'; '.join(unlike)}.")
    folder.write_json(
        "comparison.json",
        {
            "results": [result.as_dict() for result in results],
            "conclusions": said,
            "test_shapes": test_shapes,
            "settings": to_json(config),
            "environment": environment,
        },
    )
    replace_file(folder.path / "comparison.md", _document(config, results, said, environment).encode())
    by_family = sorted(results, key=lambda result: get_args(Family).index(result.family))
    figure = comparison_figure(
        Comparison([Scores(result.name.replace("_", " "), result.overall_accuracy) for result in by_family]),
        {
            "million multiply-adds for a shape": [result.multiply_adds / 1e6 for result in by_family],
            "training, milliseconds for a shape": [1000 / result.train_shapes_per_second for result in by_family],
        },
        [result.family for result in by_family],
        _TITLE,
        _budget(config),
    )
    figure.savefig(folder.path / "comparison.png", dpi=150)
    print()
    print_table(HEADER, table(results), right=range(2, len(HEADER)))
    display.say("\n" + "\n".join(said) + f"\ntable and figure: {folder.path / 'comparison.md'}, .json, .png")


_TITLE = "Token mixers in one backbone"


def _budget(config: Config) -> str:
    """What all mixers are given alike."""
    backbone, optimization = config.backbone, config.optimization
    return (
        f"{Path(config.data.data).stem}, {optimization.epochs} epochs, seeds {', '.join(map(str, config.seeds))};"
        f" depth {backbone.depth}, {backbone.dim} channels, {backbone.num_patches} patches of {backbone.patch_size}"
        " points"
    )


def _document(
    config: Config, results: Sequence[MixerResult], said: Sequence[str], environment: Mapping[str, Any]
) -> str:
    """comparison.md."""
    from pctransformer.evaluation.mixers import markdown

    where = environment["gpu"] or f"{environment['processor']}, {environment['threads']} threads"
    version = f"pctransformer {environment['pctransformer']}"
    version += f" ({environment['commit']})" if environment["commit"] else ""
    backbone = ", ".join(f"{name}={value}" for name, value in to_json(config.backbone).items())
    optimization = config.optimization
    lines = [
        f"# {_TITLE}",
        "",
        f"{_budget(config)}.",
        "",
        markdown(results),
        *(f"- {sentence}" for sentence in said),
        "",
        f"Backbone: `patch_mixer`, {backbone}. Training: {config.data.num_points} points, {config.data.augmentation},"
        f" {optimization.optimizer}, learning rate {optimization.lr}, batches of {optimization.batch_size}, the same"
        " for all; the epoch is chosen on held-out training shapes, the test is done once.",
        "",
        f"Measured on {where}, torch {environment['torch']}, {version}, {environment['started'][:10]}, with"
        f" `--jobs {config.jobs}`. OA is overall accuracy, mAcc the mean of classes, ± the standard"
        " deviation over seeds. Multiply-adds are of one pass for a shape. Shapes per second include their preparation;"
        " memory is the peak of the whole process, or of tensors on a GPU; minutes are those of one training.",
        "",
    ]
    return "\n".join(lines)
