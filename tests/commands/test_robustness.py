"""The command: what it tests on, what it prints and writes, what it refuses."""

import dataclasses
import json

import numpy as np
import pytest
from matplotlib.image import imread

from pctransformer import cli
from pctransformer.datasets import modelnet_npz
from pctransformer.datasets.corruptions import CORRUPTIONS
from pctransformer.evaluation import evaluate_robustness
from pctransformer.training import checkpoint, data
from pctransformer.training.serialization import to_json
from pctransformer.training.settings import ClassificationTraining, DataSettings
from tests.trained import CLASSES, write_checkpoint

SHAPES = 9


def robustness(*arguments):
    return cli.main(["robustness", *map(str, arguments)])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two runs, one of them with normals, and shapes of their three classes."""
    folder = tmp_path_factory.mktemp("robustness")
    write_checkpoint(folder / "plain" / "checkpoints" / "best.safetensors")
    write_checkpoint(folder / "normals" / "checkpoints" / "best.safetensors", normals=True, seed=1)
    points = np.random.default_rng(0).normal(size=(2 * SHAPES, 60, 6)).astype(np.float32)
    points[..., 3:] /= np.linalg.norm(points[..., 3:], axis=-1, keepdims=True)
    write_shapes(folder / "shapes.npz", points, CLASSES)
    write_shapes(folder / "other.npz", points, ("bowl", "lamp", "vase"))
    return folder


def write_shapes(path, points, class_names):
    count = len(points)
    np.savez(
        path, points=points, label=np.arange(count) % 3, split=np.repeat(["train", "test"], count // 2),
        ids=np.arange(count).astype(str), class_names=np.array(class_names),
    )  # fmt: skip


def test_one_run(place, tmp_path, capsys):
    """What is written is what the library computes from the same shapes."""
    assert robustness(place / "plain", "--data", place / "shapes.npz", "--out", tmp_path / "a") == 0
    text = capsys.readouterr().out
    assert "drop_local" in text
    assert f"({SHAPES} shapes, each corrupted in 35 ways)" in text
    result = json.loads((tmp_path / "a" / "results.json").read_text())
    assert (result["eval_points"], result["seed"], result["baseline"]) == (48, 0, None)
    (model,) = result["models"]
    assert "mean_corruption_error" not in model
    settings = DataSettings(data=str(place / "shapes.npz"), num_points=64, eval_points=48)
    best = checkpoint.read(place / "plain")
    expected = evaluate_robustness(best.build_model(), data.testing_data(settings))
    assert model == {
        "name": str(place / "plain"),
        "checkpoint": str(best.path),
        "epoch": 7,
        **expected.as_dict(),
    }
    assert model["count"] == SHAPES
    assert f"mOA {expected.mean_overall_accuracy:.4f}" in text
    for name in ("robustness", "corruptions"):
        assert imread(tmp_path / "a" / f"{name}.png").std() > 0.01


def test_runs_are_compared_on_the_same_clouds(place, capsys, monkeypatch):
    """A model with normals and one without: mCE by hand from the errors that were written."""
    seen = {}

    def record(model, samples, **how):
        seen[model.in_channels] = [samples[i] for i in range(len(samples))]
        return evaluate_robustness(model, samples, **how)

    monkeypatch.setattr("pctransformer.evaluation.robustness.evaluate_robustness", record)
    arguments = (place / "plain", "--baseline", place / "normals", "--data", place / "shapes.npz")
    assert robustness(*arguments, "--json", "--seed", 3) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((place / "plain" / "robustness" / "results.json").read_text())
    assert result["seed"] == 3
    assert result["baseline"] == str(place / "normals")
    plain, normals = result["models"]
    assert [plain["name"], normals["name"]] == [str(place / "plain"), str(place / "normals")]
    ratios = [sum(plain["errors"][name]) / sum(normals["errors"][name]) for name in CORRUPTIONS]
    assert plain["mean_corruption_error"] == pytest.approx(sum(ratios) / 7)
    assert normals["mean_corruption_error"] == 1
    for one, other in zip(seen[3], seen[6], strict=True):
        assert one.xyz.tolist() == other.xyz.tolist()
        assert (one.normals, other.normals is None) == (None, False)


def test_the_first_of_several_runs_is_the_baseline(place, tmp_path, capsys):
    runs = (place / "normals", place / "plain" / "checkpoints" / "best.safetensors")
    assert robustness(*runs, "--data", place / "shapes.npz", "--out", tmp_path / "a", "--eval-points", "20") == 0
    text = capsys.readouterr().out
    assert f"mCE and RmCE are relative to {place / 'normals'}" in text
    assert "1.000" in text
    result = json.loads((tmp_path / "a" / "results.json").read_text())
    assert (result["baseline"], result["eval_points"]) == (str(place / "normals"), 20)


def test_shapes_are_those_of_the_runs(place, tmp_path, capsys):
    """Without --data: the data of the runs, if it is one."""

    def settings(source, **changes):
        of_data = DataSettings(data=str(place / source), num_points=64, eval_points=48)
        return to_json(ClassificationTraining(model="pct", data=dataclasses.replace(of_data, **changes)))

    write_checkpoint(tmp_path / "a.safetensors", settings=settings("shapes.npz"))
    write_checkpoint(tmp_path / "b.safetensors", settings=settings("other.npz"))
    write_checkpoint(tmp_path / "c.safetensors", settings=settings("shapes.npz", eval_points=30))
    assert robustness(tmp_path / "a.safetensors", "--out", tmp_path / "out") == 0
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert result["data"] == str(place / "shapes.npz")
    assert result["models"][0]["count"] == len(modelnet_npz(place / "shapes.npz", "test"))
    capsys.readouterr()
    assert robustness(tmp_path / "a.safetensors", tmp_path / "b.safetensors") == 2
    assert f"--data {place / 'shapes.npz'} and {place / 'other.npz'}" in capsys.readouterr().err
    assert robustness(tmp_path / "a.safetensors", "--baseline", tmp_path / "c.safetensors") == 2
    assert "evaluated with --eval-points 48 and 30, and models can be compared only on the" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "robustness of what? give runs"),
        (["nowhere"], "nowhere does not exist"),
        (["{place}/plain", "--seed", "-1"], "--seed must be 0 or more"),
        (["{place}/plain", "--out", "{place}"], "is not overwritten"),
        (["{place}/plain", "--data", "nowhere"], "there is no such file"),
        (["{place}/plain", "--data", "{place}/other.npz"], "knows 3 classes, bowl, cup, vase, and"),
    ],
)
def test_faults_of_the_user(place, capsys, arguments, text):
    assert robustness(*(argument.format(place=place) for argument in arguments)) == 2
    assert text in capsys.readouterr().err
