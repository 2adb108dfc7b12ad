import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

from pctransformer.datasets import CloudDataset, Sample, collate
from pctransformer.datasets.samples import LazySamples
from pctransformer.datasets.transforms import Jitter, RandomScale
from pctransformer.evaluation import ClassificationScore, Evaluation, evaluate_classifier, predict_logits, vote
from pctransformer.models import create_model
from pctransformer.points import PointBatch

NAMES = ("bed", "cup", "desk")


# ---- the score -------------------------------------------------------------------------------------------------------
def test_accuracies_by_hand():
    """Three beds (two right, one taken for a desk), one cup (wrong), no desk."""
    score = ClassificationScore.from_predictions([0, 0, 1, 0], [0, 2, 0, 0], NAMES)
    assert score.confusion.tolist() == [[2, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert score.count == 4
    assert score.class_counts.tolist() == [3, 1, 0]
    assert score.overall_accuracy == 2 / 4
    assert score.per_class_accuracy[:2].tolist() == [2 / 3, 0]
    assert score.per_class_accuracy[2].isnan()
    assert score.mean_class_accuracy == pytest.approx((2 / 3 + 0) / 2)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=60), st.integers(0, 60))
def test_equals_the_definition_and_adds_up(pairs, cut):
    names = list("abcd")
    labels, predicted = np.array([p[0] for p in pairs], int), np.array([p[1] for p in pairs], int)
    score = ClassificationScore.from_predictions(labels, predicted, names)
    parts = [slice(0, cut), slice(cut, None)]
    first, second = (ClassificationScore.from_predictions(labels[p], predicted[p], names) for p in parts)
    assert torch.equal((first + second).confusion, score.confusion)
    if pairs:
        assert score.overall_accuracy == (labels == predicted).mean()
        of_classes = [(predicted[labels == c] == c).mean() for c in sorted(set(labels.tolist()))]
        assert score.mean_class_accuracy == pytest.approx(np.mean(of_classes))


def test_nothing_to_score():
    score = ClassificationScore.from_predictions([], [], NAMES)
    assert score.count == 0
    assert math.isnan(score.overall_accuracy)
    assert math.isnan(score.mean_class_accuracy)
    assert score.as_dict()["overall_accuracy"] is None
    assert "-" in rendered(score)


def test_json_has_plain_values():
    score = ClassificationScore.from_predictions(torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1]), NAMES)
    record = json.loads(json.dumps(score.as_dict(), allow_nan=False))
    assert record == {
        "count": 3,
        "overall_accuracy": 2 / 3,
        "mean_class_accuracy": 0.75,
        "classes": [
            {"name": "bed", "count": 2, "accuracy": 0.5},
            {"name": "cup", "count": 1, "accuracy": 1.0},
            {"name": "desk", "count": 0, "accuracy": None},
        ],
        "confusion": [[1, 0, 1], [0, 1, 0], [0, 0, 0]],
    }


def rendered(score: ClassificationScore) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(score.table())
    return capture.get()


def test_table_names_the_most_frequent_confusion():
    score = ClassificationScore.from_predictions([0] * 6 + [1], [0, 1, 1, 2, 2, 2, 1], NAMES)
    rows = {line.split("  ")[0]: line.split()[1:] for line in rendered(score).splitlines() if line.strip()}
    assert rows["bed"] == ["6", "16.7", "desk", "(3)"]
    assert rows["cup"] == ["1", "100.0"]
    assert rows["desk"] == ["0", "-"]
    assert rows["overall (OA)"][-2:] == ["7", "28.6"]
    assert rows["mean of classes (mAcc)"][-1] == "58.3"


def test_bad_scores_are_explained():
    count = ClassificationScore.from_predictions
    with pytest.raises(ValueError, match=r"2 of 3 labels are -1, first that of sample 1: their class is not known"):
        count([0, -1, -1], [0, 1, 1], NAMES)
    with pytest.raises(ValueError, match=r"labels\[1\] is 3, but there are 3 class names, 0 to 2"):
        count([0, 3], [0, 0], NAMES)
    with pytest.raises(ValueError, match=r"predicted\[0\] is -1"):
        count([0], [-1], NAMES)
    with pytest.raises(ValueError, match=r"both be \(n,\), got \(2,\) and \(1,\)"):
        count([0, 1], [0], NAMES)
    with pytest.raises(ValueError, match="whole numbers"):
        count([0.0], [0], NAMES)
    with pytest.raises(ValueError, match=r"must be \(3, 3\) int64"):
        ClassificationScore(torch.zeros(3, 3), NAMES)
    with pytest.raises(ValueError, match="cannot be negative"):
        ClassificationScore(torch.full((3, 3), -1), NAMES)
    with pytest.raises(ValueError, match="same class names"):
        count([0], [0], NAMES) + count([0], [0], NAMES[::-1])


