import json
import math

import pytest
import torch
from rich.console import Console
from torch import nn

from pctransformer.datasets import CloudDataset, Sample, generated_shapes
from pctransformer.evaluation import PartScore, evaluate_segmenter, parts_of_classes, predict_parts
from pctransformer.evaluation.segmentation import shape_iou
from pctransformer.models import create_model

NAMES = ("cup", "lamp")
PARTS = [[0, 1], [2, 3, 4]]


def tensors(*rows: list[int]) -> list[torch.Tensor]:
    return [torch.tensor(row) for row in rows]


# ---- the score -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("labels", "predicted", "expected"),
    [
        ([2, 2, 3, 3], [2, 3, 3, 3], (1 / 2 + 2 / 3 + 1) / 3),  # part 4 is in neither: it counts as 1
        ([2, 2, 3, 3], [2, 2, 3, 4], (1 + 1 / 2 + 0) / 3),  # part 4 is predicted only
        ([2, 2, 2, 4], [2, 2, 2, 2], (3 / 4 + 1 + 0) / 3),  # part 4 is labelled only
        ([3], [3], 1.0),
        ([2, 3], [0, 3], (0 + 1 + 1) / 3),  # a part of something else is wrong for the point, and no part of its own
    ],
)
def test_iou_by_hand(labels, predicted, expected):
    assert shape_iou(*tensors(labels, predicted), parts=PARTS[1]) == pytest.approx(expected)


def score() -> PartScore:
    """Two cups, IoU 1 and (1/2 + 2/3) / 2, and a lamp whose last point does not count, IoU (0 + 1/2 + 1) / 3."""
    labels = tensors([0, 1, 1], [0, 0, 1, 1], [2, 3, -1])
    predicted = tensors([0, 1, 1], [0, 1, 1, 1], [3, 3, 4])
    return PartScore.from_predictions(labels, predicted, [0, 0, 1], NAMES, parts=PARTS)


def test_both_means_by_hand():
    found = score()
    second, lamp = (1 / 2 + 2 / 3) / 2, (0 + 1 / 2 + 1) / 3
    assert found.ious.tolist() == pytest.approx([1, second, lamp])
    assert found.instance_mean_iou == pytest.approx((1 + second + lamp) / 3)
    assert found.per_class_iou.tolist() == pytest.approx([(1 + second) / 2, lamp])
    assert found.class_mean_iou == pytest.approx(((1 + second) / 2 + lamp) / 2)
    assert found.point_accuracy == (3 + 3 + 1) / 9
    assert found.class_counts.tolist() == [2, 1]


def test_scores_add_up():
    one = PartScore.from_predictions(tensors([2, 3]), tensors([3, 3]), [1], NAMES, parts=PARTS)
    both = score() + one
    assert both.count == 4
    assert both.per_class_iou[1].item() == pytest.approx((0 + 1 / 2 + 1) / 3)
    assert both.point_accuracy == (7 + 1) / 11
    other = PartScore.from_predictions([], [], [], ("vase", "lamp"), parts=PARTS)
    with pytest.raises(ValueError, match="same class names"):
        score() + other


def test_json_and_table():
    one = PartScore.from_predictions(tensors([2, 3]), tensors([2, 3]), [1], NAMES, parts=PARTS)
    record = json.loads(json.dumps(one.as_dict(), allow_nan=False))
    assert record == {
        "count": 1,
        "instance_mean_iou": 1.0,
        "class_mean_iou": 1.0,
        "point_accuracy": 1.0,
        "classes": [{"name": "cup", "count": 0, "iou": None}, {"name": "lamp", "count": 1, "iou": 1.0}],
    }
    console = Console(width=100)
    with console.capture() as capture:
        console.print(score().table())
    assert [line.split()[-1] for line in capture.get().splitlines() if "mIoU" in line] == ["69.4", "64.6"]
    empty = PartScore.from_predictions([], [], [], NAMES, parts=PARTS)
    assert math.isnan(empty.instance_mean_iou)
    assert math.isnan(empty.class_mean_iou)
    assert math.isnan(empty.point_accuracy)


@pytest.mark.parametrize(
    ("labels", "predicted", "categories", "text"),
    [
        ([[2, 0]], [[2, 2]], [1], "shape 0, of 'lamp': a point is labelled 0, but the parts are"),
        ([[-1, -1]], [[2, 2]], [1], r"n > 0, got \(0,\)"),
        ([[2, 3]], [[2]], [1], "shape 0 has 2 labels, but 1"),
        ([[2, 3]], [], [1], "as many"),
    ],
)
def test_errors(labels, predicted, categories, text):
    with pytest.raises(ValueError, match=text):
        PartScore.from_predictions(tensors(*labels), tensors(*predicted), categories, NAMES, parts=PARTS)


