"""The command as a user runs it."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from pctransformer import cli
from pctransformer.datasets import write_ply
from pctransformer.datasets.samples import generator_for
from pctransformer.datasets.shapes import make_sample
from pctransformer.models import create_model
from pctransformer.training import checkpoint
from tests.training.runs import in_two_processes

SMALL = [
    *("--num-shapes", "76", "--validation", "0.25"),
    *("--num-points", "64", "--eval-points", "64"),
    *("--batch-size", "19", "--epochs", "4"),
]


def run(*arguments: str | Path) -> int:
    return cli.main(["train", "classification", *map(str, arguments)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run("--out", folder, *SMALL) == 0
    return folder


def test_the_folder_explains_itself(finished):
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert names == {
        *("settings.json", "environment.json", "log.txt", "metrics.jsonl", "metrics.csv", "results.json"),
        *("checkpoints/best.safetensors", "checkpoints/last.safetensors"),
        *("figures/training.png", "figures/confusion.png", "figures/errors.png"),
    }
    settings = json.loads((finished / "settings.json").read_text())
    assert settings["model"] == "pct_small"
    assert settings["optimization"]["precision"] in ("float32", "bf16")  # auto is resolved
    results = json.loads((finished / "results.json").read_text())
    assert results["test"]["count"] == 19
    assert results["test"]["overall_accuracy"] == pytest.approx(1 - len(results["test"]["wrong"]) / 19)
    log = (finished / "log.txt").read_text()
    assert "parameters" in log
    assert log.count("\nepoch ") == 4
    assert "test: OA" in log
    for name in ("training", "confusion", "errors"):
        assert imread(finished / "figures" / f"{name}.png").std() > 0.01


def test_the_tested_model_is_the_one_in_the_checkpoint(finished, tmp_path):
    results = json.loads((finished / "results.json").read_text())
    assert cli.main(["evaluate", str(finished), "--out", str(tmp_path / "again"), "--device", "cpu"]) == 0
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert again["epoch"] == results["epoch"]
    assert again["result"] == results["test"]


def test_a_finished_run_is_not_trained_again(finished, capsys):
    before = (finished / "checkpoints" / "last.safetensors").read_bytes()
    assert run("--resume", finished) == 0
    assert "is done" in capsys.readouterr().out
    assert (finished / "checkpoints" / "last.safetensors").read_bytes() == before


def test_a_run_is_not_overwritten(finished, capsys):
    assert run("--out", finished, *SMALL) == 2
    assert f"--resume {finished} goes on with it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "begun"), [("--lr 0.5", "0.001"), ("--epochs 60", "4"), ("--validation 0.1", "0.25")]
)
def test_a_run_keeps_its_settings(finished, capsys, words, begun):
    """Against defaults, too: 60 epochs and a tenth held out are none of this run's."""
    assert run("--resume", finished, *words.split()) == 2
    assert f"{words} was given, but {finished} was begun with {begun}, and a run" in capsys.readouterr().err


