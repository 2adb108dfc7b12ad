"""Pretraining on LiDAR scans as a user runs it, and the detector that starts from it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from pctransformer import cli
from pctransformer.training import checkpoint, pretraining, unlabelled
from pctransformer.training.distributed import World
from pctransformer.training.settings import DetectionTraining, Pretraining, UnlabelledData
from tests.datasets.kitti.files import CALIBRATION, road
from tests.training.runs import assert_resumes, in_two_processes
from tests.training.test_detection import RANGE, SMALL, streets  # noqa: F401  # a fixture
from tests.training.test_detection import run as train_detector

PILLARS = ["--model", "pointpillars_pretraining", "--model-options", RANGE, "voxel_size=[0.4,0.4]", "width=8"]
WINDOWS = ["--model", "pillar_transformer_pretraining", "--model-options", RANGE, "voxel_size=[0.4,0.4]", "dim=16"]
WINDOWS += ["num_heads=2"]
STEPS = ["--validation", "0.25", "--batch-size", "4", "--epochs", "2"]


def run(*arguments: str | Path) -> int:
    return cli.main(["train", "pretraining", *map(str, arguments)])


@pytest.fixture(scope="module")
def roads(tmp_path_factory):
    """KITTI's folders without any labels."""
    training = tmp_path_factory.mktemp("roads") / "training"
    for name in ("velodyne", "calib"):
        (training / name).mkdir(parents=True)
    for seed in range(12):
        generator = np.random.default_rng(seed)
        road(generator, 800).tofile(training / "velodyne" / f"{seed:06}.bin")
        (training / "calib" / f"{seed:06}.txt").write_text(CALIBRATION)
    return training.parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory, roads):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run("--out", folder, *PILLARS, "--data", roads, *STEPS, "--epochs", 4, "--lr", 1e-2) == 0
    return folder


def test_the_folder_explains_itself(finished, roads):
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert names == {
        *("settings.json", "environment.json", "log.txt", "metrics.jsonl", "metrics.csv", "results.json"),
        *("checkpoints/best.safetensors", "checkpoints/last.safetensors"),
        *("figures/training.png", "figures/reconstruction.png"),
    }
    assert imread(finished / "figures" / "reconstruction.png").std() > 0.01
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[0]["train_loss"] == pytest.approx(
        rows[0]["train_occupied"] + rows[0]["train_chamfer"] + rows[0]["train_count"], rel=1e-4
    )
    results = json.loads((finished / "results.json").read_text())
    assert results["validation"] == {"loss": min(row["validation_loss"] for row in rows)}
    log = (finished / "log.txt").read_text()
    assert f"{roads}: 9 scans, 3 more held out" in log
    assert f"pctransformer train detection --model pointpillars --pretrained {finished}" in log


def test_info_and_other_commands(finished, capsys):
    assert cli.main(["info", str(finished)]) == 0
    text = capsys.readouterr().out
    assert 'create_model("pointpillars", pretrained=' in text
    assert "reflectance for instance" in text
    assert cli.main(["few-shot", str(finished)]) == 2
    assert "was trained for pretraining on scans" in capsys.readouterr().err
    assert cli.main(["predict", "a.bin", "--model", str(finished)]) == 2
    assert "was trained for pretraining" in capsys.readouterr().err


def test_fine_tuning_begins_where_pretraining_ended(finished, streets, tmp_path):  # noqa: F811
    """The whole backbone is there, the head is new, and the log says so."""
    arguments = ["--data", streets, *SMALL, "--epochs", 1, "--lr", 1e-9, "--weight-decay", 0]
    assert train_detector("--out", tmp_path / "run", *arguments, "--pretrained", finished) == 0
    before, after = (checkpoint.read(folder).weights for folder in (finished, tmp_path / "run"))
    backbone = [name for name in after if not name.startswith("head.")]
    assert {f"detector.{name}" for name in backbone} == {name for name in before if name.startswith("detector.")}
    for name in backbone:
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(after[name], before[f"detector.{name}"], atol=1e-6, rtol=0)
    head = sum(name.startswith("head.") for name in after)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert f"start:  {finished}/checkpoints/best.safetensors: loaded {len(backbone)} of {len(after)} tensors" in log
    assert "; new: head." in log
    assert f"({head})" in log


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model", "second"], "was pretrained to become pointpillars, not second; give --model pointpillars"),
        (
            ["--model", "pointpillars", "--model-options", RANGE, "width=8"],
            "with voxel_size [0.4, 0.4], but pointpillars has (0.16, 0.16); give --model-options voxel_size=",
        ),
    ],
)
def test_detectors_that_do_not_fit_are_explained(finished, streets, tmp_path, capsys, arguments, text):  # noqa: F811
    arguments = ["--data", streets, *SMALL, "--model-options", RANGE, "--pretrained", finished, *arguments]
    assert train_detector("--out", tmp_path / "run", *arguments) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", [PILLARS, WINDOWS], ids=["pillars", "windows"])
