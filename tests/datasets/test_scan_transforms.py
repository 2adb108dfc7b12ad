import dataclasses
import math

import numpy as np
import pytest
import torch

from pctransformer.datasets.object_database import LabelledObject, build_database
from pctransformer.datasets.object_sampling import PasteObjects
from pctransformer.datasets.scan_recipes import WANTED, training_recipe
from pctransformer.datasets.scan_transforms import (
    CropToRange,
    ObjectNoise,
    RandomFlip,
    RandomScale,
    RandomTurn,
    ShufflePoints,
)
from pctransformer.datasets.scans import Scan, boxes_collide, in_box, points_in_boxes
from tests.real_data import real_data

CLASSES = ("Car", "Pedestrian")
WIDE = (-100.0, -100.0, -10.0, 100.0, 100.0, 10.0)
GROUND = np.array([0.02, -0.03, 1.0, 1.8])


def on_ground(x, y):
    return -(GROUND[0] * x + GROUND[1] * y + GROUND[3]) / GROUND[2]


def filled(generator, box, count):
    """(count, 3) points well inside a box."""
    local = generator.uniform(-0.48, 0.48, (count, 3)) * box[3:6]
    cos, sin = np.cos(box[6]), np.sin(box[6])
    turned = np.column_stack([cos * local[:, 0] - sin * local[:, 1], sin * local[:, 0] + cos * local[:, 1]])
    return np.column_stack([turned, local[:, 2]]) + box[:3]


def street(seed=0, cars=6):
    """Cars side by side, 15 points each, and 300 points on a sloping road; the 4th column numbers points."""
    generator = np.random.default_rng(seed)
    boxes = np.array([[12 + 9 * i, (-1) ** i * 4, 0, 4, 1.7, 1.5, generator.uniform(-3, 3)] for i in range(cars)])
    boxes = boxes.reshape(-1, 7)
    boxes[:, 2] = on_ground(boxes[:, 0], boxes[:, 1]) + 0.75
    xy = generator.uniform([0, -30], [70, 30], (300, 2))
    xyz = np.concatenate([np.column_stack([xy, on_ground(*xy.T)]), *(filled(generator, box, 15) for box in boxes)])
    points = np.column_stack([xyz, np.arange(len(xyz))]).astype(np.float32)
    labels = np.where(np.arange(cars) == 5, -1, np.arange(cars) % 2)
    scan = Scan(points, boxes.astype(np.float32), labels.astype(np.int64), "street", GROUND)
    for array in (scan.points, scan.boxes, scan.labels, scan.ground):
        array.flags.writeable = False  # a transform that writes into its input fails
    return scan


def owned(scan, boxes):
    """For each box the numbers of the points in it, 1 mm around it included."""
    around = boxes + np.array([0, 0, 0, 2e-3, 2e-3, 2e-3, 0], np.float32)
    return [set(scan.points[in_box(scan.points, box), 3].astype(int)) for box in around]


def database(generator=None):
    generator = generator or np.random.default_rng(1)
    objects = []
    for i in range(30):
        kind = CLASSES[i % 2]
        size = (4, 1.7, 1.5) if kind == "Car" else (0.8, 0.6, 1.7)
        box = np.array([generator.uniform(5, 60), generator.uniform(-25, 25), 3.0, *size, generator.uniform(-3, 3)])
        count = 3 if i >= 26 else 10  # too few in the last four
        points = np.column_stack([filled(generator, box, count), np.full(count, 10_000 + i)])
        objects.append(LabelledObject(points.astype(np.float32), box, kind, -1 if i in (0, 1) else 1, f"{i:06d}"))
    return build_database(objects)


RIGID = [RandomFlip(1.0), RandomTurn(), RandomScale(), ObjectNoise(), ShufflePoints(), CropToRange(WIDE)]


# ---- all of them -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("transform", RIGID, ids=lambda transform: type(transform).__name__)
@pytest.mark.parametrize("seed", range(3))
def test_points_of_a_box_stay_in_it(transform, seed):
    scan = street(seed)
    before = owned(scan, scan.boxes)
    assert all(len(numbers) >= 15 for numbers in before)
    after = transform(scan, torch.Generator().manual_seed(seed))
    assert (after.points.dtype, after.boxes.dtype) == (np.float32, np.float32)
    assert len(after.points) == len(scan.points)
    for inside, still in zip(before, owned(after, after.boxes)):
        assert inside <= still
    np.testing.assert_array_equal(after.labels, scan.labels)
    assert after.name == scan.name


@pytest.mark.parametrize("name", WANTED)
def test_recipes_keep_points_in_boxes_and_repeat(name):
    scan = street()
    recipe = training_recipe(name, database(), class_names=CLASSES, range=WIDE)
    after = recipe(scan, torch.Generator().manual_seed(5))
    again = recipe(scan, torch.Generator().manual_seed(5))
    np.testing.assert_array_equal(after.points, again.points)
    np.testing.assert_array_equal(after.boxes, again.boxes)
    assert len(after.boxes) > len(scan.boxes)
    around = after.boxes + np.array([0, 0, 0, 2e-3, 2e-3, 2e-3, 0])
    assert all(len(in_box(after.points, box)) >= 10 for box in around)
    other = recipe(scan, torch.Generator().manual_seed(6))
    assert other.boxes.shape != after.boxes.shape or not np.array_equal(other.boxes, after.boxes)


