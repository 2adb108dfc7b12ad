"""Pictures that `predict` draws of LiDAR scans: from above, and over the image of the camera where there is one."""

import json

import numpy as np
import pytest
import torch
from matplotlib.image import imread, imsave

from pctransformer.commands import detections
from pctransformer.commands.predict import Config
from pctransformer.predict_boxes import DetectorPredictor
from pctransformer.training.settings import DetectionTraining
from tests.datasets.kitti.files import SIZE, write_kitti
from tests.fake_detector import BrightPoints, scan_with


@pytest.fixture
def scan(tmp_path):
    """A frame with a label, two things to find, and a grey image."""
    training = write_kitti(tmp_path / "kitti") / "training"
    file = training / "velodyne" / "000002.bin"
    scan_with([[10.0, 2, -1, 0.9], [20, -4, -2, 0.7]]).numpy().tofile(file)
    imsave(training / "image_2" / "000002.png", np.full((SIZE[1], SIZE[0], 3), 0.5))
    return file


def predict(files, out, **options):
    predictor = DetectorPredictor(BrightPoints(), ("Car", "Cyclist"), DetectionTraining(), torch.device("cpu"))
    config = Config(tuple(files), out, out=out, **options)
    code = detections.predict(config, predictor, out / "best.safetensors", list(files), out)
    return code, json.loads((out / "predictions.json").read_text())["predictions"]


def colours(picture, hexadecimal):
    """How many pixels have a colour."""
    wanted = np.array([int(hexadecimal[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return int((np.abs(imread(picture)[..., :3] - wanted).max(-1) < 0.02).sum())


def test_over_the_image_of_the_camera(scan, tmp_path, capsys):
    code, (found,) = predict([scan], tmp_path / "out")
    assert code == 0
    assert (found["picture"], found["camera_picture"]) == ("000002.png", "000002_camera.png")
    for name in ("000002.png", "000002_camera.png"):
        for colour in ("#2e8b57", "#ee6677", "#4477aa"):  # the label, the car, the cyclist
            assert colours(tmp_path / "out" / name, colour) > 20
    out, err = capsys.readouterr()
    assert "pictures, of cameras too" in out
    assert err == ""


def test_reflectance_is_said_where_scans_have_none(tmp_path, capsys):
    bare = tmp_path / "bare.npy"
    np.save(bare, scan_with([[10.0, 2, -1, 0.9]]).numpy()[:, :3])
    (tmp_path / "without").mkdir()
    predictor = DetectorPredictor(BrightPoints(), ("Car",), DetectionTraining(), torch.device("cpu"))
    config = Config((bare,), tmp_path, out=tmp_path / "without")
    assert detections.predict(config, predictor, tmp_path / "best.safetensors", [bare], tmp_path / "without") == 1
    assert (
        "4 are needed, x, y, z and reflectance first; reflectance=0.0, or --reflectance 0, gives"
        in capsys.readouterr().err
    )
    code, (found,) = predict([bare], tmp_path / "with", reflectance=0.9, score=0.0)
    assert code == 0
    assert len(found["boxes"]) > 0


def test_without_an_image(scan, tmp_path, capsys):
    """As frames of simulated streets are; or where no camera is heeded; or no pictures are wanted."""
    _, (around,) = predict([scan], tmp_path / "around", around=True)
    _, (bare,) = predict([scan], tmp_path / "bare", pictures=False)
    (scan.parents[1] / "image_2" / "000002.png").unlink()
    _, (none,) = predict([scan], tmp_path / "none")
    assert [one["picture"] for one in (around, bare, none)] == ["000002.png", None, "000002.png"]
    for one, folder in ((around, "around"), (bare, "bare"), (none, "none")):
        assert one["camera_picture"] is None
        assert not (tmp_path / folder / "000002_camera.png").exists()
    out, err = capsys.readouterr()
    assert "cameras" not in out
    assert err == ""


def test_scans_without_a_calibration_are_said_once(scan, tmp_path, capsys):
    """All of them was looked at, by a detector that knows only what the camera sees; unless that is asked for."""
    alone = []
    for name in ("a.bin", "b.bin"):
        alone.append(tmp_path / name)
        alone[-1].write_bytes(scan.read_bytes())
    _, (first, *_) = predict([*alone, scan], tmp_path / "out", pictures=False)
    err = capsys.readouterr().err
    assert err.startswith(
        f"pctransformer: {alone[0]}: no calibration lies beside it, so that all points in the model's "
    )
    assert "velodyne/000008.bin and calib/000008.txt (so for 2 files)\n" in err
    assert err.count("\n") == 1
    assert first["points"] > predict([scan], tmp_path / "seen", pictures=False)[1][0]["points"]
    predict(alone[:1], tmp_path / "around", pictures=False, around=True)
    assert capsys.readouterr().err == ""


def test_broken_images_and_labels_are_said(scan, tmp_path, capsys):
    """The boxes are found all the same."""
    image = scan.parents[1] / "image_2" / "000002.png"
    image.write_bytes(image.read_bytes()[:400])
    (scan.parents[1] / "label_2" / "000002.txt").write_text("Car 1 2 3\n")
    code, (found,) = predict([scan], tmp_path / "out")
    assert code == 0
    assert len(found["boxes"]) == 2
    assert found["camera_picture"] is None
    assert colours(tmp_path / "out" / "000002.png", "#2e8b57") == 0
    err = capsys.readouterr().err
    assert "000002.png: the image is broken" in err
    assert "there is no picture of the camera" in err
    assert "label_2/000002.txt" in err
    assert "no labels are drawn" in err
