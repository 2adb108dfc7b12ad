"""Your own scans with boxes: both layouts, classes, and what is missing, said by name."""

import pickle
import shutil

import numpy as np
import pytest

from pctransformer.datasets import FileFormatError, write_ply
from pctransformer.datasets.lidar_folder import lidar_folder, write_lidar_scan
from pctransformer.datasets.scans import Scan

POINTS = np.random.default_rng(0).uniform([-5, -5, -2, 0], [5, 5, 1, 1], (50, 4)).astype(np.float32)
CAR = [12.5, -3, -0.9, 4.2, 1.8, 1.6, 0.1]


def line(name, row=CAR):
    return " ".join([name, *map(str, row)]) + "\n"


@pytest.fixture
def root(tmp_path):
    """Two scans to train with, of which one is empty, and one to test with."""
    for split, names in (("train", ("b_2", "a-1")), ("test", ("c",))):
        for part in ("points", "boxes"):
            (tmp_path / split / part).mkdir(parents=True)
        for name in names:
            np.save(tmp_path / split / "points" / f"{name}.npy", POINTS)
            (tmp_path / split / "boxes" / f"{name}.txt").write_text("")
    (tmp_path / "train" / "boxes" / "b_2.txt").write_text(line("Van") + line("Car") + line("DontCare"))
    (tmp_path / "test" / "boxes" / "c.txt").write_text(line("Bus"))
    return tmp_path


def test_folders_of_splits(root):
    scans = lidar_folder(root)
    assert scans.class_names == ("Bus", "Car", "Van")  # those of all splits
    assert scans.names == ("a-1", "b_2")
    assert scans[0].boxes.shape == (0, 7)
    np.testing.assert_array_equal(scans[1].points, POINTS)
    np.testing.assert_array_equal(scans[1].boxes, np.array([CAR] * 3, np.float32))
    assert scans[1].labels.tolist() == [2, 1, -1]
    assert scans[1].name == "b_2"
    assert lidar_folder(root, "test")[0].labels.tolist() == [0]
    chosen = lidar_folder(root, class_names=["Car"])
    assert chosen.class_names == ("Car",)
    assert chosen[1].labels.tolist() == [-1, 0, -1]
    assert len(lidar_folder(root, only_with_boxes=True)[0].boxes) == 3
    assert pickle.loads(pickle.dumps(scans))[1].labels.tolist() == [2, 1, -1]


def test_an_object_to_be_found_has_a_size(root):
    (root / "train" / "boxes" / "b_2.txt").write_text(line("Van") + line("Car", [*CAR[:5], 0, CAR[6]]))
    assert lidar_folder(root, class_names=["Van"])[1].labels.tolist() == [0, -1]
    with pytest.raises(FileFormatError, match=r"b_2.txt: box 2, a Car, has a size of 0: .* DontCare"):
        lidar_folder(root)[1]


def test_lists_of_splits_as_openpcdet_has_them(tmp_path):
    for part in ("points", "labels", "ImageSets"):
        (tmp_path / part).mkdir()
    for i in range(3):
        np.save(tmp_path / "points" / f"00{i}.npy", POINTS * [1, 1, 1, 200])
        (tmp_path / "labels" / f"00{i}.txt").write_text(" ".join(map(str, CAR)) + " Vehicle\n")
    (tmp_path / "ImageSets" / "train.txt").write_text("002\n000\n")
    (tmp_path / "ImageSets" / "val.txt").write_text("001\n")
    scans = lidar_folder(tmp_path)
    assert scans.names == ("002", "000")
    assert scans.class_names == ("Vehicle",)
    np.testing.assert_array_equal(scans[0].boxes, np.array([CAR], np.float32))
    np.testing.assert_allclose(scans[0].points[:, 3], POINTS[:, 3] * 200 / 255, rtol=1e-5)
    assert lidar_folder(tmp_path, "val").names == ("001",)
    with pytest.raises(FileFormatError, match=r"test.txt: there is no such file; .*there are train, val"):
        lidar_folder(tmp_path, "test")
    (tmp_path / "ImageSets" / "train.txt").write_text("002\n007\n")
    with pytest.raises(FileFormatError, match=r"there is no scan 007, which ImageSets/train.txt lists"):
        lidar_folder(tmp_path)