@pytest.mark.parametrize(
    "transform", [*RIGID, PasteObjects(database(), CLASSES, {"Car": 3})], ids=lambda t: type(t).__name__
)
def test_empty_scans(transform):
    empty = Scan(np.zeros((0, 4), np.float32), np.zeros((0, 7), np.float32), np.zeros(0, np.int64))
    after = transform(empty, torch.Generator().manual_seed(0))
    assert after.boxes.shape[1] == 7
    only_points = dataclasses.replace(street(), boxes=empty.boxes, labels=empty.labels)
    assert len(transform(only_points, torch.Generator().manual_seed(0)).points) > 0


@pytest.mark.parametrize(
    "transform", [RandomFlip(1.0), RandomTurn(), RandomScale(0.9, 1.1)], ids=lambda t: type(t).__name__
)
def test_the_road_moves_with_its_points(transform):
    after = transform(street(), torch.Generator().manual_seed(0))
    road = after.points[after.points[:, 3] < 300, :3].astype(np.float64)
    distance = (road @ after.ground[:3] + after.ground[3]) / np.linalg.norm(after.ground[:3])
    np.testing.assert_allclose(distance, 0, atol=1e-4)


# ---- one by one ------------------------------------------------------------------------------------------------------
def one_box():
    box = np.array([[10, 2, -1, 4, 2, 1.5, 0.5]], np.float32)
    return Scan(np.array([[10, 2, -1, 0.7]], np.float32), box, np.zeros(1, np.int64))


def test_flip():
    after = RandomFlip(1.0)(one_box(), torch.Generator())
    np.testing.assert_allclose(after.boxes, [[10, -2, -1, 4, 2, 1.5, -0.5]])
    np.testing.assert_allclose(after.points, [[10, -2, -1, 0.7]])
    assert RandomFlip(0.0)(one_box(), torch.Generator()).boxes[0, 1] == 2
    flipped = [RandomFlip()(one_box(), torch.Generator().manual_seed(i)).boxes[0, 1] < 0 for i in range(200)]
    assert 0.4 < np.mean(flipped) < 0.6


def test_turn():
    angles = []
    for seed in range(200):
        after = RandomTurn(0.5)(one_box(), torch.Generator().manual_seed(seed))
        angle = math.atan2(after.boxes[0, 1], after.boxes[0, 0]) - math.atan2(2, 10)
        assert after.boxes[0, 6] - 0.5 == pytest.approx(angle, abs=1e-6)
        np.testing.assert_allclose(after.points[0, :3], after.boxes[0, :3], atol=1e-6)
        assert after.points[0, 3] == np.float32(0.7)
        angles.append(angle)
    assert -0.5 <= min(angles) < -0.4 < 0.4 < max(angles) <= 0.5


def test_headings_stay_in_one_turn():
    box = np.array([[10, 2, -1, 4, 2, 1.5, 3.1]], np.float32)
    scan = dataclasses.replace(one_box(), boxes=box)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        for transform in (RandomTurn(), RandomFlip(1.0), ObjectNoise()):
            assert -np.pi <= transform(scan, generator).boxes[0, 6] <= np.pi


def test_scale():
    after = RandomScale(1.05, 1.05)(one_box(), torch.Generator())
    np.testing.assert_allclose(after.boxes[0], [10.5, 2.1, -1.05, 4.2, 2.1, 1.575, 0.5], rtol=1e-6)
    np.testing.assert_allclose(after.points[0], [10.5, 2.1, -1.05, 0.7], rtol=1e-6)
    with pytest.raises(ValueError, match="0 < low <= high"):
        RandomScale(1.1, 0.9)


def test_crop():
    points = np.array([[0, 0, 0, 1], [9.9, 0, 0, 2], [10, 0, 0, 3], [5, 5, 0, 4]], np.float32)
    boxes = np.array([[9, 0, 0, 4, 2, 1.5, 0], [11, 0, 0, 4, 2, 1.5, 0]], np.float32)
    after = CropToRange((0, -2, -1, 10, 2, 1))(Scan(points, boxes, np.array([3, 4])))
    assert after.points[:, 3].tolist() == [1, 2]
    assert after.labels.tolist() == [3]


def test_noise_moves_objects_without_collisions():
    scan = street()
    moved = 0.0
    for seed in range(5):
        after = ObjectNoise()(scan, torch.Generator().manual_seed(seed))
        collide = boxes_collide(after.boxes, after.boxes)
        np.fill_diagonal(collide, False)
        assert not collide.any()
        moved += np.abs(after.boxes[:, :3] - scan.boxes[:, :3]).mean() / 5
        np.testing.assert_array_equal(after.boxes[:, 3:6], scan.boxes[:, 3:6])
        road = points_in_boxes(scan.points, scan.boxes) < 0
        np.testing.assert_array_equal(after.points[road], scan.points[road])
    assert 0.3 < moved < 1.2


