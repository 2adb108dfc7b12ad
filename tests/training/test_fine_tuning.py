"""What was pretrained, trained further: whole, or frozen under one layer, with all labels or some."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from pctransformer import cli
from pctransformer.errors import UserError
from pctransformer.training import checkpoint, data
from pctransformer.training.settings import DataSettings
from tests.training.runs import assert_same_run, killed_in
from tests.training.test_pretraining import DATA, MAE, SIZE
from tests.training.test_pretraining import run as pretrain

CLASSIFIER = ["--model", "point_mae", "--model-options", *SIZE]
SHAPES = [*DATA, "--eval-points", 64]


def run(*arguments: str | Path | float) -> int:
    return cli.main(["train", "classification", *map(str, arguments)])


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    assert pretrain("--out", folder, *MAE, *DATA, "--epochs", 1) == 0
    return folder


def test_fine_tuning_begins_where_pretraining_ended(pretrained, tmp_path):
    arguments = [*CLASSIFIER, *SHAPES, "--pretrained", pretrained, "--epochs", 1, "--lr", 1e-9, "--weight-decay", 0]
    assert run("--out", tmp_path / "tuned", *arguments, "--precision", "float32") == 0
    before, after = (checkpoint.read(folder).weights for folder in (pretrained, tmp_path / "tuned"))
    shared = [name for name in after if name.startswith(("tokenizer.", "encoder."))]
    assert {name.split(".")[0] for name in after} == {"tokenizer", "encoder", "class_token", "head"}
    for name in shared:
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)


def test_a_frozen_backbone_stays_as_it_was_bit_for_bit(pretrained, tmp_path):
    """Weights, and the statistics of batch norms; also after a kill, and in the average of weights."""
    arguments = [*CLASSIFIER, *SHAPES, "--pretrained", pretrained, "--freeze", "--epochs", 3, "--ema", 0.9]
    assert run("--out", tmp_path / "probe", *arguments) == 0
    before = checkpoint.read(pretrained).weights
    for name in ("best", "last"):
        probe = checkpoint.read(tmp_path / "probe" / "checkpoints" / f"{name}.safetensors")
        own = {key.removeprefix("backbone."): v for key, v in probe.weights.items() if key.startswith("backbone.")}
        assert any("running_mean" in key for key in own)
        assert [key for key in own if key in before and not torch.equal(own[key], before[key])] == []
        assert {key for key in own if key not in before} == {"class_token.token", "class_token.code"}
        assert {key for key in probe.weights if not key.startswith("backbone.")} == {
            *("head.classifier.weight", "head.classifier.bias"),
            *("head.hidden.running_mean", "head.hidden.running_var", "head.hidden.num_batches_tracked"),
        }
    assert f"{19 * 49:,} of them trained" in (tmp_path / "probe" / "log.txt").read_text()  # 48 channels and a bias
    assert cli.main(["evaluate", str(tmp_path / "probe"), "--out", str(tmp_path / "again"), "--device", "cpu"]) == 0
    found, again = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("probe", "again"))
    assert again["result"] == found["test"]


def test_a_killed_probe_goes_on(pretrained, tmp_path):
    """The pretrained weights may be gone by then."""
    weights = tmp_path / "gone.safetensors"
    weights.write_bytes((pretrained / "checkpoints" / "best.safetensors").read_bytes())
    arguments = [*CLASSIFIER, *SHAPES, "--pretrained", weights, "--freeze", "--epochs", 2]
    assert run("--out", tmp_path / "whole", *arguments) == 0
    killed_in(run, tmp_path / "killed", *arguments, at=(1, 1))
    weights.unlink()
    assert run("--resume", tmp_path / "killed") == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model", "point_gpt"], "was pretrained to become point_mae, not point_gpt; give --model point_mae"),
        (
            ["--model", "point_mae", "--model-options", *(option for option in SIZE if "heads" not in option)],
            "pretrained with num_heads 3, but point_mae has 6; give --model-options num_heads=3",
        ),
        (["--model", "point_mae", "--model-options", "dim=48", *SIZE[1:]], "wrong shape: "),
        (["--model", "point_mae", "--model-options", *SIZE[:1], "depth=3", *SIZE[2:]], "missing: encoder.layers.2."),
        ([*CLASSIFIER, "--label-fraction", "0"], "--label-fraction must be above 0 and at most 1, got 0.0"),
        ([*CLASSIFIER, "--normals"], "is (8, 3) in the file, (8, 6) in the model"),
    ],
)
def test_what_does_not_fit_is_explained(pretrained, tmp_path, capsys, arguments, text):
    assert run("--out", tmp_path / "run", *SHAPES, "--pretrained", pretrained, *arguments) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ---- some labels -----------------------------------------------------------------------------------------------------
SOME = DataSettings(num_points=16, eval_points=16, num_shapes=19 * 10, validation=0.25, label_fraction=0.4)


def names(sets: data.TrainingData) -> set[str]:
    return {part.samples[i].name for part in (sets.train, sets.held_out) for i in range(len(part))}


def test_a_share_of_each_class_is_labelled_by_seed():
    first, again, other = (data.training_data(SOME, seed) for seed in (0, 0, 1))
    assert first.train.labels.bincount().tolist() == [3] * 19
    assert first.held_out.labels.bincount().tolist() == [1] * 19  # of what is labelled
    assert len(names(first)) == 19 * 4
    assert names(again) == names(first)
    assert len(names(other) - names(first)) > 19
    every = names(data.training_data(dataclasses.replace(SOME, label_fraction=1), 0))
    assert len(every) == 19 * 10
    assert names(first) < every
    assert len(data.testing_data(SOME)) == 19 * 10 // 4  # all of it


def test_too_few_labels_are_told():
    with pytest.raises(UserError, match="has 19 labelled training shapes of 19 classes: too few to hold some out"):
        data.training_data(dataclasses.replace(SOME, label_fraction=0.01), 0)
