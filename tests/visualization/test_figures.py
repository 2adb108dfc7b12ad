import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from pctransformer.datasets import CloudDataset, Sample, generated_shapes
from pctransformer.datasets.samples import LazySamples
from pctransformer.evaluation import ClassificationScore
from pctransformer.visualization.clouds import MAX_POINTS, camera, draw_cloud
from pctransformer.visualization.figures import confusion_figure, error_gallery, prediction_figure, training_figure
from pctransformer.visualization.reconstruction import reconstruction_figure
from pctransformer.visualization.style import new_figure, place
from tests.visualization.pages import check_page, texts


# ---- confusion matrix ------------------------------------------------------------------------------------------------
def score(classes: int, name: str = "class_{}") -> ClassificationScore:
    generator = torch.Generator().manual_seed(0)
    confusion = torch.randint(0, 3, (classes, classes), generator=generator) + 90 * torch.eye(classes).long()
    return ClassificationScore(confusion, tuple(name.format(i) for i in range(classes)))


def test_confusion_says_what_the_score_says():
    known = ClassificationScore.from_predictions([0] * 10 + [1] * 2, [0] * 7 + [2] * 3 + [1, 0], ["a", "b", "c"])
    figure = confusion_figure(known)
    check_page(figure)
    assert "OA 66.7 %   mAcc 60.0 %" in texts(figure)
    assert "12 samples of 3 classes; accuracy of each class on the right" in texts(figure)
    axes = figure.axes[0]
    cells = {t.get_position(): t.get_text() for t in axes.texts if "%" not in t.get_text() and t.get_text() != "-"}
    assert cells == {(0, 0): "7", (2, 0): "3", (0, 1): "1", (1, 1): "1"}  # column (predicted), row (true)
    assert [t.get_text() for t in axes.texts if t.get_text() not in cells.values()] == ["70.0 %", "50.0 %", "-"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")
    colour = axes.images[0].get_array()
    assert colour[0, 2, 0] > colour[0, 2, 2]  # true a, taken for c: orange
    assert np.array_equal(colour[2, 0], colour[2, 2])  # nothing there
    assert colour[0, 0, 2] > colour[0, 0, 0]  # right: blue
    assert (colour[0, 0] < colour[1, 1]).all()  # 70 % is darker than 50 %


@pytest.mark.parametrize("classes", [1, 2, 10, 40, 150])
def test_confusion_of_any_number_of_classes(classes):
    figure = confusion_figure(score(classes, "a_rather_long_name_{}" if classes == 10 else "class_{}"))
    check_page(figure)
    numbers = [t for t in figure.axes[0].texts if t.get_text().isdigit()]
    assert len(numbers) == (0 if classes == 150 else int((score(classes).confusion > 0).sum()))
    cell = 72 * figure.axes[0].get_position().height * figure.get_figheight() / classes
    assert all(t.get_fontsize() * 0.65 * len(t.get_text()) < cell for t in numbers)  # they fit into their cells


def test_confusion_without_samples():
    figure = confusion_figure(ClassificationScore.from_predictions([], [], ["a", "b"]))
    check_page(figure)
    assert "OA -   mAcc -" in texts(figure)


# ---- training --------------------------------------------------------------------------------------------------------
ROWS = [
    {
        "epoch": e,
        "train_loss": 2.0 / (e + 1),
        "train_accuracy": 0.1 * e,
        "validation_loss": 3.0 / (e + 1),
        "validation_oa": 0.09 * e,
        "validation_macc": 0.08 * e,
        "lr": 1e-3,
        "seconds": 5.0,
    }
    for e in range(8)
]


def test_training_shows_every_curve_and_the_epoch_that_was_kept():
    before = [dict(row) for row in ROWS]
    figure = training_figure(ROWS, chosen=6)
    check_page(figure)
    assert before == ROWS
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["loss", "accuracy, %", "learning rate"]
    assert "8 epochs; kept epoch 6: OA 54.0 %, mAcc 48.0 %, loss 0.429" in texts(figure)
    loss, accuracy, rate = figure.axes
    long = {axes: [line for line in axes.lines if len(line.get_xdata()) == 8] for axes in figure.axes}
    assert [len(lines) for lines in long.values()] == [2, 3, 1]
    expected = {loss: ["train_loss", "validation_loss"], rate: ["lr"]}
    expected[accuracy] = ["train_accuracy", "validation_oa", "validation_macc"]
    for axes, keys in expected.items():
        words = [t for t in axes.texts[2:] if t.get_text().strip()]
        for line, key in zip(long[axes], keys):
            times = 100 if axes is accuracy else 1
            np.testing.assert_allclose(line.get_ydata(), [times * row[key] for row in ROWS])
            np.testing.assert_allclose(line.get_xdata(), range(8))
        assert [t.get_color() for t in words] == [line.get_color() for line in long[axes]][: len(words)]
    marks = [
        line.get_xydata().tolist() for line in accuracy.lines if line.get_marker() == "o" and len(line.get_xdata())
    ]
    assert marks == [[[6, pytest.approx(54)]], [[6, pytest.approx(48)]]]


def test_training_with_values_missing():
    rows = [
        {"train_loss": 1.0},
        {"train_loss": None, "validation_oa": 0.5},
        {"train_loss": float("nan")},
        {"seconds": 1},
    ]
    figure = training_figure(rows, chosen=1)
    check_page(figure)
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["loss", "accuracy, %"]
    assert figure.axes[0].lines[1].get_xydata().tolist() == [[0, 1]]  # after the line that marks the epoch
    assert "4 epochs; kept epoch 1: OA 50.0 %" in texts(figure)
    for few in ([], [{"seconds": 1}], ROWS[:1], ROWS[5:6]):
        check_page(training_figure(few))
    low, high = training_figure(ROWS[5:6]).axes[0].get_xlim()
    assert low < 5 < high


# ---- clouds ----------------------------------------------------------------------------------------------------------
def drawn(xyz, **options) -> tuple[np.ndarray, np.ndarray, object]:
    """(n, 2) places of the dots in the order of drawing, their colours, and the axes."""
    figure = new_figure(3, 3)
    axes = place(figure, 0.2, 0.2, 2.6, 2.6)
    draw_cloud(axes, xyz, **options)
    check_page(figure)
    dots = axes.collections[0]
    return np.asarray(dots.get_offsets()), dots.get_facecolors()[:, :3], axes


def test_camera_is_a_rotation_with_z_upright():
    axes = camera(25, -55)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1)
    assert axes[0, 2] == 0
    assert axes[1, 2] > 0
    np.testing.assert_allclose(camera(0, -90) @ [0, -1, 0], [0, 0, 1], atol=1e-12)  # -y is towards us
    np.testing.assert_allclose(camera(0, -90) @ [1, 0, 0], [1, 0, 0], atol=1e-12)


