"""The command: public weights become a run that says what they say, and nothing is imported in part."""

import json

import numpy as np
import pytest
import torch

from pctransformer import cli, load
from pctransformer.models import create_model
from tests.models import openpcdet
from tests.real_data import real_data
from tests.trained import PCT, write_checkpoint

OPTIONS = [f"{name}={json.dumps(value)}" for name, value in PCT.items()]
NAMES = ("bowl", "flower pot", "vase")


@pytest.fixture
def weights(tmp_path):
    """A file as torch writes it, with the class names beside it."""
    torch.manual_seed(0)
    torch.save({"state_dict": create_model("pct", num_classes=3, in_channels=6, **PCT).state_dict()}, tmp_path / "a.pt")
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    return tmp_path / "a.pt"


def import_weights(file, *words):
    return cli.main(["import-weights", *map(str, [file, *words])])


def test_a_classifier_becomes_a_run(weights, tmp_path, capsys):
    options = ["--model", "pct", "--model-options", *OPTIONS, "--classes", tmp_path / "names.txt", "--normals"]
    assert import_weights(weights, *options, "--num-points", 48, "--out", tmp_path / "run") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"run:    {tmp_path / 'run'}, pct of 3 classes, bowl to vase" in out
    predictor = load(tmp_path / "run")
    assert predictor.class_names == NAMES
    points = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)
    points[:, 3:] /= np.linalg.norm(points[:, 3:], axis=1, keepdims=True)
    prediction = predictor.predict(points)
    assert len(prediction.xyz) == 48
    theirs = create_model("pct", num_classes=3, in_channels=6, pretrained=weights, **PCT).eval()
    with torch.no_grad():
        logits = theirs(predictor.prepare(points).points[None])
    expected = dict(zip(NAMES, logits[0].softmax(0).tolist()))
    assert dict(prediction.classes) == pytest.approx(expected, rel=1e-4)

    np.save(tmp_path / "cup.npy", points)
    assert cli.main(["show", str(tmp_path / "cup.npy"), "--model", str(tmp_path / "run"), "--to", "npz"]) == 0
    assert cli.main(["info", str(tmp_path / "run")]) == 0


def test_a_public_detector_becomes_a_run(tmp_path):
    theirs = tmp_path / "pointpillar_7728.pth"
    torch.save(openpcdet.file_content(openpcdet.weights_of(openpcdet.POINTPILLAR)), theirs)
    assert import_weights(theirs, "--model", "pointpillars", "--out", tmp_path / "run") == 0
    predictor = load(tmp_path / "run")
    assert predictor.class_names == ("Car", "Pedestrian", "Cyclist")
    expected = create_model("pointpillars", pretrained=theirs).state_dict()
    for name, value in predictor.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_what_cannot_be_imported_is_said(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = write_checkpoint(tmp_path / "own" / "checkpoints" / "best.safetensors")
    (tmp_path / "two.txt").write_text("bowl\nvase")
    pct = ["--model", "pct", "--model-options", *OPTIONS, "--normals"]
    named = [*pct, "--classes", tmp_path / "names.txt"]
    for words, said in (
        ([weights, *pct], "--classes: what do the logits mean?"),
        ([weights, *pct, "--classes", tmp_path / "two.txt"], "Are --classes all classes that it was trained on?"),
        ([weights, *pct, "--classes", tmp_path / "none.txt"], "none.txt: there is no such file"),
        ([weights, *named, "--out", tmp_path / "own"], "exists already and is not overwritten"),
        ([weights, *named[:1], "npct", "--classes", tmp_path / "names.txt"], "do not fit"),
        ([weights, *named[:1], "pctt"], "pctt"),
        ([weights, "--model", "point_mae_pretraining"], "is for pretraining"),
        ([weights, "--model", "pointpillars", "--normals"], "--normals is not for a detector"),
        ([tmp_path / "none.pt", *named], "does not exist"),
        ([tmp_path / "own", *named], "is a folder"),
        ([own, *named], "is a checkpoint of this package already"),
        ([weights, *named, "--num-points", 0], "--num-points must be at least 1"),
    ):
        assert import_weights(*words) == 2, said
        assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_public_weights_know_an_aeroplane(tmp_path):
    """Those of souheib1/Point-Transformer, on a shape of ModelNet40 as it comes."""
    shapes = real_data("modelnet40/modelnet40_normal_resampled")
    names = ["--classes", shapes / "modelnet40_shape_names.txt", "--normals", "--out", tmp_path / "run"]
    public = real_data("checkpoints/point_transformer_modelnet40.pt")
    assert import_weights(public, "--model", "point_transformer", *names) == 0
    prediction = load(tmp_path / "run").predict(shapes / "airplane" / "airplane_0178.txt")
    assert prediction.label == "airplane"
    assert prediction.probability > 0.99
