import numpy as np
import pytest

from pctransformer.datasets.object_database import (
    LabelledObject,
    ObjectDatabase,
    build_database,
    joined_databases,
    objects_of_scans,
)
from pctransformer.datasets.scans import Scan, ScanDataset


def labelled(number, count, kind="Car"):
    """Points whose 4th column is the number of the object."""
    points = np.column_stack([np.arange(3 * count).reshape(count, 3), np.full(count, number)]).astype(np.float32)
    return LabelledObject(points, np.full(7, number + 1.0), kind, number % 3, f"{number:06d}")


def equal(one: ObjectDatabase, other: ObjectDatabase) -> bool:
    names = ("points", "offsets", "boxes", "types", "difficulty", "frames")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def test_some_of_the_objects():
    rows = [labelled(0, 2), labelled(1, 0), labelled(2, 3), labelled(3, 1)]
    database = build_database(rows)
    assert equal(database.take(np.array([2, 0])), build_database([rows[2], rows[0]]))
    assert equal(database.take(np.array([False, True, False, True])), build_database([rows[1], rows[3]]))
    assert len(database.take(np.zeros(4, bool))) == 0


def test_databases_are_joined():
    rows = [labelled(i, i, kind) for i, kind in enumerate(("Car", "Pedestrian", "Cyclist"))]
    assert equal(joined_databases([build_database(rows[:1]), build_database(rows[1:])]), build_database(rows))
    bare = LabelledObject(np.zeros((2, 3), np.float32), np.ones(7), "Car", 0, "a")
    with pytest.raises(ValueError, match=r"the same channels, got \[3, 4\]"):
        joined_databases([build_database(rows), build_database([bare])])


def test_objects_of_scans_without_a_camera():
    points = np.array([[1, 1, 1, 0.1], [1.2, 1, 1, 0.2], [9, 9, 9, 0.3]], np.float32)
    boxes = np.array([[1, 1, 1, 1, 1, 1, 0], [9, 9, 9, 1, 1, 1, 0]], np.float32)
    scans = ScanDataset(["a"], lambda index: Scan(points, boxes, np.array([1, -1]), "a"), ["Van", "Car"])
    (only,) = objects_of_scans(scans)
    assert (only.type, only.difficulty, only.frame) == ("Car", 0, "a")
    np.testing.assert_array_equal(only.points, points[:2])
