"""What a comparison of mixers says: tables, and sentences that follow from their numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pctransformer.evaluation.comparison import Comparison, Scores

ATTENTION = "attention"
WITHOUT_ATTENTION = ("MLP", "convolution", "recurrent", "not learnt")
"""Families of mixers, see `MixerInfo` and `GridMixerInfo` of `pctransformer.layers`; external attention is between the
two."""


@dataclass(frozen=True)
class Terms:
    """What the numbers of a comparison are, in words.

    Attributes:
        score: what mixers are compared by, with its article.
        scores: several of these.
        sample: what goes through the network at once, a shape or a scan; several have an s.
        columns: key of `MixerResult.scores` -> header in the table; of the first one all sentences speak.
        class_columns: key of the scores of a class -> what its header says after the class's name.
        floor: the mixer that does least.
        beyond: what is done by one that does more, a sentence's subject.
        shares: whether scores are shares of the test samples, whose standard error is known.
    """

    score: str
    scores: str
    sample: str
    columns: Mapping[str, str]
    class_columns: Mapping[str, str]
    floor: str
    beyond: str
    shares: bool

    @property
    def main(self) -> str:
        """Key of the score that mixers are compared by."""
        return next(iter(self.columns))


POINT_VIEW = Terms(
    score="an overall accuracy",
    scores="accuracies",
    sample="shape",
    columns={"overall_accuracy": "OA %", "mean_class_accuracy": "mAcc %"},
    class_columns={},
    floor="mean_pool",
    beyond="To learn how tokens are mixed, instead of giving each the mean of all,",
    shares=True,
)
"""Of classifiers of shapes."""
GRID_VIEW = Terms(
    score="a mean AP from above",
    scores="APs",
    sample="scan",
    columns={"ap_bev": "AP BEV %", "ap_3d": "AP 3D %"},
    class_columns={"ap_bev": "BEV %", "ap_3d": "3D %"},
    floor="identity",
    beyond="To mix cells in the blocks, instead of leaving each to itself,",
    shares=False,
)
"""Of LiDAR detectors."""


@dataclass(frozen=True)
class MixerResult:
    """What the trainings with one mixer gave.

    Attributes:
        name, family: of the mixer.
        seeds: of its trainings.
        scores: on the test, by the keys of `Terms.columns`, one of each training; shares of 1.
        parameters, multiply_adds: of the network with it, the latter for one sample.
        train_samples_per_second, test_samples_per_second: medians over trainings.
        peak_memory_mb: of one training, the greatest; None where it is not known.
        seconds: of one training, the median.
        class_scores: scores of each class, by the keys of `Terms.class_columns`.
    """

    name: str
    family: str
    seeds: tuple[int, ...]
    scores: Mapping[str, tuple[float, ...]]
    parameters: int
    multiply_adds: int
    train_samples_per_second: float
    test_samples_per_second: float
    peak_memory_mb: int | None
    seconds: float
    class_scores: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)

    def by(self, terms: Terms) -> Scores:
        """The scores that mixers are compared by."""
        return Scores(self.name, self.scores[terms.main])

    def as_dict(self, terms: Terms) -> dict[str, Any]:
        """Plain values for JSON, with means and standard deviations (None for one training)."""
        speeds = {
            f"{part}_{terms.sample}s_per_second": getattr(self, f"{part}_samples_per_second")
            for part in ("train", "test")
        }
        by_class = {name: _summaries(scores) for name, scores in self.class_scores.items()}
        return {
            "name": self.name,
            "family": self.family,
            "seeds": list(self.seeds),
            **_summaries(self.scores),
            **({"classes": by_class} if by_class else {}),
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            **speeds,
            "peak_memory_mb": self.peak_memory_mb,
            "seconds": self.seconds,
        }


def _summaries(scores: Mapping[str, tuple[float, ...]]) -> dict[str, Any]:
    found = {name: Scores(name, values) for name, values in scores.items()}
    return {
        name: {"mean": one.mean, "std": None if math.isnan(one.std) else one.std, "values": list(one.values)}
        for name, one in found.items()
    }


def compare(results: Sequence[MixerResult], terms: Terms) -> Comparison:
    """By the main score."""
    return Comparison([result.by(terms) for result in results])


# ---- as tables -------------------------------------------------------------------------------------------------------
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""A header, and rows of as many texts."""


def table(results: Sequence[MixerResult], terms: Terms) -> Table:
    """A row for each mixer, the best first; ± is the sample standard deviation."""
    header = (
        "mixer", "family", *terms.columns.values(), "runs", "parameters", "million multiply-adds",
        f"training, {terms.sample}s/s", f"test, {terms.sample}s/s", "peak memory, MB", "minutes",
    )  # fmt: skip
    rows = [
        (
            result.name,
            result.family,
            *(percent(Scores("", result.scores[key])) for key in terms.columns),
            str(len(result.seeds)),
            f"{result.parameters:,}".replace(",", " "),
            f"{result.multiply_adds / 1e6:.1f}",
            _speed(result.train_samples_per_second),
            _speed(result.test_samples_per_second),
            "-" if result.peak_memory_mb is None else str(result.peak_memory_mb),
            f"{result.seconds / 60:.1f}",
        )
        for result in _best_first(results, terms)
    ]
    return header, rows


