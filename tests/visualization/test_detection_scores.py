import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from pctransformer.evaluation.detection import recall_by_distance
from pctransformer.models.tensor_file import write_tensors
from pctransformer.visualization.detection_scores import Convergence, convergence_figure, recall_figure
from tests.evaluation.test_detection import batch, box, some
from tests.visualization.pages import check_page, texts


def test_recall_over_distance():
    truth = batch([(box(5), 0), (box(15), 0), (box(15, 5), 0)])
    found = batch([(box(5.1), 0, 0.5), (box(15.8), 0, 0.4)])
    recalls = {
        f"IoU {limit}": recall_by_distance(truth, found, limit, (0, 10, 20, 30, math.inf)) for limit in (0.5, 0.7)
    }
    figure = recall_figure(recalls, title="Cars")
    check_page(figure)
    assert {"Cars", "IoU 0.5   all: 66.7 %", "IoU 0.7   all: 33.3 %", "1", "2", "0"} <= set(texts(figure))
    axes, counts = figure.axes
    first, second = axes.lines
    assert first.get_ydata().tolist() == [100, 50]
    assert second.get_ydata().tolist() == [100, 0]
    assert (np.abs(first.get_xdata() - [0, 1]) < 0.1).all()
    assert first.get_xdata()[0] < second.get_xdata()[0]  # beside each other
    # Wilson: 1 of 2 is between 9.5 and 90.5 percent
    interval = axes.collections[0].get_segments()[1]
    assert interval[:, 1].tolist() == pytest.approx([9.45, 90.55], abs=0.01)
    assert [bar.get_height() for bar in counts.patches] == [1, 2, 0, 0]
    assert [label.get_text() for label in counts.get_xticklabels()] == ["0-10", "10-20", "20-30", "30+"]


def test_recalls_that_do_not_belong_together():
    truth, found = some()
    one = recall_by_distance(truth, found)
    with pytest.raises(ValueError, match="the same bins and objects"):
        recall_figure({"a": one, "b": recall_by_distance(truth, found, label=0)})
    with pytest.raises(ValueError, match="the same bins and objects"):
        recall_figure({"a": one, "b": recall_by_distance(truth, found, bins=(0, 20))})
    with pytest.raises(ValueError, match="no recall to draw"):
        recall_figure({})
    nothing = recall_by_distance([], [])
    figure = recall_figure({"none": nothing})
    check_page(figure)
    assert "none   all: no objects" in texts(figure)


def curve(first: float, kept: int | None = None) -> Convergence:
    bev = np.array([first, first + 10, first + 15])
    return Convergence(np.array([100, 200, 300]), bev, bev - 5, kept)


def test_convergence_of_several_trainings():
    figure = convergence_figure({"good": curve(40, 1), "worse": curve(20)}, title="Streets")
    check_page(figure)
    assert {
        *("Streets", "good   50.0 from above, 45.0 in space, after 200 scans"),
        "worse   35.0 from above, 30.0 in space, after 300 scans",
    } <= set(texts(figure))
    above, space = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["seen from above", "in space"]
    good, dot, worse = above.lines
    assert good.get_xydata().tolist() == [[100, 40], [200, 50], [300, 55]]
    assert dot.get_xydata().tolist() == [[200, 50]]
    assert worse.get_color() != good.get_color() == dot.get_color()
    assert space.lines[0].get_ydata().tolist() == [35, 45, 50]
    assert above.get_ylim() == space.get_ylim()


def test_trainings_at_their_beginning():
    nothing = Convergence(np.array([10]), np.zeros(1), np.zeros(1))
    check_page(convergence_figure({"first epoch": nothing}))
    check_page(convergence_figure({f"run {i}": curve(i) for i in range(9)}))
    with pytest.raises(ValueError, match="no training to draw"):
        convergence_figure({})
    with pytest.raises(ValueError, match="run has no epoch"):
        convergence_figure({"run": Convergence(*[np.zeros(0)] * 3)})


def tool(*arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["convergence.py", *map(str, arguments)])
        runpy.run_path(str(Path(__file__).parents[2] / "tools" / "convergence.py"), run_name="__main__")


def write_run(folder: Path, epochs: int = 3, **data: object) -> Path:
    """What a training leaves that the tool reads."""
    settings = {"data": {"data": ["streets"], "repeat": [], **data}, "optimization": {}}
    about = {"task": "detection", "settings": settings, "data": {"train": 50, "held_out": 5}, "progress": {}}
    about["progress"]["best_epoch"] = 2
    (folder / "checkpoints").mkdir(parents=True)
    write_tensors(folder / "checkpoints" / "last.safetensors", {"weight": torch.zeros(1)}, about)
    rows = [{"epoch": e, "validation_ap_bev": 10.0 * e, "validation_ap_3d": 8.0 * e} for e in range(1, epochs + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_tool_reads_run_folders(tmp_path, capsys):
    runs = [write_run(tmp_path / "one"), write_run(tmp_path / "two", repeat=[4])]
    tool(*runs, "--out", tmp_path / "made" / "a.png")
    assert imread(tmp_path / "made" / "a.png").std() > 0.01
    out = capsys.readouterr().out
    assert "one: 20.0 from above, 16.0 in space after 100 scans" in out
    assert "two: 20.0 from above, 16.0 in space after 400 scans" in out
    tool(*runs, "--out", tmp_path / "b.png", "--names", "PointPillars", "SECOND")
    assert "SECOND: 20.0" in capsys.readouterr().out


def test_what_the_tool_refuses(tmp_path):
    several = write_run(tmp_path / "several", data=["a", "b"], repeat=[4, 1])
    plain = write_run(tmp_path / "plain")
    for arguments, text in (
        ([tmp_path / "nowhere"], "nowhere"),
        ([several], "several: its sources come differently often in an epoch"),
        ([write_run(tmp_path / "empty", epochs=0)], "empty: no epoch was judged by held-out scans"),
        ([plain, "--names", "a", "b"], "--names wants one for each of 1 runs"),
        ([plain, plain], "names must differ"),
    ):
        with pytest.raises(SystemExit, match=text):
            tool(*arguments, "--out", tmp_path / "never.png")
    assert not (tmp_path / "never.png").exists()
