import json
import pickle
import sys
import types

import numpy as np
import pytest

from pctransformer import cli
from pctransformer.datasets.files import FileFormatError
from pctransformer.datasets.kitti import (
    check_counts,
    kitti_scans,
    read_frame,
    read_infos,
    read_openpcdet_infos,
    read_split,
    write_infos,
)
from pctransformer.datasets.kitti.frames import difficulty_of, frame_names
from pctransformer.datasets.kitti.openpcdet import read_plain_pickle
from pctransformer.datasets.kitti.prepare import KNOWN_COUNTS, labelled_objects
from pctransformer.datasets.object_database import ObjectDatabase, build_database
from pctransformer.datasets.scans import in_box
from pctransformer.errors import UserError
from tests.datasets.kitti.files import BOXES, camera_objects, write_kitti


@pytest.fixture
def folder(tmp_path):
    return write_kitti(tmp_path / "kitti")


def equal(one, other):
    """Whether two frames are the same."""
    for name in ("types", "truncated", "occluded", "alpha", "boxes_2d", "dimensions", "locations", "rotation_y"):
        np.testing.assert_array_equal(getattr(one.labels, name), getattr(other.labels, name))
    for name, value in vars(one.calibration).items():
        np.testing.assert_array_equal(getattr(other.calibration, name), value)
    np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-12)
    assert (one.name, one.points_file, one.image_size) == (other.name, other.points_file, other.image_size)
    return True


# ---- folders ---------------------------------------------------------------------------------------------------------
def test_frames_of_a_split(folder):
    frames = read_split(folder, "train")
    assert [frame.name for frame in frames] == ["000000", "000001", "000002"]
    for frame in frames:
        assert frame.objects.types.tolist() == [kind for kind, _, _ in BOXES[frame.name]]  # no DontCare
        assert frame.labels.types.tolist() == [*frame.objects.types, "DontCare"]
        assert frame.regions.boxes_2d.tolist() == [[500, 100, 520, 120]]
        np.testing.assert_allclose(frame.boxes, [box for _, box, _ in BOXES[frame.name]], atol=2e-4)  # 4 decimals
    assert frames[0].image_size == (1224, 370)
    assert frames[1].image_size == (1242, 375)
    assert frames[0].plane is not None
    assert frames[1].plane is None
    assert len(read_split(folder, "val")[0].boxes) == 0


def test_test_frames_have_no_labels(folder):
    (folder / "testing").mkdir()
    for name in ("velodyne", "calib"):
        (folder / "training" / name).rename(folder / "testing" / name)
    (folder / "ImageSets" / "test.txt").write_text("000002")
    (frame,) = read_split(folder, "test")
    assert len(frame.objects) == 0
    assert len(frame.read_points()) == 404


def test_missing_files_are_named(folder):
    with pytest.raises(FileFormatError, match=r"other\.txt: there is no such file.*there are train, val"):
        read_split(folder, "other")
    (folder / "ImageSets" / "bad.txt").write_text("../secret")
    with pytest.raises(FileFormatError, match=r"found '\.\./secret'"):
        frame_names(folder, "bad")
    for part in ("label_2/000001.txt", "calib/000001.txt", "velodyne/000001.bin"):
        path = folder / "training" / part
        path.rename(path.with_suffix(".gone"))
        with pytest.raises(FileFormatError, match=part):
            read_frame(folder, "000001")
        path.with_suffix(".gone").rename(path)


def test_difficulty_counts_rows_of_pixels():
    objects = camera_objects([(10, 0, 0, 1, 1, 1, 0)] * 8, ["Car"] * 8)
    heights = [39, 38.9, 39, 39, 39, 24, 23.9, 39]
    objects.boxes_2d[:] = [[0, 100, 50, 100 + height] for height in heights]
    objects.occluded[:] = [0, 0, 1, 2, 0, 0, 0, 3]
    objects.truncated[:] = [0.15, 0, 0, 0, 0.3, 0, 0, 0]
    assert difficulty_of(objects).tolist() == [0, 1, 1, 2, 1, 1, -1, -1]


# ---- infos -----------------------------------------------------------------------------------------------------------
def test_infos_hold_everything_but_points(folder, tmp_path):
    frames = read_split(folder, "train")
    write_infos(tmp_path / "train.json", frames, folder)
    again = read_infos(tmp_path / "train.json", folder)
    assert all(map(equal, frames, again))
    np.testing.assert_array_equal(frames[0].plane, again[0].plane)
    assert again[1].plane is None
    assert len(again[0].read_points()) == 449


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c["frames"][0].update(points_file="../../secret.bin"), "is not inside of"),
        (lambda c: c["frames"][0].update(points_file="/etc/passwd"), "is not inside of"),
        (lambda c: c["frames"][0].pop("boxes"), "'boxes'"),
        (lambda c: c["frames"][0]["boxes"].pop(), "cannot reshape"),
        (lambda c: c.update(kitti_infos=7), "version 7, not 1"),
        (lambda c: c.pop("frames"), "'frames'"),
    ],
)
def test_broken_infos_are_refused(folder, tmp_path, change, problem):
    path = tmp_path / "train.json"
    write_infos(path, read_split(folder, "train"), folder)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(FileFormatError, match=problem):
        read_infos(path, folder)
    path.write_text("[")
    with pytest.raises(FileFormatError, match="these are not infos"):
        read_infos(path, folder)


