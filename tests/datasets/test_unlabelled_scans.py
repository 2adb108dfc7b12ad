"""Scans to learn from, wherever files of points lie."""

import numpy as np
import pytest

from pctransformer.datasets.files import FileFormatError
from pctransformer.datasets.scan_transforms import RandomFlip
from pctransformer.datasets.unlabelled_scans import unlabelled_scans
from tests.datasets.kitti.files import CALIBRATION


def points(count, behind=0):
    """In front of the car, and some behind it."""
    values = np.zeros((count + behind, 4), np.float32)
    values[:, 0] = 10 + np.arange(count + behind)
    values[count:, 0] *= -1
    return values


def kitti(root, names, listed=None, calibrated=True):
    for name in names:
        file = root / "training" / "velodyne" / f"{name}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        points(5, behind=3).tofile(file)
        if calibrated:
            (root / "training" / "calib").mkdir(exist_ok=True)
            (root / "training" / "calib" / f"{name}.txt").write_text(CALIBRATION)
    if listed is not None:
        (root / "ImageSets").mkdir()
        (root / "ImageSets" / "train.txt").write_text("\n".join(listed))


def test_kitti_needs_no_labels_and_no_lists(tmp_path):
    kitti(tmp_path, ("000002", "000001"))
    scans = unlabelled_scans(tmp_path)
    assert scans.names == ("000001", "000002")
    np.testing.assert_array_equal(scans[0].points, points(5))
    assert scans[0].boxes.shape == (0, 7)
    np.testing.assert_array_equal(unlabelled_scans(tmp_path, camera_view=False)[1].points, points(5, behind=3))
    changed = scans.with_transform(RandomFlip())
    assert len(changed[0].points) == 5


def test_of_lists_the_training_part(tmp_path):
    kitti(tmp_path, ("000001", "000002", "000003"), listed=("000003", "000001"))
    assert unlabelled_scans(tmp_path).names == ("000003", "000001")


def test_without_a_calibration_nobody_knows_what_the_camera_sees(tmp_path):
    kitti(tmp_path, ("000001",), calibrated=False)
    with pytest.raises(FileFormatError, match=r"its calibration, calib/000001.txt, is missing"):
        unlabelled_scans(tmp_path)[0]
    assert len(unlabelled_scans(tmp_path, camera_view=False)[0].points) == 8


@pytest.mark.parametrize("place", ["train/points", "points", "somewhere/deep", "."])
def test_your_own_scans(tmp_path, place):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    np.save(tmp_path / place / "b.npy", points(4, behind=2))
    points(3).tofile(tmp_path / place / "a.bin")
    (tmp_path / place / "notes.txt").write_text("no scan")
    (tmp_path / place / ".hidden.bin").write_text("no scan")
    if place == "train/points":  # what is not to be trained on
        (tmp_path / "test" / "points").mkdir(parents=True)
        points(3).tofile(tmp_path / "test" / "points" / "c.bin")
    scans = unlabelled_scans(tmp_path)
    assert scans.names == ("a", "b")
    assert [len(scans[i].points) for i in range(2)] == [3, 6]


def test_faults_are_explained(tmp_path):
    with pytest.raises(FileFormatError, match="there is no such folder"):
        unlabelled_scans(tmp_path / "nowhere")
    with pytest.raises(FileFormatError, match=r"there is no file that ends in one of .bin"):
        unlabelled_scans(tmp_path)
    kitti(tmp_path, ("000001",), listed=("000009",))
    with pytest.raises(FileFormatError, match=r"there is no scan 000009, which train.txt lists"):
        unlabelled_scans(tmp_path)
