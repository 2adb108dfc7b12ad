"""The command as a user runs it, on models of a few thousand weights."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from pctransformer import cli, create_model
from pctransformer.datasets import write_ply
from pctransformer.datasets.samples import generator_for
from pctransformer.datasets.shapes import make_sample
from pctransformer.models import point_mae
from pctransformer.training import checkpoint, pretraining, unlabelled
from pctransformer.training.distributed import World
from pctransformer.training.settings import (
    ClassificationTraining,
    Pretraining,
    PretrainingOptimization,
    UnlabelledData,
)
from tests.training.runs import assert_resumes, in_two_processes

SIZE = ["dim=24", "depth=2", "num_heads=3", "num_patches=10", "patch_size=6", "widths=[8,16]"]
DATA = [*("--num-shapes", "76", "--validation", "0.25", "--num-points", "64"), *("--batch-size", "19")]
MAE = ["--model", "point_mae_pretraining", "--model-options", *SIZE, "decoder_depth=1"]
GPT = ["--model", "point_gpt_pretraining", "--model-options", *SIZE, "generator_depth=1"]
SETTINGS = Pretraining(
    data=UnlabelledData(num_points=64, num_shapes=76, validation=0.25),
    optimization=PretrainingOptimization(batch_size=4, precision="float32"),
)


def run(*arguments: str | Path) -> int:
    return cli.main(["train", "pretraining", *map(str, arguments)])


@pytest.fixture(scope="module")
def clouds(tmp_path_factory):
    """A folder of clouds that nobody has put into classes."""
    root = tmp_path_factory.mktemp("clouds")
    for i in range(8):
        write_ply(root / f"{i}.ply", make_sample("cup", 80, generator_for(3, i)).xyz.numpy())
    return root


@pytest.fixture(scope="module")
def finished(tmp_path_factory, clouds):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run("--out", folder, *MAE, *DATA, "--data", "generated", clouds, "--epochs", 3) == 0
    return folder


def test_the_folder_explains_itself(finished, clouds):
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert names == {
        *("settings.json", "environment.json", "log.txt", "metrics.jsonl", "metrics.csv", "results.json"),
        *("checkpoints/best.safetensors", "checkpoints/last.safetensors"),
        *("figures/training.png", "figures/reconstruction.png"),
    }
    for name in ("training", "reconstruction"):
        assert imread(finished / "figures" / f"{name}.png").std() > 0.01
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((finished / "results.json").read_text())
    assert results["task"] == "pretraining"
    assert results["validation"] == {"loss": min(row["validation_loss"] for row in rows)}
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert not (clouds / "split.json").exists()
    log = (finished / "log.txt").read_text()
    assert f"generated and {clouds}: 63 shapes, 21 more held out" in log
    assert f"pctransformer train classification --model point_mae --pretrained {finished}" in log


def test_the_best_checkpoint_is_the_model_that_was_validated(finished):
    best = checkpoint.read(finished)
    settings = best.settings(Pretraining)
    world = World(torch.device("cpu"))
    shapes = unlabelled.shapes(settings.data, settings.seed)
    found = pretraining._Validation(shapes, settings, world)(best.build_model())
    assert found["loss"] == best.about["metrics"]["validation_loss"]


def test_info_tells_what_it_is_and_others_refuse_it(finished, capsys):
    assert cli.main(["info", str(finished)]) == 0
    text = capsys.readouterr().out
    assert 'create_model("point_mae", pretrained=' in text
    assert "decoder_depth=1" in text
    assert cli.main(["evaluate", str(finished)]) == 2
    assert "was pretrained without labels" in capsys.readouterr().err
    assert cli.main(["predict", "a.ply", "--model", str(finished)]) == 2
    assert "was trained for pretraining" in capsys.readouterr().err
    assert cli.main(["train", "classification", "--resume", str(finished)]) == 2
    assert f"`pctransformer train pretraining --resume {finished}` goes on with it" in capsys.readouterr().err


def test_the_size_of_a_step_is_that_of_trainings_on_shapes(tmp_path):
    data = ["--num-shapes", 76, "--validation", 0.25, "--num-points", 64]
    assert run("--out", tmp_path / "run", *MAE, *data, "--epochs", 1) == 0
    settings = checkpoint.read(tmp_path / "run").settings(Pretraining)
    assert settings.optimization.batch_size == ClassificationTraining().optimization.batch_size == 32


@pytest.mark.parametrize("model", [MAE, GPT], ids=["masked", "autoregressive"])
def test_killed_and_resumed_is_unbroken(tmp_path, model):
    """What is hidden, drop path and the order of shapes go on as if nothing had happened."""
    assert_resumes(run, tmp_path, *model, *DATA, "--epochs", 2, "--ema", 0.9, at=(1, 2))


def test_every_step_hides_something_else_and_seeds_differ(tmp_path, monkeypatch):
    hidden: list[tuple[int, ...]] = []
    split = point_mae.random_split

    def watched(clouds, tokens, share, generator=None):
        seen, found = split(clouds, tokens, share, generator)
        if generator is None:  # in training; validation brings its own
            hidden.append(tuple(found.flatten().tolist()))
        return seen, found

    monkeypatch.setattr(point_mae, "random_split", watched)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run("--out", tmp_path / name, *MAE, *DATA, "--epochs", 2, "--seed", seed) == 0
    a, b, c = hidden[:6], hidden[6:12], hidden[12:]
    assert len(hidden) == 18
    assert a == b
    assert len({*a, *c}) == 12


@dataclass(frozen=True)
class Part(World):
    """One of several processes, whose sums are put together by the test."""

    def total(self, values):
        return values


def test_validation_does_not_depend_on_the_number_of_processes():
    torch.manual_seed(0)
    model = create_model("point_mae_small_pretraining")
    shapes = unlabelled.shapes(SETTINGS.data, 0)
    cpu = torch.device("cpu")
    whole = pretraining._Validation(shapes, SETTINGS, World(cpu))(model)["loss"]
    parts = [pretraining._Validation(shapes, SETTINGS, Part(cpu, rank, 3))(model)["loss"] for rank in range(3)]
    assert sum(parts) == pytest.approx(whole, rel=1e-12)
    assert min(parts) > 0
    assert pretraining._Validation(shapes, SETTINGS, Part(cpu, 9, 10))(model)["loss"] == 0  # nothing left for it


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model", "point_mae_small"], "is for classification; for pretraining there are"),
        (["--model", "point_mea_pretraining"], "did you mean 'point_mae_pretraining'"),
        (["--data", "generated", "nowhere"], "there is no such file or folder"),
        (["--data", "{empty}"], "there is no file that ends in"),
        (["--num-points", "0"], "must be at least 1"),
        (["--validation", "1"], "must lie between 0 and 1"),
        (["--pretrained", "nowhere.pt"], "nowhere.pt does not exist"),
    ],
)
def test_faults_of_the_user_leave_no_folder_behind(tmp_path, capsys, arguments, text):
    (tmp_path / "empty").mkdir()
    filled = [argument.format(empty=tmp_path / "empty") for argument in arguments]
    assert run("--out", tmp_path / "run", *DATA, *filled) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_two_processes_by_torchrun(tmp_path):
    arguments = [*MAE, *DATA, "--epochs", "2", "--batch-size", "8"]
    printed, _ = in_two_processes("pretraining", tmp_path / "run", *arguments)
    assert printed.count("held out: loss") == 3  # two epochs, and the end