@pytest.mark.parametrize("up", ["z", "y"])
def test_the_upright_axis_points_up_and_near_points_are_dark_and_on_top(up):
    axis = "xyz".index(up)
    pole = np.zeros((5, 3))
    pole[:, axis] = [3, 1, 4, 0, 2]
    places, _, _ = drawn(pole, up=up)
    np.testing.assert_allclose(places[:, 0], places[0, 0])
    assert sorted(np.diff(np.sort(places[:, 1]))) == pytest.approx([np.cos(np.deg2rad(25))] * 4)
    towards = camera(25, -55)[2] * [1, 1, 0]  # level, towards us
    row = np.outer([3, 1, 4, 0, 2], towards if up == "z" else towards[[0, 2, 1]] * [1, 1, -1])
    places, colours, _ = drawn(row, up=up)
    assert (np.diff(places[:, 1]) < 0).all()  # drawn from far to near; seen from above, near is lower
    assert (np.diff(colours.sum(1)) < 0).all()


def test_the_other_upright_axis_is_a_turn_and_no_mirror():
    cloud = np.random.default_rng(0).normal(size=(50, 3))
    turned = np.stack([cloud[:, 0], cloud[:, 2], -cloud[:, 1]], 1)  # by 90 degrees about x: z becomes y
    np.testing.assert_allclose(drawn(turned, up="y")[0], drawn(cloud)[0], atol=1e-12)


