"""What a comparison of token mixers says: a table, and sentences that follow from its numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pctransformer.evaluation.comparison import Comparison, Scores

ATTENTION = "attention"
WITHOUT_ATTENTION = ("MLP", "recurrent", "not learnt")
"""Families of mixers, see `pctransformer.layers.mixers.MixerInfo`; external attention is between the two."""


@dataclass(frozen=True)
class MixerResult:
    """What the trainings with one mixer gave.

    Attributes:
        name, family: of the mixer.
        seeds: of its trainings.
        overall_accuracy, mean_class_accuracy: on the test shapes, of each training; shares of 1.
        parameters, multiply_adds: of the network with it, the latter for one shape.
        train_shapes_per_second, test_shapes_per_second: medians over trainings.
        peak_memory_mb: of one training, the greatest; None where it is not known.
        seconds: of one training, the median.
    """

    name: str
    family: str
    seeds: tuple[int, ...]
    overall_accuracy: tuple[float, ...]
    mean_class_accuracy: tuple[float, ...]
    parameters: int
    multiply_adds: int
    train_shapes_per_second: float
    test_shapes_per_second: float
    peak_memory_mb: int | None
    seconds: float

    @property
    def scores(self) -> Scores:
        """Overall accuracies, which mixers are compared by."""
        return Scores(self.name, self.overall_accuracy)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with means and standard deviations (None for one training)."""
        values = dataclasses.asdict(self)
        for name in ("overall_accuracy", "mean_class_accuracy"):
            scores = Scores(self.name, values[name])
            std = None if math.isnan(scores.std) else scores.std
            values[name] = {"mean": scores.mean, "std": std, "values": list(scores.values)}
        return {**values, "seeds": list(self.seeds)}


def compare(results: Sequence[MixerResult]) -> Comparison:
    """By overall accuracy."""
    return Comparison([result.scores for result in results])


# ---- as a table ------------------------------------------------------------------------------------------------------
HEADER = (
    "mixer", "family", "OA %", "mAcc %", "runs", "parameters", "million multiply-adds", "training, shapes/s",
    "test, shapes/s", "peak memory, MB", "minutes",
)  # fmt: skip


def table(results: Sequence[MixerResult]) -> list[tuple[str, ...]]:
    """A row for each mixer, the best first, with the columns of `HEADER`; ± is the sample standard deviation."""
    ordered = sorted(results, key=lambda result: -result.scores.mean)
    return [
        (
            result.name,
            result.family,
            percent(result.scores),
            percent(Scores("", result.mean_class_accuracy)),
            str(len(result.seeds)),
            f"{result.parameters:,}".replace(",", " "),
            f"{result.multiply_adds / 1e6:.1f}",
            f"{result.train_shapes_per_second:.0f}",
            f"{result.test_shapes_per_second:.0f}",
            "-" if result.peak_memory_mb is None else str(result.peak_memory_mb),
            f"{result.seconds / 60:.1f}",
        )
        for result in ordered
    ]


def markdown(results: Sequence[MixerResult]) -> str:
    """The table as Markdown."""
    lines = ["---" if i < 2 else "---:" for i in range(len(HEADER))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (HEADER, lines, *table(results))) + "\n"


def percent(scores: Scores) -> str:
    """92.1 ± 0.4; without the latter for one training."""
    spread = "" if math.isnan(scores.std) else f" ± {100 * scores.std:.1f}"
    return f"{100 * scores.mean:.1f}{spread}"


# ---- as sentences ----------------------------------------------------------------------------------------------------
def conclusions(results: Sequence[MixerResult], test_shapes: int) -> list[str]:
    """What follows from the numbers, a sentence or two each: noise, the best, attention, mixing at all, cost.

    Args:
        results: of at least one mixer.
        test_shapes: how many there are.
    """
    comparison = compare(results)
    return [
        *_best(comparison, test_shapes),
        *_attention(comparison, results),
        *_floor(comparison, results),
        *_cheapest(comparison, results),
    ]


def _best(comparison: Comparison, test_shapes: int) -> list[str]:
    best = comparison.best
    said = [f"Best: {best.name} with an overall accuracy of {percent(best)} %."]
    noise = comparison.noise(best, best)
    if len(comparison.scores) > 1:
        level = ", ".join(score.name for score in comparison.level_with_best if score is not best)
        if math.isnan(noise):
            said.append("Each mixer was trained once, so that nothing is known of noise; train with several --seeds.")
        else:
            said.append(
                f"From seed to seed accuracies scatter by {_points(comparison.std)}, so that differences up to"
                f" {_points(noise)} between {len(comparison.scores)} mixers are noise (Tukey's test, 5 %)."
                f" Level with the best: {level or 'none'}."
            )
    error = math.sqrt(best.mean * (1 - best.mean) / test_shapes)
    said.append(
        f"The test has {test_shapes} shapes: an accuracy itself is known to {_points(error)} (standard error); all"
        " mixers share these shapes."
    )
    return said


def _attention(comparison: Comparison, results: Sequence[MixerResult]) -> list[str]:
    """Is it necessary?"""
    with_it = [result.scores for result in results if result.family == ATTENTION]
    without = [result.scores for result in results if result.family in WITHOUT_ATTENTION]
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


def _floor(comparison: Comparison, results: Sequence[MixerResult]) -> list[str]:
    """What the best has over tokens that only hear of their mean."""
    floor = next((result.scores for result in results if result.name == "mean_pool"), None)
    if floor is None or floor.name == comparison.best.name:
        return []
    noise = "" if math.isnan(comparison.noise(floor, floor)) else ", within noise"
    if comparison.differ(comparison.best, floor) and noise:
        noise = ", more than noise"
    gain = comparison.best.mean - floor.mean
    return [f"To learn how tokens are mixed, instead of giving each the mean of all, is worth {_points(gain)}{noise}."]


def _cheapest(comparison: Comparison, results: Sequence[MixerResult]) -> list[str]:
    """Of those that are level with the best."""
    by_name = {result.name: result for result in results}
    level = [by_name[score.name] for score in comparison.level_with_best]
    if len(level) < 2 or math.isnan(comparison.std):
        return []
    least = min(level, key=lambda result: (result.multiply_adds, -result.scores.mean))
    fastest = max(level, key=lambda result: result.train_shapes_per_second)
    return [
        f"Of those level with the best {least.name} computes least, {least.multiply_adds / 1e6:.1f} million"
        f" multiply-adds for a shape, and {fastest.name} trains fastest, {fastest.train_shapes_per_second:.0f} shapes"
        " per second."
    ]


def _points(share: float) -> str:
    """Percentage points."""
    return f"{100 * share:.2g} points" if share < 0.01 else f"{100 * share:.1f} points"
