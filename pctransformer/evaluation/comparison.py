"""Which of several methods are better than others, when each was tried a few times with other random numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Scores:
    """A method, and what it reached.

    Attributes:
        name: of the method.
        values: one score for each try, the greater the better; at least one.
    """

    name: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float:
        """Sample standard deviation; NaN for one try."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan


class Comparison:
    """Methods beside one another.

    A difference between two means is called noise if it is below Tukey's honest significant difference: among methods
    that are equally good, and scatter equally and normally from try to try, the best and the worst differ by more in 5
    of 100 comparisons. So the best may be picked out first and the others be compared with it. All methods' scatter is
    pooled, because three tries of one method say little about it.

    It is the scatter from try to try. That test samples are few is another error, which tries share.

    Args:
        scores: of at least one method; names differ.

    Source: Tukey, The problem of multiple comparisons, 1953; for unequal numbers of tries Kramer, Extension of multiple
    range tests to group means with unequal numbers of replications, Biometrics 12, 1956.
    """

    def __init__(self, scores: Sequence[Scores]) -> None:
        self.scores = tuple(scores)
        if not self.scores or not all(score.values for score in self.scores):
            raise ValueError("a comparison needs a method, and at least one score of each")

    @property
    def best(self) -> Scores:
        """The method with the greatest mean."""
        return max(self.scores, key=lambda score: score.mean)

    @property
    def level_with_best(self) -> tuple[Scores, ...]:
        """Methods that differ from the best by noise, and the best; from the greatest mean to the least.

        Where noise is not known only those with the very same mean.
        """
        best = self.best
        level = [score for score in self.scores if not self.differ(best, score)]
        return tuple(sorted(level, key=lambda score: -score.mean))

    def differ(self, one: Scores, other: Scores) -> bool:
        """Whether the difference of two means is more than noise; any is, where noise is not known."""
        noise = self.noise(one, other)
        return abs(one.mean - other.mean) > (0 if math.isnan(noise) else noise)

    def noise(self, one: Scores, other: Scores) -> float:
        """The honest significant difference of two methods; NaN if no method was tried twice, or there is only one."""
        return self._range_of_equals * self.std * math.sqrt((1 / len(one.values) + 1 / len(other.values)) / 2)

    @property
    def std(self) -> float:
        """Standard deviation of a method's scores from try to try, pooled over all methods; NaN as for `noise`."""
        if not self._freedom:
            return math.nan
        squares = sum((value - score.mean) ** 2 for score in self.scores for value in score.values)
        return math.sqrt(squares / self._freedom)

    @property
    def _freedom(self) -> int:
        return sum(len(score.values) - 1 for score in self.scores)

    @cached_property
    def _range_of_equals(self) -> float:
        """The range of so many equal means that is passed in 5 of 100 cases, in standard errors of a mean."""
        from scipy.stats import studentized_range

        if len(self.scores) < 2 or not self._freedom:
            return math.nan
        return float(studentized_range.ppf(0.95, len(self.scores), self._freedom))
