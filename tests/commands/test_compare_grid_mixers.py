"""The command as a user runs it, on a road with two cars of points in each scan."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from pctransformer import cli
from pctransformer.commands.compare_grid_mixers import Config, _Comparison
from pctransformer.layers.grid_mixers import list_grid_mixers
from pctransformer.models import create_model
from pctransformer.training import checkpoint, many
from pctransformer.training.run_folder import RunFolder
from pctransformer.training.scans import open_scans, write_generated
from pctransformer.training.serialization import from_json, to_json
from pctransformer.training.settings import ScanData
from tests.training.streets import write_streets

SIZES = ("--depths", 1, 1, "--width", 8, "--point-range", 0, -6.4, -3, 19.2, 6.4, 1, "--voxel-size", 0.4, 0.4)
SMALL = (*SIZES, "--classes", "Car", "--validation", 0.25, "--epochs", 1, "--augmentation", "none")


def run(*arguments: object) -> int:
    return cli.main(["compare-grid-mixers", *map(str, arguments)])


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    return write_streets(tmp_path_factory.mktemp("streets"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, streets):
    folder = tmp_path_factory.mktemp("runs") / "grid-mixers"
    assert run("--out", folder, "--data", streets, *SMALL, "--mixers", "identity", "smlp", "--seeds", 0) == 0
    return folder


@pytest.mark.parametrize(
    ("paste", "last", "words"),
    [
        (True, 0, "second, adamw"),
        (True, 2, "second without pasting in the last 2, adamw"),
        (False, 2, "second without pasting, adamw"),
    ],
)
def test_what_was_pasted_is_said(finished, paste, last, words):
    config = Config(data=ScanData(paste=paste, unpasted_epochs=last))
    trained, _ = _Comparison().notes(config, RunFolder(finished / "runs" / "smlp-0"))
    assert f"12 scans, {words}, learning rate" in trained


def test_the_table_is_of_the_runs(finished):
    assert {path.name for path in finished.iterdir()} == {
        *("settings.json", "log.txt", "runs", "comparison.md", "comparison.json", "comparison.png"),
    }
    comparison = json.loads((finished / "comparison.json").read_text())
    assert comparison["test_scans"] == 4
    assert [found["name"] for found in comparison["results"]] == ["identity", "smlp"]
    for found in comparison["results"]:
        folder = finished / "runs" / f"{found['name']}-0"
        of_run = json.loads((folder / "results.json").read_text())
        (epoch,) = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        curves = {
            curve["metric"]: curve["R40"]
            for curve in of_run["test"]["kitti"]["curves"]
            if (curve["difficulty"], curve["overlap"]) == ("moderate", "strict")
        }
        for key, view in (("ap_3d", "3d"), ("ap_bev", "bev")):
            assert found[key]["values"] == found["classes"]["Car"][key]["values"] == [curves[view] / 100]
        assert found["train_scans_per_second"] == epoch["shapes_per_second"] > 0
        assert found["test_scans_per_second"] == of_run["test_scans_per_second"] > 0
        trained = checkpoint.read(folder)
        assert trained.about["model"]["name"] == "smlp_detector_small"
        options = {"mixer": found["name"], "depths": [1, 1], "width": 8, "voxel_size": [0.4, 0.4]}
        assert trained.about["model"]["options"].items() >= options.items()
        assert found["parameters"] == sum(p.numel() for p in trained.build_model().parameters())
    floor, smlp = comparison["results"]
    # on 16 x 24 cells of 8 channels and 8 x 12 of 16: 3 x 3 depth-wise, rows and columns, three maps into one
    more = [h * w * c * (9 + h + w + 3 * c) for h, w, c in ((16, 24, 8), (8, 12, 16))]
    assert smlp["multiply_adds"] - floor["multiply_adds"] == sum(more)
    document = (finished / "comparison.md").read_text()
    assert "| smlp | MLP | " in document
    assert "| mixer | Car BEV % | Car 3D % |" in document
    assert "Training: 12 scans, none" in document
    assert "chosen on 4 held-out scans" in document
    assert "AP is KITTI's R40 of moderate objects" in document
    assert all(f"- {sentence}" in document for sentence in comparison["conclusions"])
    assert imread(finished / "comparison.png").std() > 0.01


def test_only_what_is_missing_is_trained_and_what_fails_is_left_out(finished, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "more"
    shutil.copytree(finished, folder)
    kept = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps({**kept, "out": str(folder)}))
    before = (folder / "runs" / "smlp-0" / "results.json").stat().st_mtime_ns
    fail = [sys.executable, "-c", "import sys; sys.exit('pctransformer: the loss is nan')"]
    monkeypatch.setattr(many, "_command", lambda settings: fail)
    assert run("--resume", folder, "--mixers", "smlp", "window_attention") == 1
    output = capsys.readouterr().out
    assert "2 trainings, 1 of them done, 1 at a time" in output
    assert output.endswith("window_attention, seed 0 failed: the loss is nan\n")
    assert [found["name"] for found in json.loads((folder / "comparison.json").read_text())["results"]] == ["smlp"]
    assert (folder / "runs" / "smlp-0" / "results.json").stat().st_mtime_ns == before
    for epochs in (7, 6):  # 6 is the default
        assert run("--resume", folder, "--epochs", epochs) == 2
        assert f"--epochs {epochs} was given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--mixers", "self_attention"], "--mixers: no grid mixer is called 'self_attention'; did you mean"),
        (["--data", "nowhere"], "nowhere: there is no such folder; --data wants"),
        (["--width", 9, "--mixers", "cross_shaped_windows"], "dim must be a multiple of num_heads, got 9 channels"),
        (["--voxel-size", 0.64, 0.4], "multiples of 4 cells"),
        (["--validation", 1.5], "--validation must be from 0 to below 1"),
        (["--seeds", 1, 1], "--seeds must be one or more, all different, got 1 1"),
    ],
)
def test_faults_of_the_user_leave_no_folder_behind(streets, tmp_path, capsys, arguments, text):
    assert run("--out", tmp_path / "run", "--data", streets, *SMALL, *arguments) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_interrupted_says_how_to_go_on_and_goes_on(streets, tmp_path):
    folder = tmp_path / "run"
    arguments = ["--out", folder, "--data", streets, *SMALL, "--epochs", 1000, "--mixers", "identity", "--seeds", 0]
    command = [sys.executable, "-m", "pctransformer", "compare-grid-mixers", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    limit = time.monotonic() + 200
    run_folder = folder / "runs" / "identity-0"
    while not (run_folder / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 130
    assert f"`pctransformer compare-grid-mixers --resume {folder}` goes on" in output
    assert "interrupted; `pctransformer train detection --resume" in (run_folder / "log.txt").read_text()
    assert many._command(_training(folder))[3:6] == ["train", "detection", "--resume"]


def _training(folder: Path):
    return _Comparison().training(Config(out=folder), "identity", 0, folder / "runs" / "identity-0")


def test_scores_are_means_over_classes():
    tested = {"r40": {"Car": {"bev": 60.0, "3d": 40.0}, "Cyclist": {"bev": 20.0, "3d": 10.0}}}
    assert _Comparison().scores(tested) == pytest.approx({"ap_bev": 0.4, "ap_3d": 0.25})
    assert _Comparison().class_scores(tested)["Cyclist"] == pytest.approx({"ap_bev": 0.2, "ap_3d": 0.1})
    assert _Comparison().in_short(tested) == "AP from above 40.0, 3D 25.0"
    assert _Comparison().scores({"r40": {}}) == {"ap_bev": 0, "ap_3d": 0}


def test_defaults():
    """All mixers, three seeds; options survive JSON; the backbone's options are those of the detector."""
    assert set(Config().mixers) == set(list_grid_mixers()) >= {"identity", "global_attention"}
    assert Config().seeds == (0, 1, 2)
    assert from_json(Config, json.loads(json.dumps(to_json(Config())))) == Config()
    create_model("smlp_detector_small", **to_json(Config().backbone))


def test_simulated_streets_are_written_once(tmp_path):
    """What trainings read is what they would have simulated; a second time nothing is made."""
    pytest.importorskip("open3d")
    settings = ScanData(data=("generated", str(tmp_path)), num_scans=2)
    written = write_generated(settings, tmp_path / "streets")
    assert written == ScanData(data=(str(tmp_path / "streets"), str(tmp_path)), num_scans=2)
    for split in ("train", "test"):
        made = open_scans("generated", settings, split)
        read = open_scans(str(tmp_path / "streets"), settings, split)
        assert made.scans.names == read.scans.names
        for one, other in zip(made.scans, read.scans, strict=True):
            torch.testing.assert_close(torch.from_numpy(other.points), torch.from_numpy(one.points), rtol=0, atol=0)
            torch.testing.assert_close(torch.from_numpy(other.boxes), torch.from_numpy(one.boxes), rtol=0, atol=1e-5)
            assert (other.labels == one.labels).all()
    assert read.frames[0].points is None
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "streets").rglob("*")}
    write_generated(settings, tmp_path / "streets")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "streets").rglob("*")}
    assert write_generated(written, tmp_path / "other") == written
    assert not (tmp_path / "other").exists()
