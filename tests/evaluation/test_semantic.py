import math

import pytest
import torch
from torch import nn

from pctransformer.datasets import CloudDataset, Sample
from pctransformer.evaluation.semantic import SceneScore, evaluate_scenes

NAMES = ("wall", "floor", "chair", "door")


def test_iou_by_hand():
    """Over both scenes: wall 2 of 4, floor 1 of 3, chair 0 of 1 that is only predicted, door nowhere."""
    first = SceneScore.from_predictions([0, 0, 1, 1, -1], [0, 1, 1, 0, 3], NAMES)
    second = SceneScore.from_predictions(torch.tensor([0, -1]), torch.tensor([0, 2]), NAMES)
    third = SceneScore.from_predictions([1], [2], NAMES)
    score = first + second + third
    assert score.count == 6
    assert score.per_class_iou.tolist()[:3] == [2 / 4, 1 / 4, 0]
    assert math.isnan(score.per_class_iou[3])
    assert score.mean_iou == pytest.approx((2 / 4 + 1 / 4 + 0) / 3)
    assert score.overall_accuracy == 3 / 6
    assert score.mean_class_accuracy == pytest.approx((2 / 3 + 1 / 3) / 2)  # chair has no points


def test_iou_is_of_all_points_and_no_mean_over_scenes():
    """One scene of 9 right points and one of a wrong one: 9 of 10, not (1 + 0) / 2."""
    large, small = SceneScore.from_predictions([0] * 9, [0] * 9, ["a"]), SceneScore.from_predictions([-1], [0], ["a"])
    assert (large + small).mean_iou == 1
    wrong = SceneScore.from_predictions([0], [1], ["a", "b"])
    right = SceneScore.from_predictions([0] * 9, [0] * 9, ["a", "b"])
    assert (wrong + right).per_class_iou.tolist() == [0.9, 0]


def test_plain_values_and_table():
    score = SceneScore.from_predictions([0, 0, 1, -1], [0, 1, 1, 0], NAMES)
    plain = score.as_dict()
    assert plain["mean_iou"] == 0.5
    assert [row["iou"] for row in plain["classes"]] == [0.5, 0.5, None, None]
    assert [row["count"] for row in plain["classes"]] == [2, 1, 0, 0]
    assert score.table().row_count == 6
    nothing = SceneScore.from_predictions([-1, -1], [0, 1], NAMES)
    assert nothing.count == 0
    assert nothing.as_dict()["mean_iou"] is None
    with pytest.raises(ValueError, match=r"must both be \(n,\)"):
        SceneScore.from_predictions([0, 1], [0], NAMES)
    with pytest.raises(ValueError, match="4 class names"):
        SceneScore.from_predictions([4], [0], NAMES)


class ByHeight(nn.Module):
    """Class 1 for points above one metre, with a probability of e / (1 + e)."""

    def forward(self, points):
        return torch.stack([torch.zeros(len(points.xyz)), (points.xyz[:, 2] > 1).float() * 2 - 1], 1)


def scenes(**changes) -> CloudDataset:
    xyz = torch.tensor([[0.0, 0, 0], [0, 0, 2], [3, 0, 0], [3, 0, 2]])
    samples = [Sample(xyz, point_labels=torch.tensor(labels), name="s") for labels in ([0, 1, -1, 0], [0, 1, 0, 1])]
    return CloudDataset(samples, [0, 0], ["scene"], part_names=["low", "high"])


def test_scenes_add_up():
    seen = []
    found = evaluate_scenes(ByHeight(), scenes(), cell_size=0.1, seen=lambda sample, logits: seen.append(logits.labels))
    assert [labels.tolist() for labels in seen] == [[0, 1, 0, 1]] * 2
    assert found.score.confusion.tolist() == [[3, 1], [0, 3]]
    assert found.score.mean_iou == 0.75
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    assert found.loss == pytest.approx((6 * right + wrong) / 7)
    assert found.as_dict()["loss"] == found.loss


def test_no_scenes_have_no_score():
    """As where there are more processes than scenes."""
    found = evaluate_scenes(ByHeight(), scenes().subset([]), cell_size=0.1)
    assert found.total_loss == 0
    assert math.isnan(found.loss)
    assert found.score.count == 0


def test_errors():
    data = scenes()
    unlabelled = CloudDataset([Sample(data[0].xyz, name="s")], [0], ["scene"], part_names=["low", "high"])
    with pytest.raises(ValueError, match="'s' has no labels"):
        evaluate_scenes(ByHeight(), unlabelled, cell_size=0.1)
    three = CloudDataset([data[0]], [0], ["scene"], part_names=["low", "high", "other"])
    with pytest.raises(ValueError, match="the model has 2 classes, the scenes have 3"):
        evaluate_scenes(ByHeight(), three, cell_size=0.1)