def test_parts_tell_their_class():
    assert parts_of_classes(["a", "b/c"], ["b/c/x", "a/x", "a/y"]) == [[1, 2], [0]]
    with pytest.raises(ValueError, match="'x' should be called class/part"):
        parts_of_classes(["a"], ["a/x", "x"])
    with pytest.raises(ValueError, match=r"no parts of \['b'\]"):
        parts_of_classes(["a", "b"], ["a/x"])
    shapes = generated_shapes(num_shapes=1)
    assert len(parts_of_classes(shapes.class_names, shapes.part_names)) == 19


# ---- predictions -----------------------------------------------------------------------------------------------------
class ByX(nn.Module):
    """The part is the x coordinate, unless it is told that part 4 wins everywhere."""

    def __init__(self, num_categories: int = 0, favourite: float = 0.0) -> None:
        super().__init__()
        self.num_categories = num_categories
        self.favourite = favourite
        self.told: list[list[int]] = []

    def forward(self, points, category=None):
        assert not self.training
        if category is not None:
            self.told.append(category.tolist())
        logits = -(points.xyz[:, :1] - torch.arange(5)).abs()
        logits[:, 4] += self.favourite
        return logits


def shapes() -> CloudDataset:
    rows = [([0, 1, 1], 0), ([2, 4], 1), ([1], 0)]
    samples = [
        Sample(torch.tensor([[float(x), 0, 0] for x in xs]), point_labels=torch.tensor(xs), label=label, name=str(i))
        for i, (xs, label) in enumerate(rows)
    ]
    part_names = ["cup/wall", "cup/handle", "lamp/foot", "lamp/pole", "lamp/shade"]
    return CloudDataset(samples, [0, 1, 0], NAMES, part_names=part_names)


def test_only_parts_of_the_category_compete():
    model = ByX(favourite=100.0).train()
    predicted = predict_parts(model, shapes(), batch_size=2)
    assert [p.tolist() for p in predicted] == [[0, 1, 1], [4, 4], [1]]
    assert model.training
    found = evaluate_segmenter(model, shapes(), batch_size=2)
    assert [p.tolist() for p in found.predicted] == [[0, 1, 1], [4, 4], [1]]
    assert found.score.ious.tolist() == pytest.approx([1, (0 + 1 + 1 / 2) / 3, 1])


def test_all_parts_compete_in_the_loss():
    """Of six points, in three shapes; the last shape has a point without a label, which does not count."""
    data = shapes()
    half = Sample(torch.tensor([[1.0, 0, 0], [0, 0, 0]]), point_labels=torch.tensor([1, -1]), label=0, name="half")
    data = CloudDataset([data[0], data[1], half], [0, 1, 0], NAMES, part_names=data.part_names)
    found = evaluate_segmenter(ByX(), data, batch_size=2)
    logits = [[-abs(x - part) for part in range(5)] for x in (0, 1, 1, 2, 4, 1)]
    losses = [math.log(sum(map(math.exp, row))) - row[part] for row, part in zip(logits, (0, 1, 1, 2, 4, 1))]
    assert found.loss == pytest.approx(sum(losses) / 6)
    assert found.score.points == 6


def test_the_worst_shapes_come_first():
    record = json.loads(json.dumps(evaluate_segmenter(ByX(favourite=100.0), shapes()).as_dict(worst=2)))
    assert [(shape["name"], shape["class"]) for shape in record["worst"]] == [("1", "lamp"), ("0", "cup")]
    assert record["worst"][0]["iou"] == pytest.approx((0 + 1 + 1 / 2) / 3)
    assert record["count"] == 3


def test_a_model_with_categories_is_told():
    model = ByX(num_categories=2)
    assert evaluate_segmenter(model, shapes(), batch_size=2).score.instance_mean_iou == 1
    assert model.told == [[0, 1], [0]]


def test_a_real_model_on_generated_shapes():
    torch.manual_seed(0)
    data = generated_shapes(num_shapes=19, num_points=64).subset([0, 5, 9])
    model = create_model("pointnet2_ssg_seg", num_classes=len(data.part_names), in_channels=6, num_categories=19)
    found = evaluate_segmenter(model, data).score
    assert found.count == 3
    assert 0 <= found.instance_mean_iou <= 1


def test_errors_of_predictions():
    data = shapes()
    with pytest.raises(ValueError, match=r"num_classes = len\(dataset.part_names\)"):
        evaluate_segmenter(create_model("pointnet2_ssg_seg", num_classes=4), data)
    bare = CloudDataset([Sample(torch.zeros(2, 3), label=0, name="bare")], [0], NAMES, part_names=data.part_names)
    with pytest.raises(ValueError, match="'bare' has no point labels"):
        evaluate_segmenter(ByX(), bare)
    assert len(predict_parts(ByX(), bare)[0]) == 2
    with pytest.raises(ValueError, match="'0' are NaN or infinite"):
        evaluate_segmenter(ByX(favourite=math.nan), data)
    with pytest.raises(ValueError, match="batch_size"):
        predict_parts(ByX(), data, batch_size=0)
