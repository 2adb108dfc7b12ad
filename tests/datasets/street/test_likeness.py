"""Generated streets beside KITTI's: points per object, per frame, by distance."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("open3d")

from pctransformer.datasets.kitti import read_frame
from pctransformer.datasets.street import street_frames
from tests.datasets.street.likeness import REAL_COUNTS, REAL_MEDIANS, medians, points_per_object
from tests.real_data import real_data


@pytest.fixture(scope="module")
def frames():
    return street_frames(60, seed=5, camera_view=False)


def test_the_medians_of_kitti_are_those_of_its_frames():
    folder = real_data("kitti")
    names = sorted(path.stem for path in (folder / "training" / "velodyne").glob("*.bin"))
    if len(names) != 33:
        pytest.skip(f"the medians are of 33 frames, here are {len(names)}")
    rows = points_per_object(read_frame(folder, name) for name in names)
    for kind, known in REAL_MEDIANS.items():
        found, counts = medians(rows[kind], len(known))
        np.testing.assert_array_equal(found, known)
        assert counts.tolist() == list(REAL_COUNTS[kind])


def test_cars_have_as_many_points_as_kittis(frames):
    found, counts = medians(points_per_object(frames)["Car"], len(REAL_MEDIANS["Car"]))
    assert counts.min() >= 15
    ratio = found / REAL_MEDIANS["Car"]
    assert (ratio < 1.5).all(), ratio
    assert (ratio > 1 / 1.5).all(), ratio


def test_people_have_as_many_points_as_kittis(frames):
    """Real frames have a handful of them: asked of medians over four or more only, and within a factor of 2.2."""
    rows = points_per_object(frames)
    compared = 0
    for kind in ("Pedestrian", "Cyclist"):
        found, _ = medians(rows[kind], len(REAL_MEDIANS[kind]))
        enough = np.array(REAL_COUNTS[kind]) >= 4
        ratio = found[enough] / np.array(REAL_MEDIANS[kind])[enough]
        assert (ratio < 2.2).all(), (kind, ratio)
        assert (ratio > 1 / 2.2).all(), (kind, ratio)
        compared += enough.sum()
    assert compared == 3


def test_sizes_are_kittis(frames):
    """Medians of 101 cars, 18 pedestrians and 7 cyclists; those of pedestrians are known to 10 cm only."""
    real = {"Car": (3.84, 1.63, 1.50), "Pedestrian": (0.93, 0.79, 1.74), "Cyclist": (1.71, 0.60, 1.76)}
    for kind, size in real.items():
        boxes = np.concatenate([frame.boxes[frame.objects.types == kind] for frame in frames])
        assert len(boxes) > 50
        np.testing.assert_allclose(np.median(boxes[:, 3:6], axis=0), size, atol=0.1)
        assert (boxes[:, 3:6].std(axis=0) > 0.05).all()


def test_frames_have_as_many_points_as_kittis_and_as_far(frames):
    """Real views have 17 700, 19 400 and 20 200 points (deciles 1, 5, 9), by ten metres of range the shares below."""
    counts, shares = [], []
    for frame in frames:
        points = frame.read_points()
        points = points[frame.calibration.in_view(points[:, :3], frame.image_size)]
        counts.append(len(points))
        shares.append(np.histogram(np.linalg.norm(points[:, :3], axis=1), np.arange(0, 81, 10))[0] / len(points))
    np.testing.assert_allclose(np.percentile(counts, [10, 50, 90]), [17742, 19411, 20233], rtol=0.1)
    real = [0.322, 0.414, 0.131, 0.058, 0.039, 0.021, 0.011, 0.006]
    np.testing.assert_allclose(np.mean(shares, axis=0), real, atol=0.06)
    whole = [len(frame.read_points()) for frame in frames]
    np.testing.assert_allclose(np.percentile(whole, [10, 50, 90]), [113_300, 121_700, 126_600], rtol=0.05)


def test_a_view_is_full_of_objects(frames):
    near = [frame.objects.types[np.hypot(*frame.boxes[:, :2].T) < 70] for frame in frames]
    mean = {kind: np.mean([(types == kind).sum() for types in near]) for kind in ("Car", "Pedestrian", "Cyclist")}
    assert 6 < mean["Car"] < 10
    assert 1.8 < mean["Pedestrian"] < 4.5
    assert 1.3 < mean["Cyclist"] < 3.5
    occluded = np.concatenate([frame.objects.occluded[frame.objects.types == "Car"] for frame in frames])
    share = np.bincount(occluded, minlength=4) / len(occluded)
    # of KITTI's training set 47 % of the cars are fully visible, 28 % partly, 24 % largely occluded
    np.testing.assert_allclose(share, [0.47, 0.28, 0.24, 0.01], atol=0.12)
