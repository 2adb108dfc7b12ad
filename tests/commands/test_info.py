import json

import pytest
import torch

from pctransformer import cli, create_model, list_models
from pctransformer.commands.info import describe
from pctransformer.errors import UserError
from pctransformer.models import model_info
from tests.trained import write_checkpoint


@pytest.mark.parametrize("name", list_models())
def test_every_model_is_described(name):
    facts = describe(name, num_points=64)
    model = create_model(name)
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert [*facts["parts"]] == [part for part, _ in model.named_children()]
    assert sum(part["parameters"] for part in facts["parts"].values()) == facts["parameters"]
    assert sum(part["multiply_adds"] for part in facts["parts"].values()) == facts["multiply_adds"] > 0
    assert facts["in_channels"] == model.in_channels
    assert facts["model"]["options"]["in_channels"] == model.in_channels
    classes = {"classification": 40, "segmentation": 50, "detection": 3, "pretraining": None}
    assert json.loads(json.dumps(facts))["num_classes"] == classes[model_info(name).task]


def test_multiply_adds_of_naive_pct_by_hand():
    """n points: two layers, four attention layers whose queries and keys are one projection, one fusing layer."""
    n = 50
    facts = describe("npct", num_points=n)
    attention = n * (128 * 32 + 2 * 128 * 128) + n * n * (32 + 128)
    assert facts["parts"]["embedding"]["multiply_adds"] == n * (3 * 128 + 128 * 128)
    assert facts["parts"]["attention"]["multiply_adds"] == 4 * attention
    assert facts["parts"]["fuse"]["multiply_adds"] == n * 512 * 1024
    assert facts["parts"]["head"]["multiply_adds"] == 1024 * 512 + 512 * 256 + 256 * 40


def test_output_is_told_by_task(capsys):
    for name, words in (
        ("pointnet2_ssg", "(B, 40) logits"),
        ("pointnet2_ssg_seg", "(N, 50) logits of points"),
        ("point_mae_small_pretraining", "points that were hidden"),
        ("pointpillars_small", "boxes of 3 classes"),
    ):
        cli.main(["info", name, "--num-points", "64"])
        assert words in capsys.readouterr().out


def test_text_of_a_model(capsys):
    assert cli.main(["info", "pct", "--num-points", "128"]) == 0
    text = capsys.readouterr().out
    for words in ("2 876 136", "arXiv:2012.09688", "PCT_Pytorch", "cloud of 128 points", "skip_near_origin=False"):
        assert words in text


@pytest.mark.parametrize("place", ["", "checkpoints/best.safetensors"])
def test_a_checkpoint_says_what_was_trained(tmp_path, capsys, place):
    write_checkpoint(tmp_path / "checkpoints" / "best.safetensors", normals=True)
    results = {"epoch": 7, "test": {"overall_accuracy": 0.875, "confusion": [[1]]}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert cli.main(["info", str(tmp_path / place)]) == 0
    text = capsys.readouterr().out
    for words in (
        "3: bowl, cup, vase",
        "metrics     validation_oa 0.9375",
        "test        overall_accuracy 0.875",
        "num_points 64, eval_points 48, normals True",
        "tokens=[32, 16]",
        "(B, 3) logits",
    ):
        assert words in text
    assert ", ," not in text  # no options of the model were given
    facts = describe(str(tmp_path / place), num_points=40)
    assert facts["checkpoint"]["epoch"] == 7
    assert facts["parameters"] < 100_000
    assert facts["in_channels"] == 6
    assert facts["test"] == {"overall_accuracy": 0.875}
    (tmp_path / "results.json").write_text(json.dumps({**results, "epoch": 8}))  # of another checkpoint
    assert "test" not in describe(str(tmp_path / place), num_points=40)


def test_a_models_name_comes_before_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "pct" / "checkpoints" / "best.safetensors")
    assert "checkpoint" not in describe("pct", 64)
    assert "checkpoint" in describe("./pct", 64)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("pct_smal", "did you mean 'pct_small'?"),
        ("runs/none", "runs/none does not exist"),
        ("empty", "empty has no checkpoints/best.safetensors"),
        ("notes.txt", "no checkpoint of this package"),
        ("cut.safetensors", "not a readable safetensors file"),
        ("foreign.safetensors", "not what model they belong to"),
        ("later.safetensors", "written by version 9.0, cannot be used.*no model is called 'pct9'"),
    ],
)
def test_faults_are_explained(tmp_path, monkeypatch, what, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    content = write_checkpoint(tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    from safetensors.torch import save_file

    later = {"name": "pct9", "options": {}, "num_classes": 3}
    write_checkpoint(tmp_path / "later.safetensors", model=later, version="9.0")
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match=text):
        describe(what)


def test_points_must_be_some(capsys):
    assert cli.main(["info", "pct", "--num-points", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err
