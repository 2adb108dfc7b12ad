"""What comparisons of mixers share: one network with each of them, trained alike in a process of its own, then a table.

OUT/settings.json       every option
OUT/log.txt             what was printed
OUT/runs/MIXER-SEED/    the run folder of each training
OUT/comparison.md       the tables and what follows from them; comparison.json the same with the result of each run
OUT/comparison.png      scores against cost

`commands/compare_mixers.py` and `commands/compare_grid_mixers.py` say what network it is, and on what data.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeVar

from tyro.conf import arg

from pctransformer.atomic import replace_file
from pctransformer.commands.terminal import print_table
from pctransformer.errors import UserError
from pctransformer.training.serialization import to_json
from pctransformer.training.settings import Training

if TYPE_CHECKING:
    from pctransformer.evaluation.mixers import MixerResult, Terms
    from pctransformer.models.cost import Cost
    from pctransformer.training.many import Outcome
    from pctransformer.training.progress import Display
    from pctransformer.training.run_folder import RunFolder


@dataclass(frozen=True)
class Options:
    """Options that every comparison has."""

    out: Path | None = None
    """Folder; it must not exist yet. By default one in `runs`, named after what is compared and the data, numbered."""
    resume: Path | None = None
    """Go on with the comparison in this folder, with its settings; --mixers, --seeds, --jobs, --device and --workers
    may be others."""
    mixers: Annotated[tuple[str, ...], arg(metavar="MIXER...")] = ()
    """What is compared."""
    seeds: Annotated[tuple[int, ...], arg(metavar="INT...")] = (0, 1, 2)
    """Each mixer is trained once with each: what differs from seed to seed is noise."""
    jobs: int = 1
    """Trainings at the same time; they share the processor's cores."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` is a GPU where there is one."""
    workers: int = 0
    """Processes of each training that prepare what it is shown."""


Config = TypeVar("Config", bound=Options)


