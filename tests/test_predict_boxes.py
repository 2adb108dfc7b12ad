"""Predictions of detectors: scans in every form, with a camera and without, and boxes in the forms people want."""

import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.image import imsave

from pctransformer.datasets import FileFormatError, write_ply
from pctransformer.datasets.box_files import read_boxes
from pctransformer.datasets.kitti import lidar_boxes, read_calibration, read_objects
from pctransformer.evaluation.kitti import evaluate_kitti
from pctransformer.models import create_model
from pctransformer.predict_boxes import DetectionPrediction, DetectorPredictor
from pctransformer.training.settings import DetectionTraining, ScanData
from pctransformer.visualization.geometry import box_lines
from tests.fake_detector import AHEAD, ALL_ROUND, BrightPoints, scan_with
from tests.real_data import real_data
from tests.visualization.pages import check_page, texts

NAMES = ("Car", "Cyclist")
MARKERS = [[10.0, 2, -1, 0.9], [20, -4, -2, 0.7], [-15, 3, -1, 0.8]]
SCAN = scan_with(MARKERS).numpy()
CALIBRATION = """P0: 1 0 0 0 0 1 0 0 0 0 1 0
P2: 700 0 600 0 0 700 180 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0
"""


def predictor(limits=AHEAD, **data):
    settings = DetectionTraining(data=ScanData(**data))
    return DetectorPredictor(BrightPoints(limits), NAMES, settings, torch.device("cpu"))


def kitti_folder(root, scan=SCAN):
    for name in ("velodyne", "calib"):
        (root / name).mkdir()
    (root / "calib" / "000008.txt").write_text(CALIBRATION)
    scan.astype("<f4").tofile(root / "velodyne" / "000008.bin")
    return root / "velodyne" / "000008.bin"


# ---- scans -----------------------------------------------------------------------------------------------------------
def test_rows_without_a_camera():
    found = predictor().predict(SCAN)
    assert repr(found) == f"DetectionPrediction('scan', {len(found.points)} points: Car 1, Cyclist 1)"
    np.testing.assert_allclose(found.boxes, [[10, 2, -1, 4, 2, 1.5, 0], [20, -4, -2, 4, 2, 1.5, 0]], rtol=1e-6)
    assert found.labels.tolist() == [0, 1]
    np.testing.assert_allclose(found.scores, [0.9, 0.7], rtol=1e-6)
    low, high = np.array(AHEAD[:3]), np.array(AHEAD[3:])
    inside = ((SCAN[:, :3] >= low) & (SCAN[:, :3] < high)).all(1)
    np.testing.assert_array_equal(found.points, SCAN[inside])
    assert found.calibration is None
    assert len(found) == 2
    assert found.above(0.8).labels.tolist() == [0]


def test_one_scan_in_every_form(tmp_path):
    expected = predictor().predict(SCAN)
    np.save(tmp_path / "a.npy", SCAN)
    write_ply(tmp_path / "a.ply", SCAN[:, :3], features={"nx": SCAN[:, 0], "intensity": SCAN[:, 3]})
    SCAN.astype("<f4").tofile(tmp_path / "a.bin")
    sweep = np.column_stack([SCAN[:, :3], SCAN[:, 3] * 255, np.arange(len(SCAN)) % 32])
    sweep.astype("<f4").tofile(tmp_path / "a.pcd.bin")
    np.savetxt(tmp_path / "a.txt", SCAN, fmt="%.9g")
    wide = np.column_stack([SCAN, np.ones(len(SCAN))])
    forms = [torch.from_numpy(SCAN), SCAN.astype(np.float64), wide, *(tmp_path / f"a.{kind}" for kind in
             ("npy", "ply", "bin", "pcd.bin", "txt"))]  # fmt: skip
    for form in forms:
        found = predictor().predict(form)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-5)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
        np.testing.assert_allclose(found.points, expected.points, atol=1e-5)
    assert predictor().predict(tmp_path / "a.npy").name == str(tmp_path / "a.npy")
    assert predictor().predict(SCAN, name="mine").name == "mine"


