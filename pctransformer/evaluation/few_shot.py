"""Few-shot classification: how well features tell some classes apart after a handful of labelled clouds of each.

A trial draws K classes ("ways"), m clouds of each to learn from ("shots") and some others of each to classify; papers
report mean and standard deviation of the accuracy over trials. The protocol is that of Sharma and Kaul, Self-supervised
few-shot learning on point clouds, 2020, arXiv:2009.14168, in the sizes of Point-BERT (Yu et al., 2022,
arXiv:2111.14819) and Point-MAE (Pang et al., 2022): 5 or 10 ways, 10 or 20 shots, 20 clouds of each class to classify,
10 trials. As in the code of Point-BERT, clouds to learn from are of the training part, the others of the test part.

Here features stay as they are, and logistic regression learns from them: nothing is random but the draw, and a trial
takes a moment. Point-BERT and Point-MAE train the whole network on the shots; their numbers are no measure for these.
"""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pctransformer.datasets.samples import generator_for


@dataclasses.dataclass(frozen=True)
class FewShotScore:
    """Accuracies of the trials of one size.

    Attributes:
        ways: classes of a trial.
        shots: clouds of each class to learn from.
        queries: clouds of each class to classify.
        accuracies: of the trials, shares of 1.

    Example:
        >>> score = FewShotScore(5, 10, 20, (0.5, 0.7, 0.6))
        >>> round(score.mean, 6), round(score.std, 6)
        (0.6, 0.1)
    """

    ways: int
    shots: int
    queries: int
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the trials."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float | None:
        """Sample standard deviation of the trials; None for a single one."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "accuracies": [*self.accuracies], "mean": self.mean, "std": self.std}


def few_shot(
    features: Tensor,
    labels: Tensor,
    query_features: Tensor,
    query_labels: Tensor,
    *,
    ways: int,
    shots: int,
    queries: int = 20,
    trials: int = 10,
    seed: int = 0,
) -> FewShotScore:
    """Learn some classes from a few clouds, classify others, and repeat.

    Every channel is brought to mean zero and variance one over the clouds to learn from; of these then
    `logistic_regression` learns.

    Args:
        features, labels: (n, C) and (n,) of the clouds to learn from.
        query_features, query_labels: (q, C) and (q,) of the clouds to classify.
        ways, shots, queries, trials: see `FewShotScore`; classes with too few clouds are not drawn.
        seed: of the draw.

    Raises:
        ValueError: there are too few classes with enough clouds.
    """
    if min(ways, shots, queries, trials) < 1:
        raise ValueError(
            f"ways, shots, queries and trials must be at least 1, got {ways}, {shots}, {queries}, {trials}"
        )
    classes = [
        label for label in labels.unique().tolist()
        if int((labels == label).sum()) >= shots and int((query_labels == label).sum()) >= queries
    ]  # fmt: skip
    if len(classes) < ways:
        raise ValueError(
            f"{ways} ways need {ways} classes with {shots} clouds to learn from and {queries} to classify; there are"
            f" {len(classes)}"
        )
    accuracies = []
    for trial in range(trials):
        generator = generator_for(seed, ways, shots, trial)
        chosen = [classes[i] for i in torch.randperm(len(classes), generator=generator)[:ways].tolist()]
        support = [_some(labels == label, shots, generator) for label in chosen]
        query = [_some(query_labels == label, queries, generator) for label in chosen]
        learned_from, asked = features[torch.cat(support)].double(), query_features[torch.cat(query)].double()
        mean, std = learned_from.mean(0), learned_from.std(0, unbiased=False)
        std = std.masked_fill(std == 0, 1)
        own = torch.arange(ways)
        weight, bias = logistic_regression((learned_from - mean) / std, own.repeat_interleave(shots), ways)
        predicted = F.linear((asked - mean) / std, weight, bias).argmax(1)
        accuracies.append((predicted == own.repeat_interleave(queries)).double().mean().item())
    return FewShotScore(ways, shots, queries, tuple(accuracies))


def logistic_regression(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The weights W and biases that make the sum of cross-entropies + |W|^2 / 2 smallest.

    There is one such minimum, which L-BFGS finds from zero in float64: nothing is random.

    Args:
        features: (n, C).
        labels: (n,) classes.
        num_classes: K.

    Returns:
        weight (K, C) and bias (K,), float64.
    """
    features = features.detach().double()
    weight = torch.zeros(num_classes, features.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=1000, tolerance_grad=1e-6, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(features, weight, bias), labels, reduction="sum") + weight.square().sum() / 2
        value.backward()
        return value.item()

    optimizer.step(loss)
    return weight.detach(), bias.detach()


def _some(mask: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count,) int64: places where a mask is set, drawn without repetition."""
    places = mask.nonzero().flatten()
    return places[torch.randperm(len(places), generator=generator)[:count]]
