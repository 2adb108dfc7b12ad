import json
import math

import pytest
import torch
from rich.console import Console
from torch import nn

from pctransformer.datasets import CloudDataset, Sample
from pctransformer.datasets.corruptions import CORRUPTIONS, SEVERITIES
from pctransformer.datasets.samples import generator_for
from pctransformer.datasets.transforms import Compose, EvenSubset, Normalize
from pctransformer.evaluation import Robustness, comparison_table, evaluate_robustness


def robustness(means: list[float], clean: float = 0.1) -> Robustness:
    """Errors whose means over severities are these: from half of it to one and a half."""
    spread = torch.tensor([0.5, 0.75, 1, 1.25, 1.5], dtype=torch.float64)
    return Robustness(torch.tensor(means, dtype=torch.float64)[:, None] * spread, clean, 200)


OURS = robustness([0.1, 0.2, 0.2, 0.3, 0.4, 0.1, 0.6], clean=0.1)
BASE = robustness([0.2, 0.2, 0.4, 0.6, 0.2, 0.3, 0.5], clean=0.15)


def printed(table) -> list[list[str]]:
    console = Console(width=300)
    with console.capture() as text:
        console.print(table)
    return [line.split() for line in text.get().splitlines() if line.strip()]


# ---- by hand ---------------------------------------------------------------------------------------------------------
def test_measures_by_hand():
    ratios = [0.1 / 0.2, 0.2 / 0.2, 0.2 / 0.4, 0.3 / 0.6, 0.4 / 0.2, 0.1 / 0.3, 0.6 / 0.5]
    assert OURS.corruption_errors(BASE).tolist() == pytest.approx(ratios)
    assert OURS.mean_corruption_error(BASE) == pytest.approx(sum(ratios) / 7)
    costs = [0, 0.1 / 0.05, 0.1 / 0.25, 0.2 / 0.45, 0.3 / 0.05, 0, 0.5 / 0.35]
    assert OURS.relative_corruption_errors(BASE).tolist() == pytest.approx(costs)
    assert OURS.relative_mean_corruption_error(BASE) == pytest.approx(sum(costs) / 7)
    assert OURS.mean_overall_accuracy == pytest.approx(1 - 1.9 / 7)


def test_severities_are_summed_before_they_are_divided():
    """The mean of the ratios would be (2 + 4 * 1) / 5."""
    ours, base = torch.full((7, 5), 0.5), torch.full((7, 5), 0.5)
    ours[:, 0], base[:, 0] = 0.2, 0.1
    found = Robustness(ours.double(), 0.0, 10).mean_corruption_error(Robustness(base.double(), 0.0, 10))
    assert found == pytest.approx(2.2 / 2.1)


def test_published_means():
    """DGCNN's accuracies on ModelNet-C, as its evaluation has them, and the mOA and mCE printed for it."""
    accuracies = [0.906, 0.684, 0.785, 0.752, 0.793, 0.705, 0.725]
    dgcnn = Robustness((1 - torch.tensor(accuracies, dtype=torch.float64))[:, None].expand(7, 5), 0.074, 2468)
    assert round(dgcnn.mean_overall_accuracy, 3) == 0.764
    assert dgcnn.mean_corruption_error(dgcnn) == pytest.approx(1)
    assert dgcnn.relative_mean_corruption_error(dgcnn) == pytest.approx(1)


def test_a_baseline_that_makes_no_error():
    base = robustness([0, 0.2, 0.4, 0.6, 0.15, 0.3, 0.5], clean=0.15)
    assert [math.isnan(value) for value in OURS.corruption_errors(base)] == [True] + [False] * 6
    assert math.isnan(OURS.mean_corruption_error(base))
    relative = OURS.relative_corruption_errors(base)  # the fifth corruption costs the baseline nothing
    assert [math.isnan(value) for value in relative] == [False] * 4 + [True] + [False] * 2
    values = OURS.as_dict(base)
    assert (values["mean_corruption_error"], values["relative_mean_corruption_error"]) == (None, None)
    assert values["corruption_errors"]["scale"] is None