def test_all_around_and_at_another_height():
    around = predictor().predict(SCAN, around=True)
    assert sorted(around.boxes[:, 0].round(3).tolist()) == [-15, 10, 20]
    assert around.counts == {"Car": 2, "Cyclist": 1}
    lifted = predictor().predict(SCAN, lift=0.6)  # the one at z = -2 comes to lie above -1.5, where cars are
    assert lifted.labels.tolist() == [0, 0]
    np.testing.assert_allclose(lifted.boxes[:, 2], [-1, -2], rtol=1e-5)
    np.testing.assert_allclose(lifted.points[-1, :3], SCAN[-2, :3])
    everywhere = predictor(ALL_ROUND).predict(SCAN)
    assert everywhere.counts == {"Car": 2, "Cyclist": 1}


def test_the_camera_of_kitti(tmp_path):
    """Its view is 1242 pixels at a focal length of 700: y / x from -642 / 700 to 600 / 700."""
    markers = torch.tensor([[10.0, 2, -1, 0.9], [10, 8.7, -1, 0.8], [10, -9.3, -1, 0.8], [20, 17, -1, 0.7]])
    scan = scan_with(markers).numpy()
    file = kitti_folder(tmp_path, scan)
    found = predictor().predict(file)
    assert found.boxes[:, 1].round(1).tolist() == [2, 17]
    calibration = read_calibration(tmp_path / "calib" / "000008.txt")
    assert calibration.in_view(found.points[:, :3], (1242, 375)).all()
    assert found.image_size == (1242, 375)
    for same in (
        predictor().predict(scan, calibration=calibration),
        predictor().predict(scan, calibration=tmp_path / "calib" / "000008.txt"),
    ):
        np.testing.assert_array_equal(same.boxes, found.boxes)
    assert len(predictor().predict(file, camera_view=False)) == 4
    assert predictor().predict(file, camera_view=False).calibration is not None
    assert len(predictor(camera_view=False).predict(file)) == 4  # as in its training
    assert len(predictor(camera_view=False).predict(file, camera_view=True)) == 2
    assert len(predictor().predict(file, around=True)) == 4
    assert predictor().predict(scan, calibration=calibration, image_size=(700, 375)).boxes[:, 1].round(1).tolist() == [
        2, 17,
    ]  # fmt: skip
    assert len(predictor().predict(scan, calibration=calibration, image_size=(600, 375))) == 1 + 1
    (tmp_path / "calib" / "000008.txt").write_text("nothing")
    with pytest.raises(FileFormatError, match="no line P2"):
        predictor().predict(file)
    file.parent.rename(tmp_path / "points")  # of somebody's own, whose calibration may be anything
    assert len(predictor().predict(tmp_path / "points" / file.name)) == 4


def test_whether_more_was_shown_than_a_camera_sees(tmp_path):
    (tmp_path / "kitti").mkdir()
    file = kitti_folder(tmp_path / "kitti")
    assert not predictor().predict(file).beyond_camera
    assert predictor().predict(SCAN).beyond_camera
    assert not predictor().predict(SCAN, around=True).beyond_camera
    assert not predictor(camera_view=False).predict(SCAN).beyond_camera
    model, settings = BrightPoints(AHEAD), DetectionTraining()
    own = DetectorPredictor(model, NAMES, settings, torch.device("cpu"), camera_view=False)
    assert not own.predict(SCAN).beyond_camera  # of scans without cameras, whose settings say nothing of that
    (file.parents[1] / "calib" / "000008.txt").unlink()
    assert predictor().predict(file).beyond_camera


