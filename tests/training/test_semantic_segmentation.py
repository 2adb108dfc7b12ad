"""The command as a user runs it, on scenes of a few hundred points."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

import pctransformer
from pctransformer import cli
from pctransformer.datasets import read_points, write_ply
from pctransformer.training import checkpoint
from pctransformer.training.point_loss import point_loss
from tests.real_data import real_data
from tests.training.runs import assert_resumes, in_two_processes

SMALL = [
    *("--model-options", "dims=[16,32]", "depths=[1,1]", "up_dims=[16]", "up_depths=[1]", "patch_size=16"),
    *("--cell-size", "0.1", "--num-points", "150", "--tile-points", "200", "--validation", "0.3", "--crops", "4"),
    *("--epochs", "2"),
]


def run(*arguments: str | Path) -> int:
    return cli.main(["train", "semantic-segmentation", *map(str, arguments)])


def write_scene(path: Path, seed: int, points: int = 400) -> None:
    """A floor and a block on it, which have colours of their own; a tenth has no label."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 2, points)
    xyz = generator.random((points, 3)) * [2, 2, 0]
    xyz[label == 1] = generator.random(((label == 1).sum(), 3)) * [1, 1, 0.8] + [*generator.random(2), 0.1]
    color = np.where(label[:, None] == 1, [0.8, 0.2, 0.2], [0.3, 0.3, 0.6]) + 0.1 * generator.random((points, 3))
    shown = np.where(generator.random(points) < 0.1, -1, label)
    write_ply(path, xyz, colors=np.clip(color, 0, 1), features={"label": shown})


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    root = tmp_path_factory.mktemp("scans")
    for part, count in (("train", 6), ("test", 2)):
        (root / part).mkdir()
        for i in range(count):
            write_scene(root / part / f"{part}{i}.ply", seed=i + 10 * count)
    (root / "class_names.txt").write_text("floor\nblock\n")
    return root


@pytest.fixture(scope="module")
def finished(tmp_path_factory, scans):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run("--out", folder, "--data", scans, *SMALL, "--epochs", 6, "--ema", 0) == 0
    return folder


def test_it_learns_and_the_folder_explains_itself(finished, scans):
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert names == {
        *("settings.json", "environment.json", "log.txt", "metrics.jsonl", "metrics.csv", "results.json"),
        *("checkpoints/best.safetensors", "checkpoints/last.safetensors"),
        *("figures/training.png", "figures/confusion.png", "figures/scene-1.png", "figures/scene-2.png"),
    }
    results = json.loads((finished / "results.json").read_text())
    assert results["test"]["mean_iou"] > 0.6
    assert [row["name"] for row in results["test"]["classes"]] == ["floor", "block"]
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert results["validation"]["miou"] == max(row["validation_miou"] for row in rows)
    assert imread(finished / "figures" / "scene-1.png").std() > 0.01
    about = checkpoint.read(finished).about
    assert about["class_names"] == ["floor", "block"]
    assert about["model"]["options"]["cell_size"] == 0.1  # the model's cells are those of the data
    assert about["data"]["train"] == 4
    assert f"{scans}: 4 scenes, 2 more held out; 2 classes of points" in (finished / "log.txt").read_text()