# ---- as text ---------------------------------------------------------------------------------------------------------
def test_as_json():
    values = json.loads(json.dumps(OURS.as_dict(BASE)))
    assert values["count"] == 200
    assert values["clean_overall_accuracy"] == 0.9
    assert list(values["errors"]) == list(CORRUPTIONS) == list(values["corruption_errors"])
    assert values["errors"]["jitter"] == pytest.approx([0.1, 0.15, 0.2, 0.25, 0.3])
    assert values["mean_corruption_error"] == OURS.mean_corruption_error(BASE)
    assert not any("error" in key and key != "errors" for key in OURS.as_dict())


def test_tables():
    rows = printed(OURS.table())
    assert rows[0] == ["error", "%", "1", "2", "3", "4", "5", "mean"]
    assert rows[2] == ["jitter", "10.0", "15.0", "20.0", "25.0", "30.0", "20.0"]
    assert [row[0] for row in rows[1:]] == [*CORRUPTIONS, "mean", "clean"]
    assert rows[-2][-1] == "27.1"
    assert rows[-1] == ["clean", "10.0"]
    rows = printed(comparison_table({"ours": OURS, "theirs": BASE}, "theirs"))
    assert rows[0] == ["error", "%", "clean", *CORRUPTIONS, "mOA", "mCE", "RmCE"]
    means = ["10.0", "20.0", "20.0", "30.0", "40.0", "10.0", "60.0"]
    assert rows[1] == ["ours", "10.0", *means, "72.9", "0.862", "1.468"]
    assert rows[2][-2:] == ["1.000", "1.000"]
    with pytest.raises(ValueError, match="the baseline must be one of ours, got theirs"):
        comparison_table({"ours": OURS}, "theirs")


@pytest.mark.parametrize("errors", [torch.zeros(7, 4), torch.full((7, 5), 1.5), torch.full((7, 5), math.nan)])
def test_errors_are_checked(errors):
    with pytest.raises(ValueError, match=r"errors must be \(7, 5\) shares between 0 and 1"):
        Robustness(errors, 0.1, 10)


# ---- of a model ------------------------------------------------------------------------------------------------------
class BySize(nn.Module):
    """Takes clouds of 700 to 1200 points for class 0, all others for class 1; keeps the sum of what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, points):
        self.seen.append(points.xyz.double().sum())
        known = (points.lengths >= 700) & (points.lengths <= 1200)
        return torch.stack([known, ~known], 1).float()


@pytest.fixture(scope="module")
def dataset():
    samples = [Sample(torch.randn(2000, 3, generator=generator_for(i)), label=int(i == 3)) for i in range(4)]
    return CloudDataset(
        samples, [s.label for s in samples], ("a", "b"), transform=Compose((Normalize(), EvenSubset(1024)))
    )


def test_every_corruption_is_tested(dataset):
    """Three of four clouds are of class 0: where the model knows them a quarter is wrong, elsewhere three quarters."""
    steps: list[int] = []
    found = evaluate_robustness(BySize(), dataset, after_each=lambda: steps.append(1))
    low, high = 0.25, 0.75
    expected = {
        "drop_global": [low, high, high, high, high],  # 768 points, then 640 and fewer
        "drop_local": [low, low, low, high, high],  # 724 points, then 624
        "add_local": [low, high, high, high, high],  # 1124 points, then 1224
    }
    assert found.errors.tolist() == [expected.get(name, [low] * 5) for name in CORRUPTIONS]
    assert (found.clean_error, found.count) == (low, 4)
    assert len(steps) == 1 + len(CORRUPTIONS) * len(SEVERITIES)


def test_all_models_see_the_same_clouds(dataset):
    first, second, other = BySize(), BySize(), BySize()
    evaluate_robustness(first, dataset, batch_size=4)
    evaluate_robustness(second, dataset, batch_size=4)
    evaluate_robustness(other, dataset, batch_size=4, seed=1)
    assert torch.equal(torch.stack(first.seen), torch.stack(second.seen))
    assert first.seen[0] == other.seen[0]  # clean
    assert all(a != b for a, b in zip(first.seen[1:], other.seen[1:]))
    assert len(torch.stack(first.seen).unique()) == 36