def test_what_cannot_be_predicted(tmp_path):
    detector = predictor()
    with pytest.raises(ValueError, match=r"scan: its points have 3 values, but 4 are needed.*reflectance=0\.0"):
        detector.predict(SCAN[:, :3])
    assert len(detector.predict(SCAN[:, :3], reflectance=0.25)) == 0
    assert len(predictor(reflectance=0.9).predict(SCAN[:, :3])) == len(
        predictor().predict(SCAN[:, :3], reflectance=0.9)
    )
    with pytest.raises(TypeError, match="one scan at a time, a file or rows of points: got a list"):
        detector.predict([SCAN])
    with pytest.raises(ValueError, match=r"reflectance must be in \[0, 1\], got 3"):
        detector.predict(SCAN[:, :3], reflectance=3)
    with pytest.raises(ValueError, match=r"in \[0, 1\] or up to 255, found -0.99[0-9]* to"):
        detector.predict(SCAN - [0, 0, 0, 1])
    with pytest.raises(ValueError, match=r"none of its 504 points is where the model looks, x 0 to 51.2, y -25.6 to"):
        detector.predict(np.vstack([SCAN, SCAN[:1]]) + np.array([0, 0, 100, 0]))
    with pytest.raises(ValueError, match=r"a scan is rows of numbers \(n, 3 \+ C\), got \(3, 4, 5\)"):
        detector.predict(np.zeros((3, 4, 5)))
    broken = SCAN.copy()
    broken[7, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 503 points are NaN or infinite, first in row 7"):
        detector.predict(broken)
    assert len(detector.predict(broken, not_finite="drop")) == 2
    write_ply(tmp_path / "bare.ply", SCAN[:, :3])
    with pytest.raises(FileFormatError, match=r"bare.ply: its points have 3 values"):
        detector.predict(tmp_path / "bare.ply")
    np.column_stack([SCAN, np.arange(len(SCAN)) - 5]).astype("<f4").tofile(tmp_path / "five.bin")
    with pytest.raises(FileFormatError, match=r"read with 4 values per point, give columns|whole number of points"):
        detector.predict(tmp_path / "five.bin")
    assert len(detector.predict(tmp_path / "five.bin", columns=5)) == 2
    with pytest.raises(FileFormatError, match="there is no such file"):
        detector.predict(tmp_path / "none.bin")


def test_a_detector_of_the_package():
    """What it finds is what its own verbs give, by falling score, in every direction."""
    torch.manual_seed(0)
    model = create_model("pointpillars_small", num_classes=2, head="center").eval()
    detector = DetectorPredictor(model, NAMES, DetectionTraining(), torch.device("cpu"))
    inside = SCAN[model.grid.cells(torch.from_numpy(SCAN[:, :3]))[1].numpy()]
    with torch.no_grad():
        expected = model.predict(model([torch.from_numpy(inside)]), score_threshold=0.0)
    order = expected.scores.argsort(descending=True, stable=True)
    found = detector.predict(SCAN, score_threshold=0.0)
    assert len(found) > 10
    np.testing.assert_array_equal(found.boxes, expected.boxes[order])
    np.testing.assert_array_equal(found.labels, expected.labels[order])
    around = detector.predict(SCAN, score_threshold=0.0, around=True)
    assert (around.boxes[:, 0] < -5).any()
    assert (around.boxes[:, 0] > 5).any()


# ---- in other forms --------------------------------------------------------------------------------------------------
def test_boxes_as_kitti_has_them(tmp_path):
    """Written, read and turned back they are the boxes; and evaluated against themselves they are perfect."""
    file = kitti_folder(tmp_path)
    found = predictor().predict(file)
    out = tmp_path / "out"
    out.mkdir()
    found.write(out, "000008")
    objects = read_objects(out / "kitti" / "000008.txt", scores=True)
    assert objects.types.tolist() == ["Car", "Cyclist"]
    np.testing.assert_allclose(lidar_boxes(objects, found.calibration), found.boxes, atol=2e-4)
    np.testing.assert_allclose(objects.scores, found.scores, atol=1e-6)
    # the car's centre projects to (600 - 700 * 2 / 10, 180 + 700 / 10)
    left, top, right, bottom = objects.boxes_2d[0]
    assert left < 460 < right
    assert top < 250 < bottom
    labels = read_objects(out / "kitti" / "000008.txt", scores=False)
    score = evaluate_kitti([labels], [objects], classes=["Car"])
    assert score.curves["Car", "3d", "hard", "strict"].all_point == pytest.approx(100)
    mine = read_boxes(out / "000008.txt")
    np.testing.assert_allclose(mine.boxes, found.boxes, atol=1e-4)


def test_over_the_image_of_the_camera(tmp_path):
    file = kitti_folder(tmp_path)
    found = predictor().predict(file)
    with pytest.raises(ValueError, match=r"there is no image: give one"):
        found.camera_figure()
    image = np.zeros((375, 1242, 3))
    check_page(found.camera_figure(image))
    with pytest.raises(FileFormatError, match="there is no such file"):
        found.camera_figure(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"scan: .* there is no calibration: give one to predict\(\)"):
        predictor().predict(SCAN).camera_figure(image)
    (tmp_path / "image_2").mkdir()
    imsave(tmp_path / "image_2" / "000008.png", image)
    found = predictor().predict(file)
    assert found.image_file == tmp_path / "image_2" / "000008.png"
    assert {"000008.bin", "0.90", "0.70"} <= set(texts(found.camera_figure()))


def test_without_a_calibration_there_is_no_kitti_file(tmp_path):
    found = predictor().predict(SCAN)
    with pytest.raises(ValueError, match="the scan has no calibration; give one, or use write"):
        found.to_kitti()
    found.write(tmp_path, "a")
    assert not (tmp_path / "kitti").exists()
    assert read_boxes(tmp_path / "a.txt").types.tolist() == ["Car", "Cyclist"]
    (tmp_path / "calib.txt").write_text(CALIBRATION)
    assert len(found.to_kitti(read_calibration(tmp_path / "calib.txt"))) == 2


def test_plain_values():
    found = predictor().predict(SCAN)
    records = json.loads(json.dumps(found.to_json()))
    assert records[0] == {"class": "Car", "box": [10.0, 2.0, -1.0, 4.0, 2.0, 1.5, 0.0], "score": 0.9}
    assert len(records) == 2


def test_a_figure():
    found = predictor().predict(SCAN, name="folder/000123.bin")
    figure = found.figure(labelled=(found.boxes[:1], np.array([0])))
    check_page(figure)
    assert {"000123.bin", "0.90", "0.70", "Car", "Cyclist"} <= set(texts(figure))
    assert any("1 labelled boxes" in text for text in texts(figure))
    (axes,) = figure.axes
    assert axes.get_xlim() == (30, -30)
    assert axes.get_ylim() == (0, 50)
    nothing = DetectionPrediction("n", NAMES, np.zeros((0, 7), np.float32), np.zeros(0, np.int64),
                                  np.zeros(0, np.float32), np.zeros((0, 4), np.float32))  # fmt: skip
    check_page(nothing.figure())
    assert repr(nothing) == "DetectionPrediction('n', 0 points: nothing)"


def test_open3d_objects(monkeypatch):
    """Open3D itself is not needed to see what it is given."""

    class Geometry:
        def __init__(self, points, lines=None):
            self.points, self.lines = points, lines

    fake = SimpleNamespace(
        geometry=SimpleNamespace(PointCloud=Geometry, LineSet=Geometry),
        utility=SimpleNamespace(Vector3dVector=np.asarray, Vector2iVector=np.asarray),
    )
    monkeypatch.setitem(sys.modules, "open3d", fake)
    found = predictor().predict(SCAN)
    cloud, wires = found.to_open3d()
    np.testing.assert_allclose(cloud.points, found.points[:, :3])
    assert cloud.colors.shape == cloud.points.shape
    assert wires.points.shape == (20, 3)
    assert wires.lines.shape == (26, 2)
    assert len(wires.colors) == 26
    assert len(np.unique(wires.colors, axis=0)) == 2
    *same, true = found.to_open3d(labelled=(found.boxes[:1] + 1, np.array([0])))
    np.testing.assert_array_equal(same[1].points, wires.points)
    np.testing.assert_allclose(true.points, box_lines(found.boxes[:1] + 1)[0])
    assert (np.unique(255 * true.colors, axis=0).round() == [[0x2E, 0x8B, 0x57]]).all()


def test_open3d_takes_them():
    open3d = pytest.importorskip("open3d")
    cloud, wires = predictor().predict(SCAN).to_open3d()
    assert isinstance(cloud, open3d.geometry.PointCloud)
    assert cloud.has_colors()
    assert isinstance(wires, open3d.geometry.LineSet)
    assert wires.has_colors()
    assert len(wires.lines) == 26


# ---- real scans ------------------------------------------------------------------------------------------------------
def test_a_real_frame_of_kitti():
    found = predictor((0.0, -40.0, -3.0, 70.4, 40.0, 1.0)).predict(
        real_data("kitti", "training", "velodyne", "000008.bin")
    )
    assert 15_000 < len(found.points) < 25_000  # of 120 000 around the car
    assert found.image_size == (1242, 375)
    assert found.points[:, 3].max() <= 1


def test_a_real_sweep_of_nuscenes():
    found = predictor().predict(real_data("scans", "nuscenes_lidar_top.pcd.bin"), around=True, lift=0.11)
    assert found.points[:, 3].max() == 1
    assert len(found.points) > 25_000
    angles = np.arctan2(found.points[:, 1], found.points[:, 0])
    assert np.histogram(angles, 8, (-math.pi, math.pi))[0].min() > 1000