def test_evaluation_gives_the_test_again(finished, scans, tmp_path, capsys):
    results = json.loads((finished / "results.json").read_text())
    assert cli.main(["evaluate", str(finished), "--out", str(tmp_path / "again"), "--device", "cpu", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["result"] == results["test"]
    assert again["scenes"] == 2
    assert {path.name for path in (tmp_path / "again").iterdir()} >= {"results.json", "confusion.png", "scene-1.png"}
    assert cli.main(["evaluate", str(finished), "--votes", "3"]) == 2
    (tmp_path / "other" / "test").mkdir(parents=True)
    write_scene(tmp_path / "other" / "test" / "a.ply", seed=0)
    (tmp_path / "other" / "class_names.txt").write_text("block\nfloor\n")
    assert cli.main(["evaluate", str(finished), "--data", str(tmp_path / "other")]) == 2
    assert "evaluation needs the same" in capsys.readouterr().err


def test_prediction_of_files(finished, scans, tmp_path, capsys):
    """A coloured cloud, labels and a picture; a file that cannot be read does not stop the others."""
    (tmp_path / "bad.ply").write_text("no")
    files = [str(scans / "test" / "test0.ply"), str(tmp_path / "bad.ply")]
    assert cli.main(["predict", *files, "--model", str(finished), "--out", str(tmp_path / "out")]) == 1
    assert "bad.ply" in capsys.readouterr().err
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    (found,) = record["predictions"]
    assert found["points"] == 400
    assert found["tiles"] > 1
    assert sum(found["shares"].values()) == pytest.approx(1)
    arrays = np.load(tmp_path / "out" / "test0.npz")
    assert arrays["class_names"].tolist() == ["floor", "block"]
    cloud = read_points(tmp_path / "out" / "test0.ply", features=("red", "label", "confidence"))
    given = read_points(files[0], features=("label",))
    np.testing.assert_array_equal(cloud[:, :3], given[:, :3])
    np.testing.assert_array_equal(cloud[:, 4], arrays["label"])
    assert len(np.unique(cloud[arrays["label"] == 0, 3])) == 1
    known = given[:, 3] >= 0
    assert (arrays["label"] == given[:, 3])[known].mean() > 0.6
    assert imread(tmp_path / "out" / "test0.png").std() > 0.01


def test_prediction_of_arrays(finished, scans):
    predictor = pctransformer.load(finished)
    file = predictor.predict(scans / "test" / "test0.ply")
    rows = read_points(scans / "test" / "test0.ply", features=("red", "green", "blue"))
    assert (predictor.predict(rows).labels == file.labels).all()
    assert repr(file).startswith("ScenePrediction(")
    with pytest.raises(ValueError, match="6 numbers are needed"):
        predictor.predict(rows[:, :3])


def test_a_real_scan_in_raw_floats(finished, tmp_path, capsys):
    """xyz and colours from 0 to 255, one line of --columns away."""
    scan = real_data("scans", "scannet_scene0000_00.bin")
    arguments = ["predict", str(scan), "--model", str(finished), "--no-pictures"]
    assert cli.main([*arguments, "--out", str(tmp_path / "no")]) == 1
    assert "does not say how many values a point has" in capsys.readouterr().err
    assert cli.main([*arguments, "--columns", "6", "--out", str(tmp_path / "out")]) == 0
    assert len(np.load(tmp_path / "out" / "scannet_scene0000_00.npz")["label"]) == 40_684


def test_killed_and_resumed_is_unbroken(tmp_path, scans):
    """Crops, colours, order of curves and drop path go on as if nothing had happened."""
    assert_resumes(run, tmp_path, "--data", scans, *SMALL, at=(1, 2))


def test_loss_by_hand():
    """Points without a label do not count; where none has one, there is nothing to learn."""
    logits = torch.tensor([[0.0, 0.0], [0.0, 2.0], [5.0, 0.0]], requires_grad=True)
    found = point_loss(logits, torch.tensor([0, 1, -1]))
    assert found["loss"].item() == pytest.approx((np.log(2) + np.log(1 + np.exp(-2))) / 2)
    assert found["accuracy"].item() == 1
    nothing = point_loss(logits, torch.tensor([-1, -1, -1]))
    assert nothing["loss"].item() == 0
    assert nothing["loss"].requires_grad


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model", "pct"], "is for classification"),
        (["--cell-size", "0"], "--cell-size must be positive"),
        (["--crops", "0"], "--crops must be at least 1"),
        (["--validation", "1"], "must lie between 0 and 1"),
        (["--data", "nowhere"], "there is no such folder"),
    ],
)
def test_faults_of_the_user_leave_no_folder_behind(tmp_path, scans, capsys, arguments, text):
    assert run("--out", tmp_path / "run", "--data", scans, *SMALL, *arguments) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_scenes_to_test_on_nothing_is_trained(tmp_path, scans, capsys):
    shutil.copytree(scans / "train", tmp_path / "data" / "train")
    assert run("--out", tmp_path / "run", "--data", tmp_path / "data", *SMALL) == 2
    assert "test: there should be clouds with labels here" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_two_processes_by_torchrun(tmp_path, scans):
    """Two held-out scenes: one for each."""
    printed, _ = in_two_processes("semantic-segmentation", tmp_path / "run", "--data", scans, *SMALL)
    assert printed.count("held out: loss") == 2