# ---- OpenPCDet's pickles ---------------------------------------------------------------------------------------------
def openpcdet_info(frame):
    """A frame as OpenPCDet's `kitti_infos_*.pkl` have it; matrices padded to (4, 4), DontCare last."""
    calibration, objects = frame.calibration, frame.objects
    padded = {}
    for name, value in (
        ("P2", calibration.projection),
        ("R0_rect", calibration.rectification),
        ("Tr_velo_to_cam", calibration.from_lidar),
    ):
        padded[name] = np.eye(4, dtype=np.float32).astype(np.float64)
        padded[name][: value.shape[0], : value.shape[1]] = value

    def with_dont_care(values, one):
        return np.concatenate([values, np.array([one], values.dtype).reshape(1, *values.shape[1:])])

    return {
        "point_cloud": {"num_features": 4, "lidar_idx": frame.name},
        "image": {"image_idx": frame.name, "image_shape": np.array(frame.image_size[::-1], np.int32)},
        "calib": padded,
        "annos": {
            "name": np.array([*objects.types, "DontCare"]),
            "truncated": with_dont_care(objects.truncated, -1),
            "occluded": with_dont_care(objects.occluded.astype(float), -1),
            "alpha": with_dont_care(objects.alpha, -10),
            "bbox": with_dont_care(objects.boxes_2d.astype(np.float32), [0, 0, 1, 1]),
            "dimensions": with_dont_care(objects.dimensions[:, [2, 0, 1]], [-1, -1, -1]),
            "location": with_dont_care(objects.locations, [-1000] * 3),
            "rotation_y": with_dont_care(objects.rotation_y, -10),
            "score": np.full(len(objects) + 1, -1.0),
            "index": np.array([*range(len(objects)), -1], np.int32),
            "difficulty": np.array([0] * len(objects) + [-1], np.int32),
            "num_points_in_gt": np.float64(3),
        },
    }


@pytest.mark.parametrize("protocol", range(2, 6))
def test_openpcdet_infos_are_read(folder, tmp_path, protocol):
    frames = read_split(folder, "train")
    path = tmp_path / "kitti_infos_train.pkl"
    path.write_bytes(pickle.dumps([openpcdet_info(frame) for frame in frames], protocol))
    again = read_openpcdet_infos(path, folder)
    for one, other in zip(frames, again):
        np.testing.assert_allclose(other.objects.boxes_2d, one.objects.boxes_2d, atol=1e-4)  # float32 in the file
        assert other.labels.types.tolist() == one.labels.types.tolist()
        np.testing.assert_allclose(other.boxes, one.boxes, atol=1e-12)
        assert (other.points_file, other.image_size) == (one.points_file, one.image_size)