def class_table(results: Sequence[MixerResult], terms: Terms) -> Table | None:
    """The scores of each class, mixers as in `table`; None where there are none."""
    classes = list(dict.fromkeys(name for result in results for name in result.class_scores))
    if not classes:
        return None
    columns = [(name, key) for name in classes for key in terms.class_columns]
    header = ("mixer", *(f"{name} {terms.class_columns[key]}" for name, key in columns))
    rows = [
        (result.name, *(percent(Scores("", result.class_scores[name][key])) for name, key in columns))
        for result in _best_first(results, terms)
    ]
    return header, rows


def _best_first(results: Sequence[MixerResult], terms: Terms) -> list[MixerResult]:
    return sorted(results, key=lambda result: -result.by(terms).mean)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """A table as Markdown, whose columns are flush right but for the first ones, `words` many."""
    lines = ["---" if i < words else "---:" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, lines, *rows)) + "\n"


def percent(scores: Scores) -> str:
    """92.1 ± 0.4; without the latter for one training."""
    spread = "" if math.isnan(scores.std) else f" ± {100 * scores.std:.1f}"
    return f"{100 * scores.mean:.1f}{spread}"


def _speed(per_second: float) -> str:
    return f"{per_second:.0f}" if per_second >= 100 else f"{per_second:.3g}"


# ---- as sentences ----------------------------------------------------------------------------------------------------
def conclusions(results: Sequence[MixerResult], terms: Terms, test_samples: int) -> list[str]:
    """What follows from the numbers, a sentence or two each: noise, the best, attention, mixing at all, cost.

    Args:
        results: of at least one mixer.
        terms: of the numbers.
        test_samples: how many there are.
    """
    comparison = compare(results, terms)
    if not comparison.best.mean:
        return [f"All {terms.scores} are 0: nothing was learnt yet that could be compared; train with more --epochs."]
    return [
        *_best(comparison, terms, test_samples),
        *_attention(comparison, results, terms),
        *_floor(comparison, terms),
        *_cheapest(comparison, results, terms),
    ]


def _best(comparison: Comparison, terms: Terms, test_samples: int) -> list[str]:
    best = comparison.best
    said = [f"Best: {best.name} with {terms.score} of {percent(best)} %."]
    noise = comparison.noise(best, best)
    if len(comparison.scores) > 1:
        level = ", ".join(score.name for score in comparison.level_with_best if score is not best)
        if math.isnan(noise):
            said.append("Each mixer was trained once, so that nothing is known of noise; train with several --seeds.")
        else:
            said.append(
                f"From seed to seed {terms.scores} scatter by {_points(comparison.std)}, so that differences up to"
                f" {_points(noise)} between {len(comparison.scores)} mixers are noise (Tukey's test, 5 %)."
                f" Level with the best: {level or 'none'}."
            )
    if terms.shares:
        error = math.sqrt(best.mean * (1 - best.mean) / test_samples)
        said.append(
            f"The test has {test_samples} {terms.sample}s: an accuracy itself is known to {_points(error)} (standard"
            f" error); all mixers share these {terms.sample}s."
        )
    else:
        said.append(
            f"The test has {test_samples} {terms.sample}s, which all mixers share; that {terms.scores} would be others"
            f" on other {terms.sample}s is not in this noise."
        )
    return said


def _attention(comparison: Comparison, results: Sequence[MixerResult], terms: Terms) -> list[str]:
    """Is it necessary?"""
    with_it = [result.by(terms) for result in results if result.family == ATTENTION]
    without = [result.by(terms) for result in results if result.family in WITHOUT_ATTENTION]
    if not with_it or not without:
        return []
    a, b = (max(scores, key=lambda score: score.mean) for scores in (with_it, without))
    reached = f"{b.name} reaches {percent(b)} % without it, {a.name} {percent(a)} % with it"
    if not comparison.differ(a, b):
        return [f"Attention is not necessary here, as far as can be told: {reached}, a difference within noise."]
    if math.isnan(comparison.noise(a, b)):
        return [f"Whether attention is necessary is not decided by one training each: {reached}."]
    if b.mean > a.mean:
        return [f"Attention is not necessary here: {reached}, which is worse by more than noise."]
    return [f"Attention is necessary here: {reached}, which is better by more than noise."]


def _floor(comparison: Comparison, terms: Terms) -> list[str]:
    """What the best has over the mixer that does least."""
    floor = next((score for score in comparison.scores if score.name == terms.floor), None)
    if floor is None or floor.name == comparison.best.name:
        return []
    noise = "" if math.isnan(comparison.noise(floor, floor)) else ", within noise"
    if comparison.differ(comparison.best, floor) and noise:
        noise = ", more than noise"
    gain = comparison.best.mean - floor.mean
    return [f"{terms.beyond} is worth {_points(gain)}{noise}."]


def _cheapest(comparison: Comparison, results: Sequence[MixerResult], terms: Terms) -> list[str]:
    """Of those that are level with the best."""
    by_name = {result.name: result for result in results}
    level = [by_name[score.name] for score in comparison.level_with_best]
    if len(level) < 2 or math.isnan(comparison.std):
        return []
    least = min(level, key=lambda result: (result.multiply_adds, -result.by(terms).mean))
    fastest = max(level, key=lambda result: result.train_samples_per_second)
    return [
        f"Of those level with the best {least.name} computes least, {least.multiply_adds / 1e6:.1f} million"
        f" multiply-adds for a {terms.sample}, and {fastest.name} trains fastest,"
        f" {_speed(fastest.train_samples_per_second)} {terms.sample}s per second."
    ]


def _points(share: float) -> str:
    """Percentage points."""
    return f"{100 * share:.2g} points" if share < 0.01 else f"{100 * share:.1f} points"
