"""A run is loaded as what it was trained for; what cannot be loaded is explained."""

import pytest
import torch
from safetensors.torch import save_file

import pctransformer
from pctransformer.errors import UserError
from pctransformer.predict import load
from tests.test_predict_classes import BEST, cloud
from tests.trained import CLASSES, write_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_checkpoint(folder / BEST)
    write_checkpoint(folder / "checkpoints" / "last.safetensors", seed=1)
    return folder


def test_it_is_there_under_the_packages_name():
    assert pctransformer.load is load
    assert pctransformer.predict.load is load


def test_a_run_stands_for_its_best_checkpoint(run):
    points, predictor = cloud(), load(run)
    expected = predictor.predict(points).classes
    assert load(run / BEST).predict(points).classes == expected
    assert load(run / "checkpoints" / "last.safetensors").predict(points).classes != expected
    assert predictor.class_names == CLASSES
    assert not predictor.model.training


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"task": "pretraining"}, "trained for pretraining"),
        ({"model": {"name": "pct9", "options": {}, "num_classes": 3}}, "version 0.1.0.*no model is called 'pct9'"),
        ({"model": {"name": "pct", "options": {"wings": 2}, "num_classes": 3}}, "wings"),
        ({"model": {"name": "npct", "options": {}, "num_classes": 3}}, "npct has changed since .*missing: .*commit"),
        ({"model": {"name": "pct"}}, "it lacks 'num_classes'"),
        ({"settings": {"flaps": 1}}, "flaps"),
        ({"settings": None}, "cannot be used"),
        ({"class_names": ["bowl", "cup"]}, "2 class names, but its model has 3 classes"),
    ],
)
def test_checkpoints_that_do_not_fit(tmp_path, changes, text):
    path = write_checkpoint(tmp_path / "model.safetensors", **changes)
    with pytest.raises(UserError, match=text):
        load(path)


def test_files_that_are_no_checkpoints(tmp_path, run):
    content = (run / BEST).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-100])
    (tmp_path / "flipped.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    for name, text in {
        "cut.safetensors": "not a readable safetensors file",
        "flipped.safetensors": "has changed since it was written",
        "foreign.safetensors": "not what model they belong to",
        "none.safetensors": "does not exist",
        ".": "has no checkpoints/best.safetensors",
    }.items():
        with pytest.raises(UserError, match=text):
            load(tmp_path / name)
    with pytest.raises(UserError, match="is no device"):
        load(run, device="abacus")