def test_clouds_keep_their_proportions_and_fit():
    flat = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([4.0, 1, 0.2]) + 1000
    places, _, axes = drawn(flat)
    spans = np.ptp([axes.get_xlim(), axes.get_ylim()], axis=1)
    assert spans[0] == pytest.approx(spans[1])
    assert (places >= [axes.get_xlim()[0], axes.get_ylim()[0]]).all()
    assert (places <= [axes.get_xlim()[1], axes.get_ylim()[1]]).all()
    relative = (flat.double() - flat.double().mean(0)).numpy() @ camera(25, -55).T
    assert np.ptp(places, 0) == pytest.approx(np.ptp(relative[:, :2], 0), rel=1e-5)


def test_clouds_of_any_size():
    random = np.random.default_rng(0)
    large = random.normal(size=(3 * MAX_POINTS, 3))
    kept = large.copy()
    places, _, _ = drawn(large)
    assert len(places) == MAX_POINTS
    assert np.array_equal(large, kept)
    assert np.array_equal(places, drawn(large)[0])
    assert len(drawn(np.ones((1, 3)))[0]) == 1
    assert len(drawn(np.ones((7, 3)))[0]) == 7
    broken = random.normal(size=(9, 3))
    broken[4, 1], broken[5, 0] = np.nan, np.inf
    assert len(drawn(broken)[0]) == 7
    assert len(drawn(torch.rand(6, 3, requires_grad=True))[0]) == 6
    figure = new_figure(3, 3)
    draw_cloud(place(figure, 0, 0, 3, 3), torch.zeros(0, 3))
    assert texts(figure) == ["no points"]
    with pytest.raises(ValueError, match=r"must be \(n, 3\)"):
        draw_cloud(place(figure, 0, 0, 3, 3), np.zeros((3, 4)))


def test_marked_points_have_another_colour_and_a_cloud_can_stand_in_anothers_place():
    generator = np.random.default_rng(0)
    cloud = generator.normal(size=(60, 3))
    whole, _, axes = drawn(cloud)
    frame, size = axes.get_xlim(), axes.collections[0].get_sizes()
    part, colours, axes = drawn(cloud[:20], marked=cloud[20:30], like=cloud)
    assert axes.get_xlim() == frame
    assert axes.collections[0].get_sizes() == size
    assert {tuple(place) for place in part.round(9)} <= {tuple(place) for place in whole.round(9)}
    red = colours[:, 0] > colours[:, 2]
    assert red.sum() == 10
    places = (cloud[20:30] - cloud.mean(0)) @ camera(25, -55).T[:, :2]
    assert {tuple(place) for place in part[red].round(9)} == {tuple(place) for place in places.round(9)}
    only, colours, _ = drawn(np.zeros((0, 3)), marked=cloud[:4], like=cloud)
    assert len(only) == 4
    assert (colours[:, 0] > colours[:, 2]).all()


# ---- reconstruction --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("masked", [True, False])
def test_reconstruction_shows_what_was_seen_and_what_was_made_up(masked):
    generator = torch.Generator().manual_seed(0)
    clouds = [torch.randn(40, 3, generator=generator) for _ in range(3)]
    visible = [cloud[: 12 if masked else 0] for cloud in clouds]
    made_up = [torch.randn(30, 3, generator=generator) for _ in range(3)]
    figure = reconstruction_figure(clouds, visible, made_up, ["a", "b", 40 * "long"])
    check_page(figure)
    dots = [len(axes.collections[0].get_offsets()) for axes in figure.axes]
    assert dots == [40] * 3 + ([12] * 3 + [42] * 3 if masked else [30] * 3)
    assert ("visible" in texts(figure)) == masked
    assert ("71 % of the patches were hidden" in texts(figure)[1]) == masked  # 30 of 42
    assert texts(figure)[-3:] == ["a", "b", "..." + (40 * "long")[-23:]]
    frames = [axes.get_xlim() for axes in figure.axes]
    assert frames[:3] == frames[-3:]  # parts stand where they stand in their cloud


def test_reconstruction_needs_as_many_of_each():
    with pytest.raises(ValueError, match=r"they have \[1, 0, 1, 1\]"):
        reconstruction_figure([torch.rand(5, 3)], [], [torch.rand(5, 3)], ["a"])
    with pytest.raises(ValueError, match=r"they have \[0, 0, 0, 0\]"):
        reconstruction_figure([], [], [], [])


# ---- gallery and prediction ------------------------------------------------------------------------------------------
NAMES = ("bed", "cup", "desk")