def test_a_run_may_be_told_again_what_it_was_told(finished, capsys):
    assert run("--resume", finished, *SMALL, "--precision", "auto", "--workers", 1) == 0
    assert "is done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--data", "nowhere"], "there is no such file or folder"),
        (["--model", "ptc"], "did you mean 'pct'"),
        (["--model", "npct", "--model-options", "dims=8"], "npct has no option 'dims'; its options are dim, width\n"),
        (["--model-options", "dim=8"], "pct_small has no option 'dim'; it has none"),
        (["--model", "npct", "--model-options", "in_channels=6"], "has no option 'in_channels'"),  # --normals
        (["--model", "npct", "--model-options", "dim=8.5"], "dim of npct must be int, got 8.5"),
        (["--model", "patch_mixer_small", "--model-options", "mixer=lstn"], "did you mean 'lstm'"),
        (
            [
                "--model",
                "patch_mixer_small",
                "--model-options",
                'mixer_options={"slot": 8}',
                "mixer=external_attention",
            ],
            "unexpected keyword argument 'slot'",
        ),
        (["--pretrained", "nowhere.pt"], r"nowhere.pt does not exist"),
        (["--validation", "0"], "--validation must lie between 0 and 1"),
        (["--num-points", "0"], "must be at least 1"),
        (["--batch-size", "7", "--accumulate", "2"], "multiple of 2"),
        (["--device", "cuda:77"], "no device cuda:77"),
        (["--num-shapes", "19"], "too few"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--accumulate", "0"], "--accumulate must be at least 1, got 0"),
        (["--lr", "-1"], "--lr must be at least 0, got -1.0"),
        (["--lr", "nan"], "--lr must be at least 0, got nan"),
        (["--weight-decay", "-1"], "--weight-decay must be at least 0"),
        (["--clip", "-1"], "--clip must be at least 0"),
        (["--warmup-epochs", "-1"], "--warmup-epochs must be at least 0"),
        (["--ema", "1"], "--ema must be at least 0 and below 1, got 1.0"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--workers", "-1"], "--workers must be at least 0, got -1"),
        (["--save-steps", "-1"], "--save-steps must be at least 0"),
    ],
)
def test_faults_of_the_user_leave_no_folder_behind(tmp_path, capsys, arguments, text):
    assert run("--out", tmp_path / "run", *SMALL, *arguments) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_shapes_to_test_on_nothing_is_trained(tmp_path, capsys):
    data = tmp_path / "data.npz"
    points = np.random.default_rng(0).normal(size=(8, 20, 3)).astype(np.float32)
    split, label = np.array(["train"] * 8), np.array([0, 1] * 4)
    np.savez(data, points=points, label=label, split=split, ids=np.arange(8).astype(str), class_names=["a", "b"])
    assert run("--out", tmp_path / "run", *SMALL, "--data", data) == 2
    assert "has no shapes to test on" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pctransformer", "train", "classification", *arguments, "--out", str(folder)]

    def listen() -> None:  # a shell's background jobs, of which the tests may be one, are made deaf to Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=listen
    )  # fmt: skip


