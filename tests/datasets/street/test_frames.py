"""Generated streets as KITTI frames: repeatable, and labelled as KITTI's definitions say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("open3d")

from pctransformer.datasets.kitti import kitti_scans, lidar_boxes, to_kitti
from pctransformer.datasets.kitti.boxes import wrap_angle
from pctransformer.datasets.scans import in_box
from pctransformer.datasets.street import street_frames
from pctransformer.datasets.street.frames import make_street_frame
from tests.datasets.street.same import assert_same


@pytest.fixture(scope="module")
def made():
    return [make_street_frame(0, i) for i in range(8)]


def test_a_frame_depends_on_seed_and_index_alone(made):
    first, second = street_frames(2, start=3)
    assert_same(first, made[3].frame)
    assert_same(second, made[4].frame)
    (other,) = street_frames(1, seed=1)
    assert len(other.read_points()) != len(made[0].frame.read_points())


def test_processes_make_the_same_frames(made):
    frames = street_frames(3, workers=1)  # more than the processors there are would draw a warning
    assert [frame.name for frame in frames] == ["000000", "000001", "000002"]
    for frame, known in zip(frames, made):
        assert_same(frame, known.frame)


def test_a_camera_view_is_what_the_camera_sees_of_the_whole_sweep(made):
    for one in made[:2]:
        whole = make_street_frame(0, int(one.frame.name), camera_view=False).frame
        points = whole.read_points()
        assert len(points) > 90_000
        assert (points[:, 0] < -5).mean() > 0.2
        points = points[whole.calibration.in_view(points[:, :3], whole.image_size)]
        view = one.frame.read_points()
        # where two surfaces touch, which of them a pulse meets depends on what else there is
        same = len(set(map(bytes, points)) & set(map(bytes, view)))
        assert same >= 0.998 * max(len(points), len(view))
        np.testing.assert_array_equal(whole.boxes, one.frame.boxes)


def test_frames_are_scans(made):
    frames = [one.frame for one in made]
    scan = kitti_scans(frames)[1]
    np.testing.assert_array_equal(scan.points, frames[1].read_points())
    assert scan.points.dtype == np.float32
    assert scan.boxes.shape == (len(frames[1].objects), 7)
    np.testing.assert_array_equal(scan.labels == 0, frames[1].objects.types == "Car")


def test_points_are_in_view_in_reach_and_have_kittis_intensities(made):
    for one in made:
        points = one.frame.read_points()
        assert one.frame.calibration.in_view(points[:, :3], one.frame.image_size).all()
        assert np.linalg.norm(points[:, :3], axis=1).max() < 80.5
        np.testing.assert_allclose(points[:, 3] * 100, np.round(points[:, 3] * 100), atol=1e-4)
        assert points[:, 3].min() >= 0
        assert points[:, 3].max() <= 1


def test_boxes_hold_the_points_of_their_objects_and_are_tight(made):
    inside = total = 0
    reach = []
    for one in made:
        points = one.frame.read_points()
        for i, (box, kind) in enumerate(zip(one.frame.boxes, one.frame.objects.types)):
            own = points[one.owner == i]
            assert len(own) >= 2
            found = in_box(own, box + np.array([0, 0, 0, 0.2, 0.2, 0.2, 0]))
            total, inside = total + len(own), inside + len(found)
            if len(own) > 300 and kind == "Car":
                cos, sin = np.cos(box[6]), np.sin(box[6])
                offset = (own[:, :3] - box[:3]) @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
                reach.append(np.abs(np.percentile(offset, [1, 99], axis=0)).max(axis=0) / (box[3:6] / 2))
    assert inside >= 0.985 * total  # mirrors of cars stand out of the boxes, as they do of KITTI's
    assert len(reach) >= 8
    np.testing.assert_allclose(np.median(reach, axis=0), 1, atol=0.1)


def test_labels_agree_with_the_packages_conversions(made):
    for one in made:
        frame, objects = one.frame, one.frame.objects
        np.testing.assert_array_equal(frame.boxes, lidar_boxes(objects, frame.calibration))
        again = to_kitti(
            frame.boxes, np.ones(len(objects)), np.zeros(len(objects), np.int64), class_names=["Car"],
            calibration=frame.calibration, image_size=frame.image_size,
        )  # fmt: skip
        np.testing.assert_allclose(again.boxes_2d, objects.boxes_2d, atol=0.2)  # the labels are rounded
        np.testing.assert_allclose(wrap_angle(again.rotation_y - objects.rotation_y), 0, atol=1e-3)
        ray = np.arctan2(objects.locations[:, 0], objects.locations[:, 2])
        np.testing.assert_allclose(wrap_angle(objects.alpha - objects.rotation_y + ray), 0, atol=2e-4)
        assert (objects.truncated >= 0).all()
        assert (objects.truncated <= 1).all()
        assert set(objects.occluded.tolist()) <= {0, 1, 2, 3}
        at_the_edge = (objects.boxes_2d[:, 0] == 0) | (objects.boxes_2d[:, 2] == frame.image_size[0] - 1)
        assert (at_the_edge | (objects.boxes_2d[:, 3] == frame.image_size[1] - 1))[objects.truncated > 0.01].all()


def test_regions_are_dont_care_and_in_the_image(made):
    assert sum(len(one.frame.regions) for one in made) > 0
    for one in made:
        regions = one.frame.regions
        assert set(regions.types) <= {"DontCare"}
        assert "DontCare" not in one.frame.objects.types
        assert (regions.boxes_2d[:, 2:] > regions.boxes_2d[:, :2]).all()
        assert (regions.boxes_2d[:, 2:] <= np.array(one.frame.image_size) - 1).all()
        assert (regions.locations == -1000).all()


def test_the_plane_is_where_the_road_is(made):
    planes = [one.frame.plane for one in made if one.frame.plane is not None]
    assert len(planes) >= 5
    for one in made:
        plane = one.frame.plane
        if plane is not None:
            points = one.frame.read_points()
            near = (np.abs(points[:, 1]) < 1.0) & (points[:, 0] < 15) & (one.owner < 0)
            height = points[near, :3] @ plane[:3] + plane[3]
            assert abs(np.median(height)) < 0.1
            assert 1.5 < plane[3] < 2.0


def test_numbers_that_make_no_sense():
    with pytest.raises(ValueError, match="must not be negative, got -1 and 0"):
        street_frames(-1)
    assert street_frames(0) == []


def test_a_frame_has_a_file_or_points(made):
    with pytest.raises(ValueError, match="either a file of points or the points themselves"):
        dataclasses.replace(made[0].frame, points=None)