class MixerComparison(ABC, Generic[Config]):
    """A comparison of mixers: its network, its data, and what its numbers are.

    `run` does the work; what is abstract is told by each comparison. Every training is given its mixer in
    `model_options["mixer"]`.
    """

    command: ClassVar[str]
    """The command's name."""
    stem: ClassVar[str]
    """What names of folders begin with."""
    title: ClassVar[str]
    families: ClassVar[tuple[str, ...]]
    """Of mixers, in the order of the figure."""

    @property
    @abstractmethod
    def terms(self) -> Terms:
        """What the numbers are."""

    @abstractmethod
    def family(self, mixer: str) -> str:
        """Of a mixer.

        Raises:
            ValueError: there is no such mixer.
        """

    @abstractmethod
    def data_name(self, config: Config) -> str:
        """What is trained on, in a word."""

    @abstractmethod
    def costs(self, config: Config) -> dict[str, Cost]:
        """Of the network with each mixer. Nothing is written before this, so that it should find the user's faults.

        Raises:
            UserError: the data, or a network, cannot be had.
        """

    def prepare(self, config: Config, folder: Path, display: Display) -> Config:
        """The options with which trainings run, once what they all need is in the folder."""
        return config

    @abstractmethod
    def training(self, config: Config, mixer: str, seed: int, out: Path) -> Training:
        """The training with a mixer."""

    @abstractmethod
    def scores(self, tested: Mapping[str, Any]) -> dict[str, float]:
        """By the keys of `terms.columns`, shares of 1, from the "test" of a run's results.json."""

    def class_scores(self, tested: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """The same of each class, by the keys of `terms.class_columns`."""
        return {}

    @abstractmethod
    def in_short(self, tested: Mapping[str, Any]) -> str:
        """The main numbers of one training, for a line."""

    @abstractmethod
    def budget(self, config: Config) -> str:
        """What all mixers are given alike, in a line."""

    @abstractmethod
    def notes(self, config: Config, run: RunFolder) -> tuple[str, str]:
        """Network and training of one of the runs; and what the table's columns are. Sentences for comparison.md."""

    # ---- the command -------------------------------------------------------------------------------------------------
    def run(self, config: Config) -> int:
        """Train what is not trained yet, compare, print, write; 1 where a training failed."""
        from pctransformer.training.command import termination_as_interruption
        from pctransformer.training.many import is_done
        from pctransformer.training.progress import Display

        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise UserError(f"{self.command} starts processes itself; call it without torchrun, and with --jobs")
        config, folder = self._folder(config)
        costs = self.costs(config)
        _begin(config, folder)
        display = Display(folder)
        with termination_as_interruption():
            try:
                trainings = self._trainings(self.prepare(config, folder.path, display), folder.path)
                failed = self._train(trainings, config.jobs, display)
            except KeyboardInterrupt:
                display.say(f"interrupted; `pctransformer {self.command} --resume {folder.path}` goes on")
                raise
        if any(is_done(settings) for settings in trainings):
            self._finish(config, folder, trainings, costs, display)
        for outcome in failed:
            display.say(f"{_describe(outcome.settings)} failed: {outcome.fault}")
        return 1 if failed else 0

    # ---- before ------------------------------------------------------------------------------------------------------
    def _folder(self, config: Config) -> tuple[Config, RunFolder]:
        """The folder, and the options that hold in it."""
        from pctransformer.training.resuming import refuse_changes
        from pctransformer.training.run_folder import RunFolder, numbered

        if config.resume is None:
            folder = RunFolder(config.out or numbered(Path("runs") / f"{self.stem}-{self.data_name(config)}"))
            folder.check_free()
        else:
            refuse_changes(
                config,
                free=("mixers", "seeds", "jobs", "device", "workers"),
                reason="; all trainings of a comparison have the same. Leave it out to go on, or begin another"
                " comparison",
            )
            folder = RunFolder.open(config.resume)
            config = dataclasses.replace(config, out=folder.path, resume=None)
        for name in config.mixers:
            try:
                self.family(name)
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

    def _trainings(self, config: Config, path: Path) -> list[Training]:
        """Every mixer with the first seed, then with the next one."""
        return [
            self.training(config, mixer, seed, path / "runs" / f"{mixer}-{seed}")
            for seed in config.seeds
            for mixer in config.mixers
        ]

    # ---- the trainings -----------------------------------------------------------------------------------------------
    def _train(self, trainings: Sequence[Training], jobs: int, display: Display) -> list[Outcome]:
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
                what = f"{self.in_short(found['test'])}, {duration(found['seconds'])}"
            else:
                what = f"failed: {outcome.fault}"
            more = left - len(outcomes)
            time_left = f"; {duration((time.perf_counter() - begun) / len(outcomes) * more)} left" if more else ""
            display.say(f"{len(trainings) - more}/{len(trainings)}  {_describe(outcome.settings)}: {what}{time_left}")

        train_many(trainings, jobs, ended)
        return [outcome for outcome in outcomes if outcome.fault is not None]

    # ---- after -------------------------------------------------------------------------------------------------------
    def _result(self, mixer: str, cost: Cost, runs: Sequence[RunFolder]) -> MixerResult:
        """What the finished trainings with one mixer gave."""
        from pctransformer.evaluation.mixers import MixerResult
        from pctransformer.training.run_folder import RESULTS, SETTINGS

        found = [run.read_json(RESULTS) for run in runs]
        epochs = [row for run in runs for row in run.metrics()]
        by_class = [self.class_scores(one["test"]) for one in found]
        return MixerResult(
            name=mixer,
            family=self.family(mixer),
            seeds=tuple(run.read_json(SETTINGS)["seed"] for run in runs),
            scores=_side_by_side([self.scores(one["test"]) for one in found]),
            class_scores={name: _side_by_side([one[name] for one in by_class]) for name in by_class[0]},
            parameters=cost.parameters,
            multiply_adds=cost.multiply_adds,
            train_samples_per_second=statistics.median(row["shapes_per_second"] for row in epochs),
            test_samples_per_second=statistics.median(one[f"test_{self.terms.sample}s_per_second"] for one in found),
            peak_memory_mb=max((row["peak_memory_mb"] for row in epochs if row["peak_memory_mb"]), default=None),
            seconds=statistics.median(one["seconds"] for one in found),
        )

    def _finish(
        self,
        config: Config,
        folder: RunFolder,
        trainings: Sequence[Training],
        costs: Mapping[str, Cost],
        display: Display,
    ) -> None:
        """Compare, print and write."""
        from pctransformer.evaluation.mixers import class_table, conclusions, table
        from pctransformer.training.many import is_done
        from pctransformer.training.run_folder import RESULTS, RunFolder, same_run

        runs: dict[str, list[RunFolder]] = {}
        for settings in trainings:
            if settings.out is not None and is_done(settings):
                runs.setdefault(settings.model_options["mixer"], []).append(RunFolder(settings.out))
        results = [self._result(mixer, costs[mixer], of_mixer) for mixer, of_mixer in runs.items()]
        all_runs = [run for of_mixer in runs.values() for run in of_mixer]
        first, *others = [run.read_json(RESULTS) for run in all_runs]
        count, environment = first["test"]["count"], first["environment"]
        said = conclusions(results, self.terms, count)
        if unlike := sorted({change for other in others for change in same_run(environment, other["environment"])}):
            said.append(f"Not all trainings ran alike: {'; '.join(unlike)}.")
        folder.write_json(
            "comparison.json",
            {
                "results": [result.as_dict(self.terms) for result in results],
                "conclusions": said,
                f"test_{self.terms.sample}s": count,
                "settings": to_json(config),
                "environment": environment,
            },
        )
        document = self._document(config, results, said, all_runs[0], environment)
        replace_file(folder.path / "comparison.md", document.encode())
        self._draw(config, results, folder.path / "comparison.png")
        header, rows = table(results, self.terms)
        print()
        print_table(header, rows, right=range(2, len(header)))
        if (by_class := class_table(results, self.terms)) is not None:
            print()
            print_table(*by_class, right=range(1, len(by_class[0])))
        display.say("\n" + "\n".join(said) + f"\ntable and figure: {folder.path / 'comparison.md'}, .json, .png")

    def _draw(self, config: Config, results: Sequence[MixerResult], file: Path) -> None:
        from pctransformer.evaluation.comparison import Comparison, Scores
        from pctransformer.visualization.comparison import comparison_figure

        by_family = sorted(results, key=lambda result: self.families.index(result.family))
        scores = [result.by(self.terms) for result in by_family]
        sample = self.terms.sample
        figure = comparison_figure(
            Comparison([Scores(one.name.replace("_", " "), one.values) for one in scores]),
            {
                f"million multiply-adds for a {sample}": [result.multiply_adds / 1e6 for result in by_family],
                f"training, milliseconds for a {sample}": [
                    1000 / result.train_samples_per_second for result in by_family
                ],
            },
            [result.family for result in by_family],
            self.title,
            self.budget(config),
            f"{self.terms.score.split(' ', 1)[1]}, %",
        )
        figure.savefig(file, dpi=150)

    def _document(
        self,
        config: Config,
        results: Sequence[MixerResult],
        said: Sequence[str],
        run: RunFolder,
        environment: Mapping[str, Any],
    ) -> str:
        """comparison.md."""
        from pctransformer.evaluation.mixers import class_table, markdown, table

        where = environment["gpu"] or f"{environment['processor']}, {environment['threads']} threads"
        version = f"pctransformer {environment['pctransformer']}"
        version += f" ({environment['commit']})" if environment["commit"] else ""
        by_class = class_table(results, self.terms)
        trained, columns = self.notes(config, run)
        sample = self.terms.sample
        lines = [
            f"# {self.title}",
            "",
            f"{self.budget(config)}.",
            "",
            markdown(*table(results, self.terms), words=2),
            *([markdown(*by_class)] if by_class is not None else []),
            *(f"- {sentence}" for sentence in said),
            "",
            trained,
            "",
            f"Measured on {where}, torch {environment['torch']}, {version}, {environment['started'][:10]}, with"
            f" `--jobs {config.jobs}`. {columns}, ± the standard deviation over seeds. Multiply-adds are of one pass"
            f" for a {sample}. {sample.capitalize()}s per second include their preparation; memory is the peak of the"
            " whole process, or of tensors on a GPU; minutes are those of one training.",
            "",
        ]
        return "\n".join(lines)


def _begin(config: Options, folder: RunFolder) -> None:
    from pctransformer.training.run_folder import SETTINGS

    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder.path} cannot be made ({error.strerror}); give another folder with --out") from None
    folder.write_json(SETTINGS, to_json(config))


def _describe(settings: Training) -> str:
    return f"{settings.model_options['mixer']}, seed {settings.seed}"


def _side_by_side(scores: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, ...]]:
    """Of each key, the values of all trainings."""
    return {key: tuple(one[key] for one in scores) for key in scores[0]}