def test_killed_and_resumed_is_unbroken(tmp_path, roads, model):
    """What is hidden, random changes and the order of scans go on as if nothing had happened."""
    assert_resumes(run, tmp_path, *model, "--data", roads, *STEPS, at=(1, 1))


def test_the_size_of_a_step_is_that_of_trainings_on_scans(tmp_path, roads, capsys):
    """It is resolved, kept and left alone when the run goes on; an older run that took more goes on as it was begun."""
    folder = tmp_path / "run"
    assert run("--out", folder, *PILLARS, "--data", roads, "--validation", 0.25, "--epochs", 1) == 0
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["optimization"]["batch_size"] == DetectionTraining().optimization.batch_size == 4
    assert run("--resume", folder) == run("--resume", folder, "--batch-size", 0) == 0
    capsys.readouterr()
    assert run("--resume", folder, "--batch-size", 8) == 2
    assert f"--batch-size 8 was given, but {folder} was begun with 4, and a run" in capsys.readouterr().err
    settings["optimization"]["batch_size"] = 32
    (folder / "settings.json").write_text(json.dumps(settings))
    assert run("--resume", folder) == 0


def test_simulated_streets(tmp_path):
    arguments = ["--data", "generated", "--num-scans", 8, *STEPS, "--batch-size", 2, "--epochs", 1]
    assert run("--out", tmp_path / "run", *PILLARS, *arguments) == 0
    assert checkpoint.read(tmp_path / "run").about["data"] | {"sha256": ""} == {"train": 6, "held_out": 2, "sha256": ""}


def test_random_changes_are_those_of_detectors(roads):
    plain, changed = (
        unlabelled.scans(UnlabelledData(data=(str(roads),), validation=0.25, augmentation=kind), 0).train
        for kind in ("none", "auto")
    )
    one, other = plain[0].points, changed[0].points
    assert len(one) == len(other)
    ratio = np.sort(np.linalg.norm(other[:, :3], axis=1)) / np.sort(np.linalg.norm(one[:, :3], axis=1))
    assert 0.95 <= ratio.min() <= ratio.max() <= 1.05
    assert ratio.max() == pytest.approx(ratio.min(), rel=1e-4)
    assert not np.array_equal(one, other)


def test_the_chosen_checkpoint_is_the_model_that_was_validated(finished):
    best = checkpoint.read(finished)
    settings = best.settings(Pretraining)
    scans = unlabelled.scans(settings.data, settings.seed)
    found = pretraining._Validation(scans, settings, World(torch.device("cpu")))(best.build_model())
    assert found["loss"] == best.about["metrics"]["validation_loss"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--data", "nowhere"], "there is no such folder"),
        (["--data", "{empty}"], "there is no file that ends in one of .bin"),
        (["--validation", "0"], "--validation must lie between 0 and 1"),
        (["--augmentation", "pct"], "--augmentation pct is for shapes; for scans there are auto and none"),
        (["--model", "second_pretraining"], "no model is called 'second_pretraining'"),
    ],
)
def test_faults_of_the_user_leave_no_folder_behind(tmp_path, roads, capsys, arguments, text):
    (tmp_path / "empty").mkdir()
    filled = [argument.format(empty=tmp_path / "empty") for argument in arguments]
    assert run("--out", tmp_path / "run", *PILLARS, "--data", roads, *STEPS, *filled) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_two_processes_by_torchrun(tmp_path, roads):
    printed, _ = in_two_processes("pretraining", tmp_path / "run", *PILLARS, "--data", roads, *STEPS)
    assert printed.count("held out: loss") == 3  # two epochs, and the end