class Malicious:
    """Unpickled by Python, it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


RAN = []


@pytest.mark.parametrize(
    "value",
    [
        Malicious(RAN.append, 1),
        Malicious(exec, "import tests.datasets.kitti.test_frames as t; t.RAN.append(1)"),
        Malicious(print, "hello"),
        [{"point_cloud": Malicious(eval, "1 + 1")}],
        np.array([Malicious(RAN.append, 1)], dtype=object),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.ma.masked_array([1, 2]),
        types.SimpleNamespace(a=1),
        UserError("a class of ours"),
        {1, 2},
        np.load,
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_malicious_pickles_are_refused(tmp_path, value, protocol):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    RAN.clear()
    if isinstance(value, set) and protocol >= 4:  # which are plain values of their own there
        assert read_plain_pickle(path) == value
        return
    with pytest.raises(FileFormatError, match="nothing in it was run"):
        read_plain_pickle(path)
    assert RAN == []


def test_a_pickle_may_not_import(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"cantigravity\nnothing\n.")
    with pytest.raises(FileFormatError, match=r"antigravity\.nothing"):
        read_plain_pickle(path)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_truncated_pickles_are_refused(folder, tmp_path, keep):
    data = pickle.dumps([openpcdet_info(frame) for frame in read_split(folder, "train")])
    (tmp_path / "a.pkl").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(FileFormatError):
        read_openpcdet_infos(tmp_path / "a.pkl", folder)


def test_other_plain_pickles_are_explained(tmp_path):
    for value in ([{"name": "x"}], {"a": 1}, [3], 7):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(value))
        with pytest.raises(FileFormatError, match="not a kitti_infos file of OpenPCDet"):
            read_openpcdet_infos(tmp_path / "a.pkl", tmp_path)


# ---- scans -----------------------------------------------------------------------------------------------------------
def test_scans(folder):
    scans = kitti_scans(read_split(folder, "train"), camera_view=False)
    scan = scans[1]
    assert scan.name == "000001"
    assert scan.labels.tolist() == [2, -1]  # Cyclist, Van
    assert (scan.points.dtype, scan.boxes.dtype) == (np.float32, np.float32)
    assert [len(in_box(scan.points, box)) for box in scan.boxes] == [6, 20]
    assert scans.class_names == ("Car", "Pedestrian", "Cyclist")
    seen = kitti_scans(read_split(folder, "train"))[1]
    assert 26 < len(seen.points) < len(scan.points)
    assert (seen.points[:, 0] > 0).all()
    assert [len(in_box(seen.points, box)) for box in seen.boxes] == [6, 20]


# ---- what is prepared ------------------------------------------------------------------------------------------------
def test_database(folder, tmp_path):
    frames = read_split(folder, "train")
    database = build_database(labelled_objects(frames))
    assert database.types.tolist() == ["Car", "Pedestrian", "Cyclist", "Van", "Car"]
    assert database.num_points.tolist() == [40, 9, 6, 20, 4]
    assert database.frames.tolist() == ["000000", "000000", "000001", "000001", "000002"]
    assert database.counts()["Car"] == (2, 1, 1)
    points, box = database.points_of(0), database.boxes[0]
    at_origin = np.array([0, 0, 0, *box[3:]])
    assert len(in_box(points, at_origin)) == 40
    again = frames[0].read_points()
    np.testing.assert_allclose(points + np.array([*box[:3], 0]), again[in_box(again, frames[0].boxes[0])], atol=1e-5)
    chosen = database.choose(min_points={"Car": 5, "Cyclist": 7, "Tram": 1})
    assert {name: rows.tolist() for name, rows in chosen.items()} == {"Car": [0], "Cyclist": [], "Tram": []}

    database.save(tmp_path / "a.npz")
    loaded = ObjectDatabase.load(tmp_path / "a.npz")
    for name in ("points", "offsets", "boxes", "types", "difficulty", "frames"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(database, name))


def test_broken_databases_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(FileFormatError, match="prepare kitti"):
        ObjectDatabase.load(path)
    for content in (b"", b"PK\x03\x04 nonsense", pickle.dumps(RAN.append)):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=r"the file is empty|not a readable npz archive"):
            ObjectDatabase.load(path)
    np.savez(path, about=np.array([Malicious(RAN.append, 1)], dtype=object))
    with pytest.raises(FileFormatError, match=r"there is no array 'points'|never pickled objects"):
        ObjectDatabase.load(path)
    assert RAN == []


def test_counts_are_checked_when_the_split_is_complete():
    types_, difficulty, counts = [], [], []
    for name, (every, enough, fit) in KNOWN_COUNTS.items():
        types_ += [name] * every
        counts += [5] * enough + [4] * (every - enough)
        difficulty += [0] * fit + [-1] * (every - fit)
    database = ObjectDatabase(
        points=np.zeros((sum(counts), 4), np.float32),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes=np.zeros((len(types_), 7), np.float32),
        types=np.array(types_),
        difficulty=np.array(difficulty),
        frames=np.array(["000000"] * len(types_)),
    )
    assert check_counts(database, 3712)
    assert not check_counts(database, 30)
    other = np.where(database.types == "Cyclist", "Van", database.types)
    with pytest.raises(UserError, match=r"hold 0 Cyclist.*KITTI has 734, 705 and 581"):
        check_counts(ObjectDatabase(**{**vars(database), "types": other}), 3712)
    with pytest.raises(UserError, match="hold 14357 Car, 13532 with 5 points, 0 of them"):
        check_counts(ObjectDatabase(**{**vars(database), "difficulty": np.full(len(types_), -1)}), 3712)


def test_command(folder, capsys):
    assert cli.main(["prepare", "kitti", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "train.json: 3 frames, 5 objects" in text
    assert "val.json: 1 frames, 0 objects" in text
    assert "database_train.npz: 5 objects, 79 points" in text
    assert "nothing to compare with: numbers are known of all 3712 frames of train" in " ".join(text.split())
    assert all(map(equal, read_split(folder, "train"), read_infos(folder / "prepared" / "train.json", folder)))
    assert len(ObjectDatabase.load(folder / "prepared" / "database_train.npz")) == 5


def test_faults_of_the_command(folder, tmp_path, capsys):
    assert cli.main(["prepare", "kitti", str(tmp_path / "none")]) == 2
    assert "there is no folder training in it" in capsys.readouterr().err
    assert cli.main(["prepare", "kitti", str(folder), "--splits", "val"]) == 2
    assert "have no labelled objects" in capsys.readouterr().err
