import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from pctransformer.datasets import CloudDataset, Sample, generated_shapes
from pctransformer.evaluation import PartEvaluation, PartScore
from pctransformer.visualization.figures import training_figure
from pctransformer.visualization.segmentation import (
    class_figure,
    median_shapes,
    part_colors,
    part_figure,
    part_gallery,
)
from pctransformer.visualization.style import GREY, MANY, ORANGE
from tests.visualization.pages import check_page, texts


def score(ious: list[float], categories: list[int], names: tuple[str, ...] = ("cup", "lamp", "vase")) -> PartScore:
    return PartScore(torch.tensor(ious, dtype=torch.float64), torch.tensor(categories).long(), names, 1, 2)


def test_colours_follow_the_order_in_the_class():
    colors = part_colors(torch.tensor([5, 4, 9]), [4, 5])
    assert [tuple(row) for row in colors] == [to_rgb(MANY[1]), to_rgb(MANY[0]), to_rgb(GREY)]


def test_classes_are_sorted_and_say_how_many_shapes():
    figure = class_figure(score([0.5, 0.7, 0.9], [1, 1, 0]))
    check_page(figure)
    assert "instance mIoU 70.0 %   class mIoU 75.0 %" in texts(figure)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["cup", "lamp"]  # no vases
    assert [bar.get_width() for bar in figure.axes[0].patches] == pytest.approx([90, 60])
    assert "60.0 %  (2)" in texts(figure)
    check_page(class_figure(score([], [])))


def test_the_median_shape_of_each_class():
    assert median_shapes(score([0.1, 0.9, 0.5, 0.3, 0.2], [0, 0, 0, 2, 2])) == [2, 4]


def drawn_colours(figure, axes: int) -> set[tuple[float, ...]]:
    return {tuple(np.round(colour[:3], 6)) for colour in figure.axes[axes].collections[0].get_facecolor()}


def rounded(*colours: str) -> set[tuple[float, ...]]:
    return {tuple(np.round(to_rgb(colour), 6)) for colour in colours}


def test_truth_prediction_and_errors():
    """Three points in a row, of which the last is wrong, and one without a label."""
    xyz = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
    sample = Sample(xyz, point_labels=torch.tensor([0, 1, 1, -1]), label=0, name="a")
    data = CloudDataset([sample], [0], ["cup"], part_names=["cup/wall", "cup/handle"])
    evaluation = PartEvaluation(score([0.5], [0], ("cup",)), (torch.tensor([0, 1, 0, 0]),), ("a",), 0.0)
    figure = part_gallery(data, evaluation)
    check_page(figure)
    assert drawn_colours(figure, 0) == rounded(MANY[0], MANY[1], GREY)
    assert drawn_colours(figure, 1) == rounded(MANY[0], MANY[1])
    wrong = figure.axes[2].collections[0].get_facecolor()[:, :3]
    assert sorted(map(tuple, wrong)).count(to_rgb(ORANGE)) == 1
    assert drawn_colours(figure, 2) == rounded(ORANGE, GREY)
    assert "cup  50 %" in texts(figure)
    with pytest.raises(ValueError, match="2 samples, but an evaluation of 1"):
        part_gallery(data.subset([0, 0]), evaluation)


def test_a_page_of_all_classes():
    data = generated_shapes(num_shapes=19, num_points=80)
    predicted = tuple(data[i].point_labels for i in range(19))
    evaluation = PartEvaluation(score([1.0] * 19, [*range(19)], data.class_names), predicted, ("",) * 19, 0.0)
    figure = part_gallery(data, evaluation)
    assert len(figure.axes) == 3 * 19
    pixels = check_page(figure)
    assert (np.abs(pixels - np.array(to_rgb(ORANGE)) * 255).max(-1) < 3).sum() == 0  # no errors
    check_page(part_gallery(data.subset([]), PartEvaluation(score([], [], data.class_names), (), (), 0.0)))


def test_one_prediction():
    figure = part_figure(
        torch.rand(50, 3), np.repeat([3, 4], [10, 40]), [3, 4], ["x"] * 3 + ["cup/wall", "cup/handle"], "a"
    )
    check_page(figure)
    assert {"a", "50 points", "20.0 %", "80.0 %"} <= set(texts(figure))
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()] == ["wall", "handle"]


def test_training_of_parts_has_a_panel_of_mean_ious():
    rows = [
        {"epoch": i + 1, "train_loss": 1.0, "validation_instance_miou": 0.5 + i / 10, "validation_class_miou": 0.25}
        for i in range(3)
    ]
    figure = training_figure(rows, chosen=3)
    check_page(figure)
    assert "3 epochs; kept epoch 3: instance mIoU 70.0 %, class mIoU 25.0 %" in texts(figure)
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["loss", "validation mIoU, %"]
