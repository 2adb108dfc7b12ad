import numpy as np
import pytest

from pctransformer.datasets.rooms import ROOM_CLASSES
from pctransformer.visualization.scenes import class_colors, scene_figure


def test_colours_of_classes_differ():
    for names in (ROOM_CLASSES, [f"class {i}" for i in range(20)]):
        colors = class_colors(names)
        assert colors.shape == (len(names), 3)
        apart = np.abs(colors[:, None] - colors[None]).sum(2) + np.eye(len(names))
        assert apart.min() > 0.05
    assert (class_colors(["wall"]) == class_colors(ROOM_CLASSES)[:1]).all()  # the same in every picture


def test_a_scene_from_above_and_from_one_side():
    xyz = np.random.default_rng(0).random((500, 3)) * [4, 4, 2.5]
    labels = np.arange(500) % 3 - 1
    figure = scene_figure(xyz, labels, ["wall", "floor"], "scan.ply", true=labels, colors=xyz / 4)
    views = [axes for axes in figure.axes if axes.collections]
    assert len(views) == 6
    counts = [len(axes.collections[0].get_offsets()) for axes in views]
    assert counts[0] == (xyz[:, 2] <= xyz[:, 2].min() + 0.72 * np.ptp(xyz[:, 2])).sum()  # no ceiling from above
    assert counts[1] > counts[0]
    texts = " ".join(text.get_text() for text in figure.texts)
    for word in ("scan.ply", "500 points", "wall  33", "floor  33", "no class  33"):
        assert word in texts
    figure.canvas.draw()


def test_nothing_to_draw_and_errors():
    scene_figure(np.zeros((0, 3)), np.zeros(0, int), ["wall"], "empty").canvas.draw()
    with pytest.raises(ValueError, match="5 points, but 4"):
        scene_figure(np.zeros((5, 3)), np.zeros(4, int), ["wall"], "wrong")
