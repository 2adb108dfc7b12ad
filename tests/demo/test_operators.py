import json

import numpy as np
import pytest
from matplotlib.image import imread

from pctransformer import cli
from pctransformer.demo import operators
from pctransformer.demo.operators import Config, Seen, Timing
from pctransformer.errors import UserError


def test_trefoil_is_the_same_every_time_and_lies_on_its_tube():
    cloud = operators.trefoil(2000)
    assert cloud.shape == (2000, 3)
    assert cloud.dtype == np.float32
    assert np.array_equal(cloud, operators.trefoil(2000))
    assert not np.array_equal(cloud, operators.trefoil(2000, seed=1))
    t = np.linspace(0, 2 * np.pi, 5000)
    middle = np.stack([np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t), -np.sin(3 * t)], 1)
    distance = np.linalg.norm(cloud[:, None] - middle, axis=2).min(1)
    assert distance == pytest.approx(0.45, abs=0.01)


def test_operators_see_what_they_should():
    cloud = operators.trefoil(600)
    seen, timings = operators.look_and_time(cloud)
    assert len(set(seen.samples)) == operators.SAMPLES
    distance = np.linalg.norm(cloud[:, None] - cloud[seen.samples], axis=2)
    assert np.array_equal(distance.argmin(1), seen.patch)
    from_query = np.linalg.norm(cloud - cloud[seen.query], axis=1)
    assert set(seen.nearest) == set(np.argsort(from_query)[: operators.NEIGHBOURS])
    assert set(seen.ball) == set(np.flatnonzero(from_query < operators.RADIUS))
    assert sorted(seen.order) == list(range(600))
    steps = np.linalg.norm(np.diff(cloud[seen.order], axis=0), axis=1)
    assert np.median(steps) < 0.25 * np.median(np.linalg.norm(np.diff(cloud, axis=0), axis=1))
    assert all(timing.ours_ms > 0 and timing.plain_torch_ms > 0 for timing in timings)


def test_plain_torch_is_what_is_timed_as_plain_torch(monkeypatch):
    from pctransformer.ops import reference

    called = set()

    def watch(name, function):
        return lambda *arguments: called.add(name) or function(*arguments)

    watched = {name: watch(name, function) for name, function in reference.OPERATORS.items()}
    monkeypatch.setattr(reference, "OPERATORS", watched)
    operators.look_and_time(operators.trefoil(256))
    assert {"farthest_point_sample", "knn", "ball_query", "hilbert_code", "ragged_attention"} <= called


def test_demo_writes_a_picture_and_may_replace_its_own(tmp_path, capsys):
    folder = tmp_path / "runs" / "demo"
    for _ in range(2):
        assert cli.main(["demo", "operators", "--out", str(folder), "--points", "300"]) == 0
    assert str(folder / operators.PICTURE) in capsys.readouterr().out
    picture = imread(folder / operators.PICTURE)
    assert picture.shape == (1600, 2400, 4)
    assert picture.std() > 0.05  # something is drawn
    record = json.loads((folder / operators.RECORD).read_text())
    assert record["points"] == 300
    assert {timing["operator"] for timing in record["timings"]} >= {"farthest_point_sample", "ball_query"}


def test_demo_leaves_other_folders_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="no demo made"):
        operators.run(Config(out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(UserError, match="is a file"):
        operators.run(Config(out=tmp_path / "thesis.txt"))
    with pytest.raises(UserError, match="cannot be made"):
        operators.run(Config(out=tmp_path / "thesis.txt" / "demo"))


@pytest.mark.parametrize("points", [0, 255, 100_001])
def test_demo_explains_its_limits(tmp_path, points):
    with pytest.raises(UserError, match="between 256 and 100000"):
        operators.run(Config(out=tmp_path / "demo", points=points))
    assert not (tmp_path / "demo").exists()


def test_figure_shows_the_numbers_it_is_given():
    cloud = operators.trefoil(300)
    rows = np.arange(300)
    seen = Seen(cloud, rows[:8], rows % 8, 3, rows[:5], rows[:9], rows[::-1])
    figure = operators.draw(seen, [Timing("one", "a thing", 1.0, 20.0), Timing("two", "another", 2.0, 3.0)])
    texts = [text.get_text() for text in figure.texts] + [text.get_text() for text in figure.axes[-1].texts]
    assert "9 points within 0.45 m of a sample, and its 5 nearest" in texts
    assert {"20x", "1.5x"} <= set(texts)
    for axes in figure.axes[:-1]:
        spans = np.ptp([axes.get_xlim(), axes.get_ylim(), axes.get_zlim()], axis=1)
        assert spans == pytest.approx(spans[0])