def gallery(count: int = 30, right: int = 3, **options):
    """Sample i is of class i % 3, all but the first few are taken for the next class, later ones more confidently."""
    fetched = []
    samples = [Sample(torch.rand(40, 3), label=i % 3, name=f"cloud {i}") for i in range(count)]
    lazy = LazySamples(count, lambda i: fetched.append(i) or samples[i])
    true = torch.arange(count) % 3
    predicted = torch.where(torch.arange(count) < right, true, (true + 1) % 3)
    data = CloudDataset(lazy, true, NAMES)
    figure = error_gallery(data, true, predicted, torch.arange(count) / count, NAMES, **options)
    check_page(figure)
    return figure, fetched


def test_gallery_shows_the_most_confident_errors_first():
    figure, fetched = gallery(limit=4)
    assert fetched == [29, 28, 27, 26]
    words = texts(figure)
    assert words[:2] == ["27 of 30 wrong", "the 4 most confident: true class, predicted class and its probability"]
    assert words[2:8] == ["desk", "\u2192 bed  97 %", "cloud 29", "cup", "\u2192 desk  93 %", "cloud 28"]
    lefts = [axes.get_position().x0 for axes in figure.axes]
    assert lefts == sorted(lefts)


@pytest.mark.parametrize("right", [0, 3, 29, 30])
def test_gallery_of_few_errors_and_of_none(right):
    figure, fetched = gallery(right=right)
    assert len(figure.axes) == len(fetched) == min(30 - right, 24)
    assert texts(figure)[0] == ("all 30 right" if right == 30 else f"{30 - right} of 30 wrong")
    places = {tuple(np.round(axes.get_position().p0, 6)) for axes in figure.axes}
    assert len(places) == len(fetched)


def test_gallery_checks_its_input():
    with pytest.raises(ValueError, match=r"they have \[1, 2, 1, 1\]"):
        error_gallery([Sample(torch.zeros(1, 3))], [0, 1], [1], [0.5], NAMES)
    long = Sample(torch.rand(9, 3), name="/home/somebody/" + "folder/" * 9 + "chair_0001.off")
    figure = error_gallery([long], [0], [1], [0.5], NAMES)
    check_page(figure)
    assert texts(figure)[-1].endswith("/chair_0001.off")


def test_prediction_shows_the_highest_classes_in_order():
    pairs = [(f"class {i}", p) for i, p in enumerate([0.02, 0.5, 0.01, 0.2, 0.1, 0.05, 0.04, 0.03, 0.03, 0.02])]
    figure = prediction_figure(torch.rand(50, 3), pairs, "chair.ply")
    check_page(figure)
    bars = figure.axes[1]
    shown = [label.get_text() for label in bars.get_yticklabels()]
    assert shown == [f"class {i}" for i in (1, 3, 4, 5, 6, 7, 8, 0)]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([50, 20, 10, 5, 4, 3, 3, 2])
    assert bars.yaxis_inverted()  # the first is on top
    assert {"chair.ply", "50 points", "50.0 %", "20.0 %"} <= set(texts(figure))
    assert bars.patches[0].get_facecolor()[:3] == to_rgb("#3b6fb6")
    check_page(prediction_figure(np.zeros((0, 3)), [("only", 1.0)], "nothing.ply"))
    with pytest.raises(ValueError, match="at least one class"):
        prediction_figure(torch.rand(5, 3), [], "a")


def test_pictures_are_the_same_every_time():
    sample = generated_shapes("test", num_shapes=1, num_points=256)[0]

    def picture() -> bytes:
        file = io.BytesIO()
        prediction_figure(sample.xyz, [("airplane", 0.9), ("car", 0.1)], sample.name).savefig(file, metadata={})
        return file.getvalue()

    first = picture()
    assert first == picture()
    assert len(first) > 10_000


def test_no_display_and_no_pyplot(tmp_path):
    code = """
import sys
import torch
from pctransformer.visualization.figures import prediction_figure, training_figure
prediction_figure(torch.rand(9, 3), [("a", 1.0)], "b").savefig(sys.argv[1])
training_figure([{"epoch": 0, "train_loss": 1.0}]).savefig(sys.argv[1])
print("matplotlib.pyplot" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.png")],
        capture_output=True,
        text=True,
        env=os.environ | {"DISPLAY": ":99"},
    )
    assert result.stdout.strip() == "False", result.stderr
