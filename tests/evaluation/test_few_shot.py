import math

import pytest
import torch
import torch.nn.functional as F

from pctransformer.evaluation.few_shot import FewShotScore, few_shot, logistic_regression

CLASSES, SIZES = 7, {"ways": 5, "shots": 3, "queries": 4, "trials": 6}


def separable(per_class: int, noise: float = 0.1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Each class around a corner of its own, channels of very different scales, and one that says nothing."""
    labels = torch.arange(CLASSES).repeat_interleave(per_class)
    corners = F.one_hot(labels, CLASSES).float()
    spread = noise * torch.randn(corners.shape, generator=torch.Generator().manual_seed(seed))
    features = (corners + spread) * 10.0 ** torch.arange(-3, 4) + 5
    return torch.cat([features, torch.ones(len(labels), 1)], 1), labels


def test_classes_in_corners_are_told_apart_in_every_trial():
    """All classes are drawn: channels of others would be noise, brought to the same scale as the rest."""
    score = few_shot(*separable(8), *separable(6, seed=1), **{**SIZES, "ways": CLASSES})
    assert score.accuracies == (1.0,) * 6
    assert (score.ways, score.shots, score.queries) == (7, 3, 4)


def test_features_that_say_nothing_give_chance():
    """5 classes: 0.2. The deviation of the mean of 60 trials of 20 answers is about 0.01."""
    (_, labels), (_, query_labels) = separable(60), separable(60)
    generator = torch.Generator().manual_seed(0)
    features, query_features = (torch.randn(len(own), 8, generator=generator) for own in (labels, query_labels))
    score = few_shot(features, labels, query_features, query_labels, **{**SIZES, "trials": 60})
    assert score.mean == pytest.approx(0.2, abs=0.05)
    assert 0.02 < score.std < 0.2


def test_wrong_answers_count_by_hand():
    """Clouds to classify of one class lie in another's corner: each of its queries is wrong, where both are drawn."""
    features, labels = separable(8)
    query_features, query_labels = separable(6, seed=1)
    query_features[query_labels == 2] = query_features[query_labels == 3]
    score = few_shot(features, labels, query_features, query_labels, **{**SIZES, "ways": CLASSES, "trials": 2})
    assert score.accuracies == pytest.approx((6 / 7, 6 / 7))


def test_the_draw_depends_on_the_seed_alone():
    sets = *separable(8, noise=1.0), *separable(6, noise=1.0, seed=1)
    first, again, other = (few_shot(*sets, **SIZES, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.accuracies != other.accuracies
    assert len(set(first.accuracies)) > 1  # every trial draws anew
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    few_shot(*sets, **SIZES)
    assert torch.equal(torch.rand(1), expected)


def test_classes_with_too_few_clouds_are_not_drawn():
    features, labels = separable(8)
    query_features, query_labels = separable(6)
    keep = (query_labels > 1) | (torch.arange(len(query_labels)) % 6 < 3)  # three of classes 0 and 1
    query_features[query_labels < 2] = math.nan  # would be noticed
    enough = few_shot(features, labels, query_features[keep], query_labels[keep], **SIZES)
    assert enough.accuracies == (1.0,) * 6
    with pytest.raises(ValueError, match="need 6 classes with 3 clouds to learn from and 4 to classify; there are 5"):
        few_shot(features, labels, query_features[keep], query_labels[keep], **{**SIZES, "ways": 6})
    with pytest.raises(ValueError, match="must be at least 1, got 5, 0, 4, 6"):
        few_shot(features, labels, query_features, query_labels, **{**SIZES, "shots": 0})


def test_logistic_regression_by_hand():
    """Points at -1 and 1: W = (-a, a), and the loss 2 log(1 + exp(-2 a)) + a^2 is smallest where a (1 + e^2a) = 2."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle * (1 + math.exp(2 * middle)) < 2 else (low, middle)
    weight, bias = logistic_regression(torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]), 2)
    assert weight.flatten().tolist() == pytest.approx([-low, low], abs=1e-6)
    assert bias.tolist() == pytest.approx([0, 0], abs=1e-6)


def test_logistic_regression_is_at_the_minimum_and_repeats():
    features, labels = separable(5, noise=1.0)
    features = (features - features.mean(0)) / features.std(0).clamp(min=1e-6)
    weight, bias = (value.requires_grad_() for value in logistic_regression(features, labels, CLASSES))
    loss = F.cross_entropy(F.linear(features.double(), weight, bias), labels, reduction="sum")
    (loss + weight.square().sum() / 2).backward()
    assert max(weight.grad.abs().max(), bias.grad.abs().max()) < 1e-4
    again = logistic_regression(features, labels, CLASSES)
    assert torch.equal(again[0], weight)
    assert torch.equal(again[1], bias)


def test_score_of_one_trial():
    score = FewShotScore(5, 10, 20, (0.5,))
    assert score.as_dict() == {
        **{"ways": 5, "shots": 10, "queries": 20, "accuracies": [0.5]},
        **{"mean": 0.5, "std": None},
    }
