import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from pctransformer.datasets import FileFormatError, modelnet_hdf5, modelnet_npz, modelnet_off, modelnet_resampled
from tests.real_data import real_data

TETRAHEDRON = "OFF4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n"
UP = np.tile(np.float32([0, 0, 1]), (8, 1))


# ---- OFF -------------------------------------------------------------------------------------------------------------
def off_folder(root: Path) -> Path:
    for name, split, count in [("bed", "train", 2), ("bed", "test", 1), ("chair", "train", 3), ("chair", "test", 1)]:
        folder = root / name / split
        folder.mkdir(parents=True)
        for i in range(count):
            (folder / f"{name}_{i:04}.off").write_text(TETRAHEDRON)
    return root


def test_off_by_hand(tmp_path):
    root = off_folder(tmp_path)
    train, test = modelnet_off(root, num_points=50, normals=True), modelnet_off(root, "test")
    assert train.class_names == ("bed", "chair")
    assert train.labels.tolist() == [0, 0, 1, 1, 1]
    assert test.labels.tolist() == [0, 1]
    sample = train[3]
    assert (sample.name, sample.label, len(sample)) == ("chair_0001", 1, 50)
    slanted = sample.normals[:, 0] > 0
    assert 0 < slanted.sum() < 50
    assert (sample.normals[~slanted].sum(1) == -1).all()  # the other three faces look along -x, -y, -z
    assert (train[3].xyz == sample.xyz).all()
    assert not (train[4].xyz == sample.xyz).all()  # the same mesh under another index gives other points
    assert (pickle.loads(pickle.dumps(train.samples))[3].xyz == sample.xyz).all()  # for workers that are spawned


def test_off_errors(tmp_path):
    with pytest.raises(FileFormatError, match="no such folder"):
        modelnet_off(tmp_path / "none")
    with pytest.raises(FileFormatError, match="folders like chair/train"):
        modelnet_off(tmp_path)
    root = off_folder(tmp_path)
    (root / "bed" / "train" / "bed_0000.off").write_text(TETRAHEDRON[:-20])
    data = modelnet_off(root)
    with pytest.raises(FileFormatError, match=r"bed_0000.off: .*cut off"):
        data[0]
    with pytest.raises(ValueError, match="'train' or 'test'"):
        modelnet_off(root, "val")  # type: ignore[arg-type]


# ---- text ------------------------------------------------------------------------------------------------------------
def text_folder(root: Path) -> Path:
    (root / "modelnet40_shape_names.txt").write_text("night_stand\ntable\n")
    (root / "modelnet40_train.txt").write_text("night_stand_0001\ntable_0001\n\n")
    (root / "modelnet40_test.txt").write_text("table_0002\n")
    for name, number in [("night_stand", 1), ("table", 1), ("table", 2)]:
        (root / name).mkdir(exist_ok=True)
        points = np.column_stack([np.full((8, 3), number), UP])
        np.savetxt(root / name / f"{name}_000{number}.txt", points, "%.6f", ",")
    return root


def test_text_by_hand(tmp_path):
    data = modelnet_resampled(text_folder(tmp_path), num_points=5)
    assert data.labels.tolist() == [0, 1]
    assert data.class_names == ("night_stand", "table")
    assert data[0].name == "night_stand_0001"
    assert data[0].xyz.tolist() == [[1, 1, 1]] * 5
    assert data[0].normals.tolist() == [[0, 0, 1]] * 5
    assert len(modelnet_resampled(tmp_path, "test", num_points=None)[0]) == 8
    assert pickle.loads(pickle.dumps(data.samples))[1].name == "table_0001"


