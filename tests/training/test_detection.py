"""The command as a user runs it, on a road with two cars of points in each scan, in KITTI's folders."""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

import pctransformer
from pctransformer import cli
from pctransformer.datasets import FileFormatError
from pctransformer.datasets.kitti import read_objects
from pctransformer.datasets.lidar_folder import lidar_folder, write_lidar_scan
from pctransformer.datasets.scans import Scan, collate_scans
from pctransformer.heads.anchor import AnchorHead
from pctransformer.heads.center import CenterHead
from pctransformer.ops import box_nms
from pctransformer.training import checkpoint
from pctransformer.training import scans as sources
from pctransformer.training.settings import ScanData
from tests.datasets.kitti.files import road
from tests.training.runs import assert_resumes, in_two_processes
from tests.training.streets import cars, write_streets

RANGE = "point_range=[0,-6.4,-3,19.2,6.4,1]"
SMALL = [
    *("--model", "pointpillars", "--model-options", RANGE, "voxel_size=[0.4,0.4]", "width=8"),
    *("--classes", "Car", "--validation", "0.25", "--epochs", "2"),
]


def run(*arguments: str | Path) -> int:
    return cli.main(["train", "detection", *map(str, arguments)])


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    return write_streets(tmp_path_factory.mktemp("streets"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, streets):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run("--out", folder, "--data", streets, *SMALL, "--epochs", 16, "--repeat", 6, "--lr", 1e-2) == 0
    return folder


def test_it_learns_and_the_folder_explains_itself(finished, streets):
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert names >= {
        *("settings.json", "environment.json", "log.txt", "metrics.jsonl", "metrics.csv", "results.json"),
        *("checkpoints/best.safetensors", "checkpoints/last.safetensors"),
        *("figures/training.png", "figures/curves-bev.png", "figures/curves-3d.png", "figures/scan-1.png"),
        *(f"detections/{i:06}.txt" for i in range(16, 20)),
    }
    results = json.loads((finished / "results.json").read_text())
    loose = [c for c in results["test"]["kitti"]["curves"] if (c["metric"], c["overlap"]) == ("bev", "loose")]
    assert [curve["count"] for curve in loose] == [8, 8, 8]
    assert all(curve["all_point"] > 60 for curve in loose)
    strict = [
        curve
        for curve in results["test"]["kitti"]["curves"]
        if (curve["difficulty"], curve["overlap"]) == ("moderate", "strict")
    ]
    r40 = {curve["metric"]: curve["R40"] for curve in strict if curve["metric"] in ("bev", "3d")}
    assert results["test"]["r40"] == {"Car": r40}
    assert r40["bev"] > 0
    assert results["test"]["count"] == 4
    assert results["test_scans_per_second"] > 0
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert results["validation"]["ap_3d"] == max(row["validation_ap_3d"] for row in rows)
    assert imread(finished / "figures" / "scan-1.png").std() > 0.01
    about = checkpoint.read(finished).about
    assert about["class_names"] == ["Car"]
    assert about["data"]["train"] == 12
    assert f"{streets}: 12 scans, 4 more held out; looked for: Car" in (finished / "log.txt").read_text()


def test_evaluation_gives_the_test_again(finished, tmp_path, capsys):
    results = json.loads((finished / "results.json").read_text())
    arguments = ["evaluate", str(finished), "--device", "cpu", "--json"]
    assert cli.main([*arguments, "--out", str(tmp_path / "again")]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["result"] == results["test"]
    assert again["scans"] == 4
    assert cli.main([*arguments, "--out", str(tmp_path / "all"), "--split", "trainval"]) == 0
    assert json.loads(capsys.readouterr().out)["scans"] == 20
    assert cli.main([*arguments, "--votes", "3"]) == 2


def evaluated(trained: Path, out: Path, *arguments: str) -> dict:
    """What `evaluate` writes; its detections are in the folder."""
    assert cli.main(["evaluate", str(trained), "--device", "cpu", "--out", str(out), *arguments]) == 0
    return json.loads((out / "results.json").read_text())


def test_evaluation_with_another_suppression(finished, streets, tmp_path, capsys):
    """Boxes that are kept overlap less than was asked; an anchor head's own threshold gives what it gives anyway."""
    plain, same, all_of_them = (
        evaluated(finished, tmp_path / name, *arguments)
        for name, arguments in (("plain", []), ("same", ["--nms", "0.01"]), ("all", ["--nms", "1"]))
    )
    assert (plain["nms"], same["nms"], all_of_them["nms"]) == (None, 0.01, 1)
    assert {**same, "nms": None} == plain
    assert all_of_them["boxes"] > plain["boxes"] > 0
    assert all_of_them["result"] != plain["result"]
    assert f"{all_of_them['boxes']} boxes, none overlapping another by more than 1" in capsys.readouterr().out
    lines = sum(len(file.read_text().splitlines()) for file in (tmp_path / "all" / "detections").glob("*.txt"))
    assert 0 < lines <= all_of_them["boxes"]  # but for those that the camera does not see
    for wrong in ("-0.1", "1.5", "nan"):
        assert cli.main(["evaluate", str(finished), "--nms", wrong]) == 2
        assert "--nms is an overlap from 0 to 1" in capsys.readouterr().err


def test_suppression_of_boxes_of_queries(tmp_path, streets, capsys):
    """By default there is none. With one, what is left is what `box_nms` leaves of all."""
    model = ["pointpillars", "--model-options", RANGE, "voxel_size=[0.4,0.4]", "width=8", "head=query"]
    assert run("--out", tmp_path / "run", "--data", streets, "--model", *model, *SMALL[6:], "--epochs", 4) == 0
    predictor = pctransformer.load(tmp_path / "run")
    points, _ = collate_scans([sources.testing_scans(ScanData((str(streets),), classes=("Car",)), "test").scans[0]])
    with torch.inference_mode():
        output = predictor.model(points)
        everything = predictor.model.predict(output, score_threshold=0.0)
        thinned = predictor.model.predict(output, score_threshold=0.0, nms_threshold=0.3)
    rows, offsets = box_nms(everything.boxes, everything.offsets, everything.scores, 0.3)
    assert torch.equal(thinned.boxes, everything.take(rows, offsets).boxes)
    assert 0 < len(thinned.boxes) < len(everything.boxes)
    plain = evaluated(tmp_path / "run", tmp_path / "plain")
    assert {**evaluated(tmp_path / "run", tmp_path / "one", "--nms", "1"), "nms": None} == plain
    assert evaluated(tmp_path / "run", tmp_path / "low", "--nms", "0.01")["boxes"] <= plain["boxes"]


def test_detections_are_what_the_official_evaluation_reads(finished, streets, tmp_path, capsys):
    labels, frames = streets / "training" / "label_2", streets / "ImageSets" / "val.txt"
    command = ["evaluate-kitti", str(labels), str(finished / "detections"), "--frames", str(frames)]
    assert cli.main([*command, "--json", str(tmp_path / "kitti.json")]) == 0
    written = json.loads((tmp_path / "kitti.json").read_text())["curves"]
    known = json.loads((finished / "results.json").read_text())["test"]["kitti"]["curves"]
    of_cars = [curve for curve in written if curve["class"] == "Car"]
    assert len(of_cars) == len(known) > 0
    for one, other in zip(of_cars, known):
        assert (one["metric"], one["difficulty"], one["overlap"]) == (
            other["metric"],
            other["difficulty"],
            other["overlap"],
        )
        # files round boxes to centimetres and scores to four places
        assert one["all_point"] == pytest.approx(other["all_point"], abs=2)


def test_prediction_of_files(finished, streets, tmp_path, capsys):
    """Boxes as text, in KITTI's form where there is a calibration, and a picture; a bad file stops nothing."""
    (tmp_path / "bad.bin").write_text("no")
    file = streets / "training" / "velodyne" / "000017.bin"
    arguments = ["predict", str(file), str(tmp_path / "bad.bin"), "--model", str(finished), "--score", "0.15"]
    assert cli.main([*arguments, "--out", str(tmp_path / "out")]) == 1
    assert "bad.bin" in capsys.readouterr().err
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    (found,) = record["predictions"]
    assert found["points"] < 920  # those that the camera sees, in the model's range
    true = read_objects(streets / "training" / "label_2" / "000017.txt", scores=False)
    kitti = read_objects(tmp_path / "out" / "kitti" / "000017.txt", scores=True)
    assert len(kitti) == len(found["boxes"])
    near = np.linalg.norm(kitti.locations[:, None] - true.locations, axis=-1).min(0)
    assert (near < 1).all()
    assert imread(tmp_path / "out" / "000017.png").std() > 0.01
    again = pctransformer.load(finished).predict(file, score_threshold=0.15)
    assert again.to_json() == found["boxes"]


@pytest.mark.parametrize("head", ["anchor", "center", "query"])
def test_killed_and_resumed_is_unbroken(tmp_path, streets, head):
    """Pasted objects, turns and the order of scans go on as if nothing had happened."""
    assert_resumes(run, tmp_path, "--data", streets, *SMALL[:6], f"head={head}", *SMALL[6:], at=(1, 1))


def test_a_detector_on_points_resumes_too(tmp_path, streets):
    """Its own head has no anchors, so that none are made of the boxes."""
    small = ("num_tokens=128", "num_queries=16", "widths=[16,32]", "depth=1", "decoder_depth=2", "num_heads=2")
    options = ("--model", "point_detr", "--model-options", RANGE, "voxel_size=[0.4,0.4,0.4]", *small)
    assert_resumes(run, tmp_path, "--data", streets, *options, *SMALL[6:], at=(1, 1))


@pytest.mark.parametrize("head", ["anchor", "center"])
def test_a_head_for_maps_behind_tokens_of_points(tmp_path, streets, head):
    """Point view and map: tokens are put into columns, and boxes are found there, in training and after it."""
    small = ("num_tokens=128", "widths=[16,32]", "depth=1", "num_heads=2", f"head={head}")
    options = ("--model", "point_detr", "--model-options", RANGE, "voxel_size=[0.4,0.4,0.4]", *small)
    assert run("--out", tmp_path / "run", "--data", streets, *options, *SMALL[6:], "--repeat", 2) == 0
    losses = [json.loads(line)["train_loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[1] < losses[0]
    file = streets / "training" / "velodyne" / "000017.bin"
    predictor = pctransformer.load(tmp_path / "run")
    assert predictor.camera_view
    assert isinstance(predictor.model.head, {"anchor": AnchorHead, "center": CenterHead}[head])
    found = predictor.predict(file, score_threshold=0.0)
    assert np.isfinite(found.boxes).all()
    assert 0 < len(found) < 500


def test_without_held_out_scans_the_last_epoch_is_kept(tmp_path, streets, capsys):
    assert run("--out", tmp_path / "run", "--data", streets, *SMALL, "--validation", 0, "--augmentation", "none") == 0
    about = checkpoint.read(tmp_path / "run").about
    assert about["epoch"] == 2
    assert about["data"] == {**about["data"], "train": 16, "held_out": 0}
    assert "epoch 2, the last" in capsys.readouterr().out


def test_changed_labels_are_noticed_when_a_run_goes_on(tmp_path, streets, capsys):
    copy = tmp_path / "data"
    subprocess.run(["cp", "-r", streets, copy], check=True)
    assert run("--out", tmp_path / "run", "--data", copy, *SMALL) == 0
    (tmp_path / "run" / "results.json").unlink()
    label = copy / "training" / "label_2" / "000000.txt"
    label.write_text(label.read_text().splitlines()[0] + "\n")
    assert run("--resume", tmp_path / "run") == 2
    assert "the data has changed" in capsys.readouterr().err


def test_other_classes_without_a_camera(tmp_path, capsys):
    """A folder of scans with boxes; anchors have the sizes of its boxes."""
    for part, count in (("train", 8), ("test", 3)):
        for i in range(count):
            generator = np.random.default_rng(100 * count + i)
            boxes, points = cars(generator)
            scan = Scan(
                np.concatenate([road(generator, 400), *points]),
                boxes.astype(np.float32),
                np.array([0, 1]),
                f"{part}{i}",
            )
            write_lidar_scan(tmp_path / "data" / part, scan, ["Boat", "Tram"])
    arguments = ["--data", tmp_path / "data", *SMALL, "--classes", "Tram", "Boat"]
    assert run("--out", tmp_path / "run", *arguments) == 0
    about = checkpoint.read(tmp_path / "run").about
    scans = lidar_folder(tmp_path / "data", "train", class_names=["Tram", "Boat"])
    assert [len(row) for row in about["model"]["options"]["anchors"]] == [6, 6]
    assert not pctransformer.load(tmp_path / "run").camera_view
    mean = np.mean([scan.boxes[scan.labels == 0, 3:6] for scan in (scans[i] for i in range(8))], (0, 1))
    np.testing.assert_allclose(about["model"]["options"]["anchors"][0][:3], mean, rtol=0.1)  # two scans are held out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert 0 <= results["test"]["ap_bev"] <= 100
    plain = {
        (curve["class"], curve["criterion"]): 100 * curve["R40"]
        for curve in results["test"]["plain"]["curves"]
        if curve["band"] == "all"
    }
    assert results["test"]["r40"] == {
        name: {"bev": pytest.approx(plain[name, "BEV 0.5"]), "3d": pytest.approx(plain[name, "3D 0.5"])}
        for name in ("Tram", "Boat")
    }
    assert cli.main(["evaluate", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert "Tram" in capsys.readouterr().out


def test_several_sources(tmp_path, streets):
    """Trained on both, each as often as is said; tested on the last."""
    arguments = ["--data", streets, streets, "--repeat", 1, 3, *SMALL, "--epochs", 1]
    assert run("--out", tmp_path / "run", *arguments) == 0
    about = checkpoint.read(tmp_path / "run").about
    assert about["data"]["train"] == 24
    assert about["data"]["held_out"] == 8


def test_a_share_of_the_scans_is_labelled_by_seed(streets):
    """Held-out scans are of that share, and so are the objects that are pasted."""
    some = ScanData(data=(str(streets), str(streets)), validation=0.25, label_fraction=0.5)
    first, again, other = (sources.training_scans(some, seed) for seed in (0, 0, 1))
    of_source = [set(part.scans.names) for part in first.sources]
    assert [len(part) for part in first.sources] == [6, 6]  # of 16 scans 8 are labelled, of these 2 held out
    assert len(first.held_out) == 4
    assert set(first.held_out.scans.names).isdisjoint(of_source[0] | of_source[1])
    assert again.train.scans.names == first.train.scans.names
    assert again.held_out.scans.names == first.held_out.scans.names
    assert set(other.sources[0].scans.names) != of_source[0]
    assert set(first.sources[0].objects().frames) == of_source[0]
    every = sources.training_scans(dataclasses.replace(some, label_fraction=1), 0)
    assert len(every.train) + len(every.held_out) == 32
    assert len(sources.testing_scans(some, "test")) == 4  # all of it


def test_nothing_is_pasted_in_the_last_epochs(tmp_path, streets):
    settings = ScanData(data=(str(streets),), unpasted_epochs=1)
    scans = sources.training_scans(settings, 0)
    samples = scans.samples(settings, (0, -40, -3, 70.4, 40, 1), 0, 3)
    counts = []
    for epoch in range(3):
        samples.set_epoch(epoch)
        counts.append(sum(len(samples[row].boxes) for row in range(len(samples))))
    there = sum(len(scans.train.scans[row].boxes) for row in range(len(samples)))
    assert min(counts[:2]) > there >= counts[2] > 0
    assert_resumes(run, tmp_path, "--data", streets, *SMALL, "--unpasted-epochs", 1, at=(1, 1))


def test_a_prepared_database_is_cut_to_the_labelled_scans(tmp_path, streets):
    copy = tmp_path / "data"
    shutil.copytree(streets, copy)
    assert cli.main(["prepare", "kitti", str(copy)]) == 0
    some = ScanData(data=(str(copy),), label_fraction=0.5, validation=0.25)
    (labelled,) = sources.training_scans(some, 0).sources
    assert labelled.database is not None
    assert set(labelled.objects().frames) == set(labelled.scans.names)


def test_training_with_some_labels_says_so_and_repeats(tmp_path, streets):
    arguments = ["--data", streets, *SMALL, "--label-fraction", 0.5, "--batch-size", 2]
    assert_resumes(run, tmp_path, *arguments, at=(1, 1))
    assert checkpoint.read(tmp_path / "whole").about["data"]["train"] == 6
    text = f"{streets}: 6 scans, 2 more held out, the 50 % that are labelled; looked for: Car"
    assert text in (tmp_path / "whole" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--label-fraction", "0"], "--label-fraction must be above 0 and at most 1"),
        (["--label-fraction", "0.01"], "too few labelled scans to hold some out"),
        (["--model", "pct", "--model-options"], "is for classification"),
        (["--model", "pointpilars", "--classes", "Car", "--model-options"], "did you mean"),
        (["--validation", "1"], "--validation must be from 0 to below 1"),
        (["--repeat", "1", "2"], "--repeat wants a number from 1 up for each of 1 sources"),
        (["--unpasted-epochs", "-1"], "--unpasted-epochs must be at least 0"),
        (["--reflectance", "2"], "--reflectance must be from 0 to 1, got 2.0"),
        (["--classes", "Car", "Car"], "--classes wants names, each once"),
        (["--classes", "Car", "Tram"], "no box has the class 1"),
        (["--data", "nowhere"], "there is no such folder"),
    ],
)
def test_faults_of_the_user_leave_no_folder_behind(tmp_path, streets, capsys, arguments, text):
    assert run("--out", tmp_path / "run", "--data", streets, *SMALL, *arguments) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_wrong_model_is_refused_before_data_is_made_for_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pctransformer.training.detection.training_scans", None)
    assert run("--out", tmp_path / "run", "--model", "pct") == 2
    assert "is for classification; for detection there are" in capsys.readouterr().err


def test_own_scans_are_tested_on_val_where_there_is_no_test(tmp_path, capsys):
    generator = np.random.default_rng(0)
    for split, names in (("train", ("a", "b")), ("val", ("c",))):
        for name in names:
            boxes, points = cars(generator)
            scan = Scan(np.concatenate(points), boxes.astype(np.float32), np.array([0, 0]), name)
            write_lidar_scan(tmp_path / "data" / split, scan, ["Car"])
    settings = ScanData(data=(str(tmp_path / "data"),), classes=("Car",))
    assert sources.testing_scans(settings, "test").scans.names == ("c",)
    assert sources.testing_scans(settings, "trainval").scans.names == ("a", "b", "c")
    file = tmp_path / "data" / "val" / "points" / "c.npy"
    np.save(file, np.load(file)[:, :3])
    with pytest.raises(FileFormatError, match="or --reflectance 0, gives all the same one"):
        sources.testing_scans(settings, "test").scans[0]
    same = dataclasses.replace(settings, reflectance=0.5)
    assert np.all(sources.testing_scans(same, "test").scans[0].points[:, 3] == 0.5)
    (tmp_path / "data" / "val").rename(tmp_path / "data" / "more")
    assert run("--out", tmp_path / "run", "--data", tmp_path / "data", *SMALL) == 2  # now, not after the last epoch
    assert "there should be test/points and test/boxes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_kitti_without_scans_to_test_on_is_not_trained_on(tmp_path, streets, capsys):
    copy = tmp_path / "data"
    subprocess.run(["cp", "-r", streets, copy], check=True)
    (copy / "ImageSets" / "val.txt").unlink()
    assert run("--out", tmp_path / "run", "--data", copy, *SMALL) == 2
    assert "val.txt: there is no such file" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_two_processes_by_torchrun(tmp_path, streets):
    printed, results = in_two_processes("detection", tmp_path / "run", "--data", streets, *SMALL)
    assert printed.count("held out: loss") == 2
    assert results["test"]["kitti"]["frames"] == 4
