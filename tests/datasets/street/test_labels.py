"""Truncation and occlusion by KITTI's definitions, on streets of a few things."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("open3d")

from pctransformer.datasets.kitti.calibration import USUAL_IMAGE_SIZE
from pctransformer.datasets.street.frames import CALIBRATION
from pctransformer.datasets.street.ground import Ground
from pctransformer.datasets.street.labels import LABEL_LIFT, label_things
from pctransformer.datasets.street.layout import Street, Thing
from pctransformer.datasets.street.scene import Pose, Scene

SIZE = {"Car": (4.0, 1.7, 1.5), "Van": (5.0, 1.9, 2.2), "Pedestrian": (0.8, 0.6, 1.75), "house": (8.0, 10.0, 6.0)}


def street_of(*things):
    """A scene of things (kind, x, y, heading), flat ground, scanner 1.73 m above it; its boxes."""
    ground = Ground(half=6, pavement=2, kerb=0.1, sides=(), bend=0.0, slope=np.zeros(2), waves=np.zeros((0, 4)))
    rows = [
        Thing(kind, np.array([x, y, 0, *SIZE[kind], heading]), seed)
        for seed, (kind, x, y, heading) in enumerate(things)
    ]
    pose = Pose(np.array([0, 0, 1.73]), np.eye(3))
    return Scene(Street(ground, rows, 0, 0), pose, camera_view=True), pose.boxes(rows, ground)


def labels_of(*things, num_points=None):
    scene, boxes = street_of(*things)
    kinds = [thing[0] for thing in things]
    wanted = np.array([i for i, kind in enumerate(kinds) if kind != "house"], np.int64)
    counts = np.full(len(wanted), 100) if num_points is None else np.array(num_points)
    return label_things(
        [kinds[i] for i in wanted], boxes[wanted], counts, scene, wanted,
        calibration=CALIBRATION, image_size=USUAL_IMAGE_SIZE,
    )  # fmt: skip


def test_a_car_in_the_open():
    objects, regions, rows = labels_of(("Car", 20, 0, 0.0))
    assert (len(objects), len(regions), rows.tolist()) == (1, 0, [0])
    assert objects.truncated[0] == 0
    assert objects.occluded[0] == 0
    np.testing.assert_allclose(objects.dimensions[0], [1.5, 1.7, 4.0])
    np.testing.assert_allclose(objects.locations[0], [0, 1.65 - LABEL_LIFT, 19.73], atol=1e-9)  # 0.27 m ahead
    assert objects.rotation_y[0] == pytest.approx(-np.pi / 2, abs=1e-4)
    assert objects.alpha[0] == pytest.approx(-np.pi / 2, abs=1e-4)
    # its rear, 1.7 m wide and 17.73 m ahead, is the widest that is seen; the second camera of KITTI is 6 cm to the left
    left, right = 609.5 + (np.array([-0.85, 0.85]) * 721.5 + 44.9) / 17.73
    np.testing.assert_allclose(objects.boxes_2d[0, [0, 2]], [left, right], atol=0.01)


def test_alpha_is_relative_to_the_line_of_sight():
    (objects, _, _) = labels_of(("Car", 20, -10, 0.3))
    ray = np.arctan2(objects.locations[0, 0], objects.locations[0, 2])
    assert objects.rotation_y[0] == pytest.approx(-0.3 - np.pi / 2, abs=1e-4)
    assert objects.alpha[0] == pytest.approx(-0.3 - np.pi / 2 - ray, abs=2e-4)
    assert ray > 0.4  # it stands to the right


@pytest.mark.parametrize(("aside", "occluded"), [(6.0, 0), (2.25, 1), (1.5, 2)])
def test_a_car_behind_a_van(aside, occluded):
    """How much of the car is hidden depends on how far it stands to the side."""
    objects, _, rows = labels_of(("Van", 12, 0, 0.0), ("Car", 20, aside, 0.0))
    assert rows.tolist() == [0, 1]
    assert objects.occluded.tolist() == [0, occluded]


def test_what_a_house_hides_is_not_mentioned_and_what_it_nearly_hides_is_no_object():
    objects, regions, rows = labels_of(("house", 15, 0, 0.0), ("Car", 30, 0, 0.0), ("Car", 8, 3, 0.0))
    assert objects.types.tolist() == ["Car"]
    assert rows.tolist() == [1]
    assert len(regions) == 0
    # a metre of a car's length looks out beside the house
    objects, regions, rows = labels_of(("house", 15, 0, 0.0), ("Car", 22, 9.15, np.pi / 2))
    assert (len(objects), len(rows)) == (0, 0)
    assert regions.types.tolist() == ["DontCare"]
    assert regions.rotation_y.tolist() == [-10]


def test_a_walker_whom_the_images_edge_cuts():
    """Of a rectangle that begins left of the image, the share outside is truncated."""
    for y in (6.2, 6.4, 6.6):
        objects, _, _ = labels_of(("Pedestrian", 8, y, 0.0))
        x = CALIBRATION.to_camera(np.array([[8.4, y - 0.3, 0], [7.6, y + 0.3, 0]]))
        right, left = CALIBRATION.to_image(x)[0][:, 0]
        assert left < 0 < right
        assert objects.truncated[0] == pytest.approx(-left / (right - left), abs=0.03)
        assert objects.boxes_2d[0, 0] == 0


def test_too_few_points_make_a_region():
    objects, regions, _ = labels_of(("Car", 60, 0, 0.0), ("Car", 40, 8, 0.0), num_points=[1, 2])
    assert objects.locations[:, 2].round().tolist() == [40]
    assert len(regions) == 1


def test_nothing_to_label():
    objects, regions, rows = labels_of(("house", 15, 0, 0.0))
    assert (len(objects), len(regions), len(rows)) == (0, 0, 0)
    objects, regions, rows = labels_of(("Car", -20, 0, 0.0), ("Car", 5, 30, 0.0))  # behind, and out of view
    assert (len(objects), len(regions), len(rows)) == (0, 0, 0)