def test_text_errors(tmp_path):
    with pytest.raises(FileFormatError, match="shape_names"):
        modelnet_resampled(tmp_path)
    root = text_folder(tmp_path)
    with pytest.raises(FileFormatError, match="9 points were asked for, but there are 8"):
        modelnet_resampled(root, num_points=9)[0]
    (root / "table" / "table_0001.txt").unlink()
    with pytest.raises(FileFormatError, match=r"1 of 2 files that modelnet40_train.txt lists"):
        modelnet_resampled(root)
    assert modelnet_resampled(root, missing="skip").labels.tolist() == [0]
    table = root / "night_stand" / "night_stand_0001.txt"
    np.savetxt(table, np.ones((8, 6)) * 100, delimiter=",")
    with pytest.raises(FileFormatError, match="no unit normals: the largest of the three is 100"):
        modelnet_resampled(root, missing="skip", num_points=5)[0]
    np.savetxt(table, np.ones((8, 3)), delimiter=",")
    with pytest.raises(FileFormatError, match="6 values"):
        modelnet_resampled(root, missing="skip", num_points=5)[0]
    (root / "modelnet40_train.txt").write_text("../../etc/passwd_0001\n")
    with pytest.raises(FileFormatError, match="plain names"):
        modelnet_resampled(root)
    (root / "modelnet40_train.txt").write_text("spoon_0001\n")
    with pytest.raises(FileFormatError, match="'spoon' is not one of the 2 classes"):
        modelnet_resampled(root)


# ---- HDF5 ------------------------------------------------------------------------------------------------------------
def hdf5_folder(root: Path) -> Path:
    (root / "shape_names.txt").write_text("bed\nchair\n")
    (root / "train_files.txt").write_text("data/a/ply_data_train0.h5\ndata/a/ply_data_train1.h5\n")
    for i, labels in enumerate([[1, 0], [1]]):
        with h5py.File(root / f"ply_data_train{i}.h5", "w") as file:
            file["data"] = np.full((len(labels), 8, 3), i, np.float32)
            file["normal"] = np.stack([UP] * len(labels))
            file["label"] = np.array(labels, np.uint8)[:, None]
    return root


def test_hdf5_by_hand(tmp_path):
    data = modelnet_hdf5(hdf5_folder(tmp_path), num_points=4, normals=True)
    assert data.labels.tolist() == [1, 0, 1]
    assert data[2].xyz.tolist() == [[1, 1, 1]] * 4
    assert data[2].normals.tolist() == [[0, 0, 1]] * 4
    assert data[2].name == "ply_data_train1[0]"
    assert modelnet_hdf5(tmp_path, num_points=None)[0].normals is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"label": np.array([[1], [2]], np.uint8)}, "from 0 to 1"),
        ({"label": np.array([1], np.uint8)}, "2 shapes, but label"),
        ({"label": np.array([0.5, 1])}, "2 shapes, but label"),
        ({"data": np.ones((2, 8, 4), np.float32)}, r"floats \(N, n, 3\)"),
        ({"data": np.ones((2, 8, 3), int)}, r"floats \(N, n, 3\)"),
        ({"data": np.full((2, 8, 3), np.nan, np.float32)}, "not finite in row 0"),
        ({"data": np.ones((2, 3, 3), np.float32)}, "asked for, but shapes have 3"),
        ({"data": None}, "no array 'data', only label, normal"),
    ],
)
def test_hdf5_errors(tmp_path, change, text):
    root = hdf5_folder(tmp_path)
    with h5py.File(root / "ply_data_train0.h5", "a") as file:
        for name, value in change.items():
            del file[name]
            if value is not None:
                file[name] = value
    with pytest.raises(FileFormatError, match=text):
        modelnet_hdf5(root, num_points=4)