# ---- predictions -----------------------------------------------------------------------------------------------------
class Means(nn.Module):
    """Logits that a test can compute: a cloud's mean coordinates, with drop-out that evaluation must switch off."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.norm = nn.BatchNorm1d(3)
        self.batches: list[int] = []

    def forward(self, batch: PointBatch) -> torch.Tensor:
        self.batches.append(len(batch))
        assert torch.is_inference_mode_enabled()
        mean = torch.segment_reduce(batch.xyz, "mean", offsets=batch.offsets, axis=0)
        return self.norm(self.dropout(mean)) * math.sqrt(1 + 1e-5)


def dataset(count: int = 7, transform=None) -> CloudDataset:
    generator = torch.Generator().manual_seed(0)
    samples = [Sample(torch.randn(5 + i, 3, generator=generator), label=i % 3, name=f"cloud {i}") for i in range(count)]
    return CloudDataset(samples, [sample.label for sample in samples], NAMES, transform=transform)


def means(data: CloudDataset, indices) -> torch.Tensor:
    return torch.stack([data[i].xyz.mean(0) for i in indices])


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_logits_come_in_order_whatever_the_batches(batch_size):
    model, data = Means(), dataset()
    logits = predict_logits(model, data, batch_size=batch_size)
    torch.testing.assert_close(logits, means(data, range(7)))
    assert model.batches == [min(batch_size, 7 - begin) for begin in range(0, 7, batch_size)]
    logits.add_(1)  # an ordinary tensor
    assert not logits.is_inference()


def test_chosen_samples_are_as_random_as_in_the_whole_set():
    data = dataset(transform=Jitter())
    indices = torch.tensor([5, 0, 5])
    chosen = predict_logits(Means(), data, batch_size=2, indices=indices)
    torch.testing.assert_close(chosen, predict_logits(Means(), data)[indices])


def test_each_module_gets_its_mode_back():
    model = nn.Sequential(Means(), nn.Linear(3, 3), nn.BatchNorm1d(3)).train()
    model[2].eval()  # frozen
    before = {name: module.training for name, module in model.named_modules()}
    predict_logits(model, dataset())
    assert {name: module.training for name, module in model.named_modules()} == before
    assert int(model[0].norm.num_batches_tracked) == 0
    with pytest.raises(RuntimeError):
        predict_logits(nn.Sequential(model, nn.Linear(4, 4)), dataset())
    assert {name: module.training for name, module in model.named_modules()} == before


def test_every_sample_is_fetched_once():
    data, fetched = dataset(), []
    lazy = LazySamples(7, lambda i: fetched.append(i) or data.samples[i])
    evaluation = evaluate_classifier(Means(), CloudDataset(lazy, data.labels, NAMES), batch_size=4)
    assert fetched == list(range(7))
    assert evaluation.names == tuple(f"cloud {i}" for i in range(7))


def test_autocast_is_as_told():
    seen = []

    class Watch(Means):
        def forward(self, batch):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().forward(batch).to(torch.get_autocast_dtype("cpu") if seen[-1] else torch.float32)

    low = predict_logits(Watch(), dataset(), dtype=torch.bfloat16)
    assert low.dtype == torch.float32
    assert torch.equal(low, low.bfloat16().float())
    with torch.autocast("cpu", torch.bfloat16):
        predict_logits(Watch(), dataset())
    assert seen == [True, False]


def test_evaluation_of_a_model():
    torch.manual_seed(0)
    data = dataset()
    model = create_model("npct", num_classes=3, dim=16, width=32)
    evaluation = evaluate_classifier(model, data, batch_size=3)
    with torch.no_grad():
        logits = model.eval()(collate(list(data))[0])
    torch.testing.assert_close(evaluation.logits, logits, rtol=1e-5, atol=1e-5)
    labels = torch.arange(7) % 3
    assert torch.equal(evaluation.labels, labels)
    probability = logits.double().exp() / logits.double().exp().sum(1, keepdim=True)
    assert evaluation.loss == pytest.approx(-probability[torch.arange(7), labels].log().mean().item(), rel=1e-5)
    torch.testing.assert_close(evaluation.probabilities.double(), probability, rtol=1e-5, atol=1e-6)
    assert evaluation.score.overall_accuracy == (logits.argmax(1) == labels).double().mean().item()


def by_hand() -> Evaluation:
    logits = torch.tensor([[9.0, 0, 0], [1, 0, 0], [0, 0, 3], [5, 0, 0]])
    return Evaluation(logits, torch.tensor([0, 1, 2, 1]), ("a", "b", "c", "d"), NAMES)


def test_wrong_samples_are_listed_the_most_confident_first():
    evaluation = by_hand()
    assert evaluation.wrong.tolist() == [3, 1]
    record = json.loads(json.dumps(evaluation.as_dict(), allow_nan=False))
    assert [(w["name"], w["true"], w["predicted"]) for w in record["wrong"]] == [
        ("d", "cup", "bed"),
        ("b", "cup", "bed"),
    ]
    assert record["wrong"][0]["confidence"] == pytest.approx(math.exp(5) / (math.exp(5) + 2))
    assert record["overall_accuracy"] == 0.5
    assert record["votes"] == 0


# ---- voting ----------------------------------------------------------------------------------------------------------
def test_votes_average_probabilities_of_different_epochs():
    data = dataset(transform=RandomScale(0.5, 2.0))
    data.set_epoch(5)
    voted = vote(Means(), data, 3, batch_size=2)
    assert int(data._epoch) == 5  # the caller's epoch is left alone
    total = torch.zeros(7, 3)
    for epoch in range(3):
        data.set_epoch(epoch)
        total += means(data, range(7)).softmax(1)
    torch.testing.assert_close(voted.probabilities, total / 3)
    torch.testing.assert_close(voted.logits.exp(), total / 3)
    picked = (total / 3)[torch.arange(7), torch.arange(7) % 3]
    assert voted.loss == pytest.approx(-picked.log().mean().item(), rel=1e-5)
    assert voted.as_dict()["votes"] == 3
    data.set_epoch(0)
    torch.testing.assert_close(vote(Means(), data, 1).probabilities, evaluate_classifier(Means(), data).probabilities)


def test_votes_stay_finite_where_probabilities_underflow():
    class Certain(nn.Module):
        def forward(self, batch):
            return torch.tensor([[0.0, 500, 0]]).expand(len(batch), 3)

    voted = vote(Certain(), dataset(3, transform=Jitter()), 2)
    assert voted.loss == pytest.approx(500 * 2 / 3)  # two of three samples are not of class 1


# ---- errors ----------------------------------------------------------------------------------------------------------
def test_bad_input_is_explained():
    model, data = Means(), dataset()
    with pytest.raises(ValueError, match="no samples to predict"):
        predict_logits(model, data, indices=[])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        predict_logits(model, data, batch_size=0)
    with pytest.raises(ValueError, match="votes must be at least 1"):
        vote(model, data, 0)
    with pytest.raises(ValueError, match="all votes are equal"):
        vote(model, data, 2)
    with pytest.raises(ValueError, match=r"need logits \(7, 3\), got \(7, 4\); was the model made with num_classes"):
        evaluate_classifier(nn.Sequential(model, nn.Linear(3, 4)), data)


def test_unknown_labels_are_an_error():
    samples = [Sample(torch.zeros(2, 3), label=label) for label in (0, -1)]
    data = CloudDataset(samples, [0, 0], NAMES)
    with pytest.raises(ValueError, match="1 of 2 labels are -1, first that of sample 1"):
        evaluate_classifier(Means(), data)


def test_logits_that_are_not_finite_are_an_error():
    data = dataset()
    data.samples[4].xyz[0] = torch.finfo(torch.float32).max
    model = nn.Sequential(Means(), nn.Linear(3, 3))
    with torch.no_grad():
        model[1].weight.fill_(3.0e3)
    with pytest.raises(ValueError, match=r"1 of 7 samples are NaN or infinite, first those of sample 4, 'cloud 4'"):
        evaluate_classifier(model, data)
