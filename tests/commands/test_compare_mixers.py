"""The command as a user runs it, on next to nothing."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from matplotlib.image import imread

from pctransformer import cli
from pctransformer.commands.compare_mixers import Config
from pctransformer.layers.mixers import list_mixers
from pctransformer.models import create_model
from pctransformer.training import checkpoint, many
from pctransformer.training.serialization import from_json, to_json

SMALL = [
    *("--num-shapes", "76", "--validation", "0.25", "--num-points", "64", "--eval-points", "64"),
    *("--batch-size", "19", "--epochs", "1"),
    *("--dim", "16", "--depth", "1", "--num-patches", "8", "--patch-size", "4", "--widths", "8", "8"),
]


def run(*arguments: str | Path) -> int:
    return cli.main(["compare-mixers", *map(str, arguments)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mixers"
    assert run("--out", folder, *SMALL, "--mixers", "lstm", "mean_pool", "--seeds", "0") == 0
    return folder


def test_the_table_is_of_the_runs(finished):
    assert {path.name for path in finished.iterdir()} == {
        *("settings.json", "log.txt", "runs", "comparison.md", "comparison.json", "comparison.png"),
    }
    assert sorted(path.name for path in (finished / "runs").iterdir()) == ["lstm-0", "mean_pool-0"]
    comparison = json.loads((finished / "comparison.json").read_text())
    assert comparison["test_shapes"] == 19
    assert [found["name"] for found in comparison["results"]] == ["lstm", "mean_pool"]
    for found in comparison["results"]:
        folder = finished / "runs" / f"{found['name']}-0"
        of_run = json.loads((folder / "results.json").read_text())
        (epoch,) = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        assert found["seeds"] == [0]
        assert found["overall_accuracy"]["values"] == [of_run["test"]["overall_accuracy"]]
        assert found["mean_class_accuracy"]["mean"] == of_run["test"]["mean_class_accuracy"]
        assert found["train_shapes_per_second"] == epoch["shapes_per_second"] > 0
        assert found["test_shapes_per_second"] == of_run["test_shapes_per_second"] > 0
        assert found["peak_memory_mb"] == epoch["peak_memory_mb"]
        trained = checkpoint.read(folder)
        assert trained.about["model"]["name"] == "patch_mixer"
        options = {"mixer": found["name"], "dim": 16, "depth": 1, "num_patches": 8, "patch_size": 4, "widths": [8, 8]}
        assert trained.about["model"]["options"].items() >= options.items()
        assert found["parameters"] == sum(p.numel() for p in trained.build_model().parameters())
    lstm, floor = comparison["results"]
    per_token = 4 * 8 * (16 + 8)  # four gates of 8 channels from 16 and from 8, in each direction
    assert lstm["multiply_adds"] - floor["multiply_adds"] == 8 * 2 * per_token
    document = (finished / "comparison.md").read_text()
    assert "| lstm | recurrent | " in document
    assert all(f"- {sentence}" in document for sentence in comparison["conclusions"])
    assert imread(finished / "comparison.png").std() > 0.01


def test_only_what_is_missing_is_trained(finished, tmp_path, capsys):
    folder = tmp_path / "more"
    shutil.copytree(finished, folder)
    kept = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps({**kept, "out": str(folder)}))
    before = (folder / "runs" / "lstm-0" / "results.json").stat().st_mtime_ns
    assert run("--resume", folder) == 0
    assert "2 trainings, 2 of them done" in capsys.readouterr().out
    assert run("--resume", folder, "--seeds", "0", "1", "--mixers", "lstm", "--jobs", "2") == 0
    output = capsys.readouterr().out
    assert "2 trainings, 1 of them done, 2 at a time" in output
    assert "2/2  lstm, seed 1: OA " in output
    assert "From seed to seed" not in output  # there is but one mixer
    (found,) = json.loads((folder / "comparison.json").read_text())["results"]
    assert found["seeds"] == [0, 1]
    assert len(found["overall_accuracy"]["values"]) == 2
    assert (folder / "runs" / "lstm-0" / "results.json").stat().st_mtime_ns == before


def test_all_trainings_have_the_same_settings(finished, capsys):
    for epochs in ("7", "8"):  # 8 is the default
        assert run("--resume", finished, "--epochs", epochs) == 2
        assert f"--epochs {epochs} was given, but {finished} was begun with 1; all" in capsys.readouterr().err
    assert run("--out", finished, *SMALL) == 2
    assert f"--resume {finished} goes on with it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--mixers", "lstn"], "--mixers: no mixer is called 'lstn'; did you mean 'lstm'"),
        (["--mixers", "lstm", "lstm"], "--mixers must be one or more, all different"),
        (["--seeds", "1", "1"], "--seeds must be one or more, all different, got 1 1"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--data", "nowhere"], "there is no such file or folder"),
        (["--dim", "15", "--mixers", "lstm"], "halves the channels, but there are 15"),
    ],
)
def test_faults_of_the_user_leave_no_folder_behind(tmp_path, capsys, arguments, text):
    assert run("--out", tmp_path / "run", *SMALL, *arguments) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_torchrun(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(*SMALL) == 2
    assert "without torchrun" in capsys.readouterr().err


def test_trainings_on_other_machines_are_told(finished, tmp_path):
    folder = tmp_path / "mixers"
    shutil.copytree(finished, folder)
    results = folder / "runs" / "mean_pool-0" / "results.json"
    of_run = json.loads(results.read_text())
    results.write_text(json.dumps({**of_run, "environment": {**of_run["environment"], "processor": "abacus"}}))
    assert run("--resume", folder) == 0
    (said,) = [line for line in (folder / "comparison.md").read_text().splitlines() if "ran alike" in line]
    assert said.startswith("- Not all trainings ran alike: processor was ")
    assert said.endswith(", is abacus.")
    assert "ran alike" not in (finished / "comparison.md").read_text()


def test_a_failed_training_is_left_out(finished, tmp_path, capsys, monkeypatch):
    """Those that are done make the table; the next --resume tries again."""
    fail = [sys.executable, "-c", "import sys; sys.exit('pctransformer: the loss is nan')"]
    monkeypatch.setattr(many, "_command", lambda settings: fail)
    folder = tmp_path / "mixers"
    shutil.copytree(finished, folder)
    assert run("--resume", folder, "--mixers", "lstm", "rnn") == 1
    output = capsys.readouterr().out
    assert "2/2  rnn, seed 0: failed: the loss is nan" in output
    assert output.endswith("rnn, seed 0 failed: the loss is nan\n")
    assert [found["name"] for found in json.loads((folder / "comparison.json").read_text())["results"]] == ["lstm"]
    assert run("--out", tmp_path / "none", *SMALL, "--mixers", "rnn", "--seeds", "0") == 1
    assert not (tmp_path / "none" / "comparison.md").exists()


def test_interrupted_says_how_to_go_on_and_leaves_no_training_behind(tmp_path):
    folder = tmp_path / "run"
    arguments = ["--out", str(folder), *SMALL, "--epochs", "1000", "--mixers", "shift"]
    command = [sys.executable, "-m", "pctransformer", "compare-mixers", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    limit = time.monotonic() + 200
    while not (folder / "runs" / "shift-0" / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 130
    assert f"`pctransformer compare-mixers --resume {folder}` goes on" in output
    assert "Traceback" not in output
    assert (
        "interrupted; `pctransformer train classification --resume"
        in (folder / "runs" / "shift-0" / "log.txt").read_text()
    )


def test_defaults():
    """All mixers, three seeds; options survive JSON; the backbone's options are those of patch_mixer."""
    assert set(Config().mixers) == set(list_mixers())
    assert Config().seeds == (0, 1, 2)
    assert from_json(Config, json.loads(json.dumps(to_json(Config())))) == Config()
    create_model("patch_mixer", **to_json(Config().backbone))