def test_an_object_without_room_stays():
    boxes = np.array([[10 + 0.1 * i, 0, 0, 4, 2, 1.5, 0] for i in range(3)], np.float32)
    scan = Scan(boxes[:, :4], boxes, np.zeros(3, np.int64))
    after = ObjectNoise(deviation=(1e-3, 1e-3, 1e-3), limit=1e-3)(scan, torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(after.boxes, boxes)


# ---- pasting ---------------------------------------------------------------------------------------------------------
def test_pasted_objects_collide_with_nothing_and_bring_their_points():
    scan, objects = street(), database()
    for seed in range(5):
        after = PasteObjects(objects, CLASSES, {"Car": 8, "Pedestrian": 9})(scan, torch.Generator().manual_seed(seed))
        new = slice(len(scan.boxes), None)
        assert len(after.boxes[new]) > 4
        collide = boxes_collide(after.boxes, after.boxes)
        np.fill_diagonal(collide, False)
        assert not collide.any()
        np.testing.assert_array_equal(after.boxes[: len(scan.boxes)], scan.boxes)
        for numbers, label in zip(owned(after, after.boxes[new]), after.labels[new]):
            (number,) = numbers  # points of one object only: those of the scan are removed
            assert number >= 10_000
            assert CLASSES[label] == objects.types[number - 10_000]
            assert number - 10_000 not in (0, 1, *range(26, 30))  # too hard, too few points
        for inside, still in zip(owned(scan, scan.boxes), owned(after, after.boxes)):
            assert inside == still


def test_pasted_objects_stand_on_the_road():
    scan = street()
    after = PasteObjects(database(), CLASSES, {"Car": 8})(scan, torch.Generator().manual_seed(0))
    new = after.boxes[len(scan.boxes) :]
    np.testing.assert_allclose(new[:, 2] - new[:, 5] / 2, on_ground(new[:, 0], new[:, 1]), atol=1e-5)
    for other in (dataclasses.replace(scan, ground=None), scan):
        paste = PasteObjects(database(), CLASSES, {"Car": 8}, on_ground=other.ground is None)
        floating = paste(other, torch.Generator().manual_seed(0)).boxes[len(scan.boxes) :]
        assert (floating[:, 2] == 3).all()


def test_objects_of_the_scan_may_count():
    scan = street()  # three cars, two pedestrians
    drawn = []
    for wanted, fill_up in ((3, True), (4, True), (3, False)):
        paste = PasteObjects(database(), CLASSES, {"Car": wanted}, fill_up)
        after = [paste(scan, torch.Generator().manual_seed(seed)) for seed in range(30)]
        drawn.append(max(len(one.boxes) for one in after) - len(scan.boxes))
        assert all((one.labels[len(scan.boxes) :] == 0).all() for one in after)
    assert drawn == [0, 1, 3]


def test_of_two_colliding_objects_neither_is_pasted():
    box = np.array([30, 20, 0, 4, 2, 1.5, 0.0])
    points = np.tile(box[:3].astype(np.float32), (6, 1))
    objects = [LabelledObject(points, box + np.eye(7)[0] * i, "Car", 0, "x") for i in range(2)]
    paste = PasteObjects(build_database(objects), CLASSES, {"Car": 2})
    scan = dataclasses.replace(street(), points=street().points[:, :3])
    assert len(paste(scan, torch.Generator().manual_seed(0)).boxes) == 6
    one = PasteObjects(build_database(objects[:1]), CLASSES, {"Car": 2})
    assert len(one(scan, torch.Generator().manual_seed(0)).boxes) == 7


def test_faults():
    with pytest.raises(ValueError, match="must be among Car, Pedestrian, got Tram"):
        PasteObjects(database(), CLASSES, {"Tram": 2})
    with pytest.raises(ValueError, match="no recipe 'secnd'"):
        training_recipe("secnd", None, class_names=CLASSES, range=WIDE)
    with pytest.raises(ValueError, match="at least one object"):
        build_database([])


def test_real_scans():
    """Objects of six real frames pasted into another one keep their points, and stand on its road."""
    from pctransformer.datasets.kitti import kitti_scans, read_frame
    from pctransformer.datasets.kitti.prepare import labelled_objects

    folder = real_data("kitti")
    frames = [read_frame(folder, name) for name in ("000003", "000004", "000005", "000006", "000007", "000009")]
    objects = build_database(labelled_objects(frames))
    recipe = training_recipe("second", objects, class_names=("Car",), range=(0, -40, -3, 70.4, 40, 1))
    data = kitti_scans([read_frame(folder, "000008")], class_names=("Car",))
    plain, found = data[0], data.with_transform(recipe)[0]
    assert len(found.boxes) >= len(plain.boxes) + 3
    counts = [len(in_box(found.points, box)) for box in found.boxes]
    assert min(counts) >= 3
    a, b, c, d = found.ground
    below = found.boxes[:, 2] - found.boxes[:, 5] / 2 + (a * found.boxes[:, 0] + b * found.boxes[:, 1] + d) / c
    np.testing.assert_allclose(below[len(plain.boxes) :], 0, atol=1e-4)
