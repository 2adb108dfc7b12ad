"""The command: a picture and coloured points, from where one asks, and what it refuses."""

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from pctransformer import cli, load, record_attention
from pctransformer.datasets import read_points, write_ply
from pctransformer.visualization.color_scale import color_scale
from pctransformer.visualization.rollout import attention_rollout, layer_attention
from pctransformer.visualization.sources import attention_layers, pooled_vector
from tests.trained import write_checkpoint


@pytest.fixture
def run(tmp_path):
    write_checkpoint(tmp_path / "run" / "checkpoints" / "best.safetensors")
    return tmp_path / "run"


@pytest.fixture
def cup(tmp_path):
    write_ply(tmp_path / "cup.ply", np.random.default_rng(0).normal(size=(100, 3)))
    return tmp_path / "cup.ply"


def explain(*arguments):
    return cli.main(["explain", *map(str, arguments)])


def test_picture_and_points_say_what_the_maps_say(run, cup, capsys):
    assert explain(cup, "--model", run) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert sorted(path.name for path in (run / "attention").iterdir()) == ["cup.ply", "cup.png"]
    assert imread(run / "attention" / "cup.png").std() > 0.05

    predictor = load(run)
    sample = predictor.prepare(cup)
    with record_attention(predictor.model) as maps:
        (prediction,) = predictor.classify([sample])
    assert out.splitlines()[0] == f"{cup}: {prediction.label} {prediction.probability:.1%}"
    source = pooled_vector(maps)
    expected = [attention_rollout(maps, source, 48)]
    expected += [layer_attention(maps, i, source, 48) for i in attention_layers(maps)]
    names = ("rolled_out", *(f"layer_{i}" for i in range(len(expected) - 1)))
    assert len(names) == 5
    columns = read_points(run / "attention" / "cup.ply", features=names)
    np.testing.assert_allclose(columns[:, :3], sample.xyz, rtol=1e-6)
    np.testing.assert_allclose(columns[:, 3:].T, torch.stack(expected), rtol=1e-4, atol=1e-7)
    colours = read_points(run / "attention" / "cup.ply", features=("red", "green", "blue"))[:, 3:]
    shown = color_scale(expected[0].numpy()).colors(expected[0].numpy())
    np.testing.assert_allclose(colours / colours.max() * shown.max(), shown, atol=0.02)


def test_layers_without_weights_of_pairs_are_named(tmp_path, cup, capsys):
    options = {"dim": 16, "depth": 2, "num_patches": 8, "patch_size": 4, "widths": [8, 8], "mixer": "lstm"}
    path = write_checkpoint(tmp_path / "checkpoints" / "best.safetensors", name="patch_mixer", options=options)
    assert explain(cup, "--model", path, "--out", tmp_path / "out") == 0
    out, _ = capsys.readouterr()
    mixers = ", ".join(f"encoder.layers.{i}.parts.0.mixer" for i in (0, 1))
    assert f"not in it, since tokens mix there without weights of pairs: {mixers}\n" in out


def test_from_a_point(run, cup, tmp_path):
    """The same picture but for the source: another point, other weights."""
    weights = []
    for out, source in (("a", 0), ("b", 1)):
        assert explain(cup, "--model", run, "--source", source, "--out", tmp_path / out) == 0
        weights.append(read_points(tmp_path / out / "cup.ply", features=("rolled_out",))[:, 3])
        assert weights[-1].sum() == pytest.approx(1, abs=1e-4)
    assert np.abs(weights[0] - weights[1]).max() > 1e-3


def test_nothing_is_overwritten(run, cup, capsys):
    for name in ("attention", "attention-2"):
        assert explain(cup, "--model", run) == 0
        assert (run / name / "cup.png").is_file()
    assert explain(cup, "--model", run, "--out", run / "attention") == 2
    assert "is not overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere.ply"], "there is no such file"),
        (["{cup}", "--source", "head"], "--source must be pooled, class_token, or the row of a point, got 'head'"),
        (["{cup}", "--source", "class_token"], "--source class_token: the model has no class token"),
        (["{cup}", "--source", "48"], "--source 48: row must be at least 0 and below 48"),
        (["{holes}"], "--not-finite drop leaves such points out"),
    ],
)
def test_faults_of_the_user(run, cup, tmp_path, capsys, arguments, text):
    np.save(tmp_path / "holes.npy", np.insert(np.random.default_rng(0).normal(size=(50, 3)), 7, np.nan, axis=0))
    filled = [a.format(cup=cup, holes=tmp_path / "holes.npy") for a in arguments]
    assert explain(*filled, "--model", run) == 2
    assert text in capsys.readouterr().err
    assert not (run / "attention").exists()