def wait_for_first_epoch(folder: Path, process: subprocess.Popen[str]) -> None:
    log = folder / "log.txt"
    limit = time.monotonic() + 200
    while not log.exists() or not re.search("epoch +1/", log.read_text()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_killed_and_resumed_is_unbroken(tmp_path):
    """kill -9 somewhere in the second epoch; the weights at the end are those of a run that was left in peace."""
    arguments = [*SMALL, "--epochs", "4", "--ema", "0.9", "--save-steps", "1"]
    process = start(tmp_path / "killed", *arguments)
    wait_for_first_epoch(tmp_path / "killed", process)
    process.send_signal(signal.SIGKILL)
    output = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL
    assert "\nepoch 1/4  loss" in output  # a plain line, as this is no terminal
    assert "\x1b" not in output
    assert not (tmp_path / "killed" / "results.json").exists()
    assert run("--resume", tmp_path / "killed") == 0
    assert run("--out", tmp_path / "whole", *arguments) == 0
    killed, whole = (checkpoint.read(tmp_path / n / "checkpoints" / "last.safetensors") for n in ("killed", "whole"))
    assert killed.tensors.keys() == whole.tensors.keys()
    assert [name for name in whole.tensors if not torch.equal(killed.tensors[name], whole.tensors[name])] == []
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("killed", "whole")]
    assert results[0]["test"] == results[1]["test"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_says_how_to_go_on(tmp_path, number):
    process = start(tmp_path / "run", *SMALL, "--epochs", "1000")
    wait_for_first_epoch(tmp_path / "run", process)
    process.send_signal(number)
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 130
    assert f"`pctransformer train classification --resume {tmp_path / 'run'}` goes on" in output
    assert "Traceback" not in output


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """Two classes of somebody's clouds, of different sizes."""
    root = tmp_path_factory.mktemp("own")
    for name in ("cup", "lamp"):
        (root / name).mkdir()
        for i in range(12):
            xyz = make_sample(name, 50 + 5 * i, generator_for(7, i)).xyz.numpy()
            if i % 2:
                np.save(root / name / f"{i}.npy", xyz)
            else:
                write_ply(root / name / f"{i}.ply", xyz)
    return root


def test_fine_tuning_on_other_classes(finished, own_data, tmp_path, capsys):
    """From 19 classes to two, in a folder of one's own; all but the last layer starts where the other run ended."""
    best = finished / "checkpoints" / "best.safetensors"
    arguments = ["--data", own_data, "--num-points", 64, "--batch-size", 8, "--validation", 0.2]
    arguments += ["--pretrained", best, "--epochs", 1, "--lr", 1e-9, "--weight-decay", 0, "--precision", "float32"]
    assert run("--out", tmp_path / "tuned", *arguments) == 0
    tuned = checkpoint.read(tmp_path / "tuned")
    assert tuned.about["class_names"] == ["cup", "lamp"]
    before = checkpoint.read(finished).weights
    for name, value in tuned.weights.items():
        if name.startswith("head.classifier"):
            assert value.shape[0] == 2
        elif "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(value, before[name], atol=1e-6, rtol=0)
    assert (own_data / "split.json").exists()
    # the data changes under the run
    (own_data / "split.json").unlink()
    np.save(own_data / "cup" / "late.npy", np.random.default_rng(0).random((60, 3), dtype=np.float32))
    (tmp_path / "tuned" / "results.json").unlink()
    capsys.readouterr()
    assert run("--resume", tmp_path / "tuned") == 2
    assert "the data has changed since the run began" in capsys.readouterr().err


def test_options_of_the_model_are_kept(tmp_path, capsys):
    """From the command line to the checkpoint, from which the model is made again; a run keeps them."""
    model = ["--model", "patch_mixer", "--model-options"]
    options = ["mixer=lstm", "depth=1", "dim=16", "widths=[8, 8]", "num_patches=8", "patch_size=4"]
    assert run("--out", tmp_path / "run", *SMALL, "--epochs", 1, *model, *options) == 0
    kept = checkpoint.read(tmp_path / "run")
    given = {"mixer": "lstm", "depth": 1, "dim": 16, "widths": [8, 8], "num_patches": 8, "patch_size": 4}
    assert kept.about["model"]["options"] == {"in_channels": 3, **given}
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["model_options"] == given
    assert type(kept.build_model().encoder.layers[0].parts[0].mixer).__name__ == "LSTM"
    assert "patch_mixer mixer=lstm depth=1" in (tmp_path / "run" / "log.txt").read_text()
    (tmp_path / "run" / "results.json").unlink()
    capsys.readouterr()
    assert run("--resume", tmp_path / "run", "--model-options", "mixer=rnn") == 2
    assert "--model-options {'mixer': 'rnn'} was given" in capsys.readouterr().err
    assert run("--resume", tmp_path / "run") == 0


def test_weights_of_a_run_are_weights_of_a_model(finished):
    model = create_model("pct_small", num_classes=19, pretrained=finished / "checkpoints" / "last.safetensors")
    kept = checkpoint.read(finished / "checkpoints" / "last.safetensors").weights
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_normals_are_six_channels_and_must_be_there(tmp_path, own_data, capsys):
    arguments = [*SMALL, "--epochs", "1", "--normals", "--model", "point_transformer"]
    assert run("--out", tmp_path / "normals", *arguments) == 0
    assert checkpoint.read(tmp_path / "normals").about["model"]["options"] == {"in_channels": 6}
    assert run("--out", tmp_path / "none", "--data", own_data, "--normals") == 2
    assert "have none; leave it out" in capsys.readouterr().err


def test_two_processes_by_torchrun(tmp_path):
    arguments = [*SMALL, "--epochs", "2", "--batch-size", "8"]
    printed, results = in_two_processes("classification", tmp_path / "run", *arguments)
    assert printed.count("test: OA") == 1
    assert results["test"]["count"] == 19