def test_points_of_every_kind(root):
    folder = root / "test" / "points"
    for kind in (".bin", ".pcd.bin", ".ply", ".npz", ".pcd"):
        shutil.rmtree(folder)
        folder.mkdir()
        path = folder / f"c{kind}"
        if kind == ".bin":
            POINTS.tofile(path)
        elif kind == ".pcd.bin":
            np.column_stack([POINTS, np.zeros(50, np.float32)]).astype("<f4").tofile(path)
        elif kind == ".ply":
            write_ply(path, POINTS[:, :3], features={"reflectance": POINTS[:, 3]})
        elif kind == ".npz":
            np.savez(path, points=POINTS)
        else:
            header = "VERSION .7\nFIELDS x y z ring intensity\nSIZE 4 4 4 4 4\nTYPE F F F F F\nCOUNT 1 1 1 1 1\n"
            rows = np.column_stack([POINTS[:, :3], np.arange(50), POINTS[:, 3]]).astype("<f4")
            path.write_bytes(f"{header}WIDTH 50\nHEIGHT 1\nPOINTS 50\nDATA binary\n".encode() + rows.tobytes())
        scan = lidar_folder(root, "test")[0]
        assert scan.name == "c"
        np.testing.assert_allclose(scan.points, POINTS, rtol=1e-6)
    assert lidar_folder(root, "test", channels=3)[0].points.shape == (50, 3)
    shutil.rmtree(folder)
    folder.mkdir()
    np.save(folder / "c.npy", POINTS[:, :3])
    with pytest.raises(FileFormatError, match=r"c.npy: its points have 3 values, but 4 are needed"):
        lidar_folder(root, "test")[0]
    assert (lidar_folder(root, "test", reflectance=0.5)[0].points[:, 3] == 0.5).all()


def test_listed_classes(root):
    (root / "class_names.txt").write_text("Van\nCar\nBus\n")
    assert lidar_folder(root).class_names == ("Van", "Car", "Bus")
    assert lidar_folder(root)[1].labels.tolist() == [0, 1, -1]
    assert lidar_folder(root, class_names=["Bus"])[1].labels.tolist() == [-1, -1, -1]
    (root / "train" / "boxes" / "b_2.txt").write_text(line("Car") + line("Vam"))
    with pytest.raises(FileFormatError, match=r"b_2.txt: line 2 is of the class 'Vam', which is not known; did you"):
        lidar_folder(root)[1]


def test_what_is_missing(root, tmp_path):
    with pytest.raises(FileFormatError, match="there are no boxes of the class 'car'; did you mean 'Car'"):
        lidar_folder(root, class_names=["car"])
    with pytest.raises(FileFormatError, match=r"should be val/points and val/boxes, or .*: test, train"):
        lidar_folder(root, "val")
    with pytest.raises(FileFormatError, match="there is no such folder"):
        lidar_folder(root / "nowhere")
    np.save(root / "train" / "points" / "d.npy", POINTS)
    with pytest.raises(FileFormatError, match=r"d.npy: its boxes, boxes/d.txt or .json, are missing; a scan w"):
        lidar_folder(root)
    (root / "train" / "points" / "d.npy").unlink()
    (root / "train" / "boxes" / "e.json").write_text("[]")
    with pytest.raises(FileFormatError, match=r"e.json: there is no scan of that name in .*points"):
        lidar_folder(root)
    (root / "train" / "boxes" / "e.json").rename(root / "train" / "boxes" / "b_2.json")
    with pytest.raises(FileFormatError, match=r"b_2.json is of the same scan|b_2.txt: b_2.json is of the same scan"):
        lidar_folder(root)
    shutil.rmtree(root / "test" / "boxes")
    with pytest.raises(FileFormatError, match="should be a folder boxes or labels beside points"):
        lidar_folder(root, "test")


def test_no_boxes_and_no_scans(root):
    for file in root.glob("*/boxes/*"):
        file.write_text("")
    with pytest.raises(FileFormatError, match=r"no boxes at all, so no class to find; class_names.txt"):
        lidar_folder(root)
    (root / "class_names.txt").write_text("Car\n")
    assert len(lidar_folder(root)) == 2
    for file in root.glob("train/*/*"):
        file.unlink()
    with pytest.raises(FileFormatError, match=r"there is no file that ends in one of .bin .npy"):
        lidar_folder(root)


def test_scans_are_written_as_they_are_read(tmp_path):
    boxes = np.array([CAR, CAR], np.float32)
    scan = Scan(POINTS, boxes, np.array([1, -1]), "x_1")
    write_lidar_scan(tmp_path / "train", scan, ["Car", "Van"])
    found = lidar_folder(tmp_path)[0]
    assert lidar_folder(tmp_path).class_names == ("Van",)
    np.testing.assert_array_equal(found.points, POINTS)
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-4)
    assert found.labels.tolist() == [0, -1]
    for name in ("", "a/b", ".."):
        with pytest.raises(ValueError, match="a scan needs a name that a file can have"):
            write_lidar_scan(tmp_path, Scan(POINTS, boxes, np.array([1, -1]), name), ["Car", "Van"])