def test_hdf5_files_missing_or_cut(tmp_path):
    root = hdf5_folder(tmp_path)
    with pytest.raises(FileFormatError, match="ply_data_test"):
        modelnet_hdf5(root, "test")
    path = root / "ply_data_train1.h5"
    content = path.read_bytes()
    for length in (0, 100, len(content) // 2, len(content) - 10):
        path.write_bytes(content[:length])
        with pytest.raises(FileFormatError, match="ply_data_train1"):
            modelnet_hdf5(root, num_points=4)
    path.unlink()
    with pytest.raises(FileFormatError, match=r"promises 2 .h5 files, but there are 1"):
        modelnet_hdf5(root, num_points=4)


# ---- npz -------------------------------------------------------------------------------------------------------------
def arrays() -> dict[str, np.ndarray]:
    return {
        "points": np.arange(3 * 4 * 3, dtype=np.float32).reshape(3, 4, 3),
        "label": np.array([1, 0, 1]),
        "split": np.array(["train", "test", "train"]),
        "ids": np.array(["a", "b", "c"]),
        "class_names": np.array(["bed", "chair"]),
    }


def test_npz_by_hand(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays())
    data = modelnet_npz(tmp_path / "a.npz")
    assert data.class_names == ("bed", "chair")
    assert data.labels.tolist() == [1, 1]
    assert data[1].name == "c"
    assert data[1].xyz[0].tolist() == [24, 25, 26]
    assert modelnet_npz(tmp_path / "a.npz", "test").labels.tolist() == [0]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"label": np.array([1, 0, 2])}, "from 0 to 1"),
        ({"label": np.array([1, 0, -1])}, "from 0 to 1"),
        ({"label": np.array([1, 0])}, r"3 shapes, but label is \(2,\)"),
        ({"points": np.ones((3, 4, 5), np.float32)}, r"\(n, 3\) or \(n, 6\)"),
        ({"points": np.full((3, 4, 3), np.inf)}, "a has a value that is not finite in row 0"),
        ({"ids": np.array([{}] * 3, dtype=object)}, "never pickled"),
    ],
)
def test_npz_errors(tmp_path, change, text):
    path = tmp_path / "a.npz"
    np.savez(path, **(arrays() | change))
    with pytest.raises(FileFormatError, match=text):
        modelnet_npz(path)


def test_npz_missing_array(tmp_path):
    np.savez(tmp_path / "a.npz", points=np.ones((1, 4, 3)))
    with pytest.raises(FileFormatError, match="no array 'label', only points"):
        modelnet_npz(tmp_path / "a.npz")


# ---- real data -------------------------------------------------------------------------------------------------------
def test_real_modelnet10():
    path = real_data("modelnet10", "modelnet10_1024.npz")
    train, test = modelnet_npz(path), modelnet_npz(path, "test")
    assert (len(train), len(test)) == (3991, 908)
    names = ["bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet"]
    assert train.class_names == tuple(names)
    assert test.labels.bincount().tolist() == [50, 100, 100, 86, 86, 100, 86, 100, 100, 100]  # Princeton's test set
    assert all(sample.name.rsplit("_", 1)[0] == names[sample.label] for sample in test)


def test_real_modelnet40_text_and_npz_agree():
    root = real_data("modelnet40", "modelnet40_normal_resampled")
    texts = {s.name: s for split in ("train", "test") for s in _present(root, split)}
    assert len(texts) == 6
    path = real_data("modelnet40", "modelnet40_subset_1024.npz")
    archived = [s for split in ("train", "test") for s in modelnet_npz(path, split)]
    assert len(archived) == 155
    both = [(s, texts[s.name]) for s in archived if s.name in texts]
    assert both
    for short, full in both:
        assert short.label == full.label
        assert (short.points[0] == full.points[0]).all()  # farthest point sampling started at the first point
        rows = {tuple(row) for row in full.points.tolist()}
        assert all(tuple(row) in rows for row in short.points.tolist())


def _present(root, split):
    try:
        return modelnet_resampled(root, split, num_points=None, missing="skip")
    except FileFormatError:  # none of this split is in the part at hand
        return []


def test_real_off_meshes_in_their_folders(tmp_path):
    for name in ("chair", "toilet"):
        folder = tmp_path / name / "train"
        folder.mkdir(parents=True)
        shutil.copy(real_data("meshes", f"{name}_0001.off"), folder)
    data = modelnet_off(tmp_path, num_points=512)
    assert [len(sample) for sample in data] == [512, 512]
    assert data.class_names == ("chair", "toilet")
