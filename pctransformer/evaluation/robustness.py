"""Robustness: how many shapes a classifier gets wrong when its clouds are corrupted, and how that compares.

With E(c, s) the share of wrong samples under corruption c in severity s, and B of a baseline:

    CE(c)  = sum_s E(c, s) / sum_s B(c, s)                                mCE  = mean_c CE(c)
    RCE(c) = sum_s (E(c, s) - E_clean) / sum_s (B(c, s) - B_clean)        RmCE = mean_c RCE(c)
    mOA    = mean_c mean_s (1 - E(c, s))

mCE says how often a model errs, RmCE how much the corruptions cost it; both are 1 for the baseline, and less is better.
Published values are relative to DGCNN on the published files. Ours are relative to any baseline that was tested on the
same clouds, and are comparable with values relative to the same baseline only.

Source: Ren, Pan and Liu, Benchmarking and Analyzing Point Cloud Classification under Corruptions, 2022,
arXiv:2202.03377, after Hendrycks and Dietterich, 2019. The corruptions are those of `datasets.corruptions`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pctransformer.datasets.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from pctransformer.datasets.samples import CloudDataset
from pctransformer.evaluation.classification import evaluate_classifier
from pctransformer.evaluation.numbers import or_none, percent

if TYPE_CHECKING:
    from rich.table import Table


@dataclasses.dataclass(frozen=True, eq=False)
class Robustness:
    """Errors of one classifier on the clean test set and on the corrupted ones.

    Attributes:
        errors: (7, 5) float64: errors[c, s] is the share of samples that are wrong under the c-th of `CORRUPTIONS` in
            severity s + 1.
        clean_error: the same without corruption.
        count: samples in each test set.

    Example:
        >>> good, poor = (Robustness(torch.full((7, 5), e, dtype=torch.float64), 0.1, 20) for e in (0.2, 0.4))
        >>> round(good.mean_overall_accuracy, 4), round(good.mean_corruption_error(poor), 4)
        (0.8, 0.5)
    """

    errors: Tensor
    clean_error: float
    count: int

    def __post_init__(self) -> None:
        shape = (len(CORRUPTIONS), len(SEVERITIES))
        if self.errors.shape != shape or not ((self.errors >= 0) & (self.errors <= 1)).all():
            raise ValueError(f"errors must be {shape} shares between 0 and 1, got {(*self.errors.shape,)}")

    @property
    def mean_errors(self) -> Tensor:
        """(7,) mean over severities."""
        return self.errors.mean(1)

    @property
    def mean_overall_accuracy(self) -> float:
        """mOA: mean over corruptions and severities of the share of samples that are right."""
        return 1 - self.errors.mean().item()

    def corruption_errors(self, baseline: Robustness) -> Tensor:
        """(7,) CE of each corruption; NaN where the baseline makes no error.

        Args:
            baseline: tested on the same clouds.
        """
        return _ratio(self.mean_errors, baseline.mean_errors)

    def mean_corruption_error(self, baseline: Robustness) -> float:
        """mCE; NaN if one of the corruption errors is."""
        return self.corruption_errors(baseline).mean().item()

    def relative_corruption_errors(self, baseline: Robustness) -> Tensor:
        """(7,) RCE of each corruption; NaN where the corruption costs the baseline nothing."""
        return _ratio(self.mean_errors - self.clean_error, baseline.mean_errors - baseline.clean_error)

    def relative_mean_corruption_error(self, baseline: Robustness) -> float:
        """RmCE; NaN if one of the relative corruption errors is."""
        return self.relative_corruption_errors(baseline).mean().item()

    def as_dict(self, baseline: Robustness | None = None) -> dict[str, Any]:
        """Plain values for JSON; None where there is no number.

        Args:
            baseline: what CE, mCE and RmCE are relative to; without it they are left out.
        """
        values: dict[str, Any] = {
            "count": self.count,
            "clean_overall_accuracy": 1 - self.clean_error,
            "mean_overall_accuracy": self.mean_overall_accuracy,
            "errors": dict(zip(CORRUPTIONS, self.errors.tolist())),
        }
        if baseline is not None:
            errors = map(or_none, self.corruption_errors(baseline).tolist())
            values["corruption_errors"] = dict(zip(CORRUPTIONS, errors))
            values["mean_corruption_error"] = or_none(self.mean_corruption_error(baseline))
            values["relative_mean_corruption_error"] = or_none(self.relative_mean_corruption_error(baseline))
        return values

    def table(self) -> Table:
        """Errors in percent: one row per corruption, one column per severity."""
        table = _empty_table("error %", *map(str, SEVERITIES), "mean")
        for name, errors, mean in zip(CORRUPTIONS, self.errors.tolist(), self.mean_errors.tolist()):
            table.add_row(name, *map(percent, errors), percent(mean))
        table.add_section()
        table.add_row("mean", *map(percent, self.errors.mean(0).tolist()), percent(self.errors.mean().item()))
        table.add_row("clean", *[""] * len(SEVERITIES), percent(self.clean_error))
        return table


def comparison_table(results: Mapping[str, Robustness], baseline: str) -> Table:
    """Errors in percent: one row per model, one column per corruption; then mOA in percent, mCE and RmCE.

    Args:
        results: name of each model to its errors.
        baseline: one of the names, the model that mCE and RmCE are relative to.

    Raises:
        ValueError: the baseline is not among the results.
    """
    if baseline not in results:
        raise ValueError(f"the baseline must be one of {', '.join(results)}, got {baseline}")
    table = _empty_table("error %", "clean", *CORRUPTIONS, "mOA", "mCE", "RmCE")
    other = results[baseline]
    for name, found in results.items():
        relative = found.mean_corruption_error(other), found.relative_mean_corruption_error(other)
        table.add_row(
            name,
            percent(found.clean_error),
            *map(percent, found.mean_errors.tolist()),
            percent(found.mean_overall_accuracy),
            *("-" if math.isnan(value) else f"{value:.3f}" for value in relative),
        )
    return table


def evaluate_robustness(
    model: nn.Module,
    dataset: CloudDataset,
    *,
    seed: int = 0,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    after_each: Callable[[], None] = lambda: None,
) -> Robustness:
    """Test a classifier on the clean clouds, then under 7 corruptions in 5 severities: 36 passes over the test set.

    Args:
        model: see `evaluate_classifier`; it must take clouds of different sizes, as some corruptions make them.
        dataset: the clean test set, under a transform that leaves its clouds in the unit sphere.
        seed: of the corruptions; the same for models that are to be compared.
        batch_size, device, dtype: see `evaluate_classifier`.
        after_each: called after each pass, for instance to move a bar.

    Raises:
        ValueError: as in `evaluate_classifier`.
    """

    def error(samples: CloudDataset) -> float:
        evaluation = evaluate_classifier(model, samples, batch_size=batch_size, device=device, dtype=dtype)
        after_each()
        return 1 - evaluation.score.overall_accuracy

    clean = error(dataset)
    errors = [[error(corrupted(dataset, name, level, seed=seed)) for level in SEVERITIES] for name in CORRUPTIONS]
    return Robustness(torch.tensor(errors, dtype=torch.float64), clean, len(dataset))


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    nothing = denominator.abs() < 1e-9  # equal shares differ by rounding; one sample of a million is 2e-7 in the mean
    return torch.where(nothing, math.nan, numerator / denominator)


def _empty_table(first: str, *others: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
