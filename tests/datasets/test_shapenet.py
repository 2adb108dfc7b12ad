import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from pctransformer.datasets import FileFormatError, shapenet_parts_hdf5, shapenet_parts_text
from pctransformer.datasets.shapenet import CATEGORIES, PART_NAMES
from pctransformer.evaluation import parts_of_classes


def test_parts_of_the_published_set():
    """50 parts; ranges as everybody's evaluation has them."""
    assert (len(CATEGORIES), len(PART_NAMES)) == (16, 50)
    parts = dict(zip(CATEGORIES, parts_of_classes(CATEGORIES, PART_NAMES)))
    assert parts["airplane"] == [0, 1, 2, 3]
    assert parts["earphone"] == [16, 17, 18]
    assert parts["motorbike"] == [30, 31, 32, 33, 34, 35]
    assert parts["table"] == [47, 48, 49]


# ---- text ------------------------------------------------------------------------------------------------------------
CAP, MUG = "02954340", "03797390"


def rows(parts: list[int], x: float = 0.0) -> str:
    return "".join(f"{x + i} 0.5 0 0 0 1 {part}.000000\n" for i, part in enumerate(parts))


def text_folder(root: Path) -> Path:
    (root / "synsetoffset2category.txt").write_text(f"Cap\t{CAP}\nMug\t{MUG}\n")
    lists = {"train": [f"shape_data/{MUG}/b1", f"shape_data/{CAP}/a1"], "val": [f"shape_data/{CAP}/a2"]}
    lists["test"] = [f"shape_data/{MUG}/b2"]
    (root / "train_test_split").mkdir()
    for split, entries in lists.items():
        (root / "train_test_split" / f"shuffled_{split}_file_list.json").write_text(json.dumps(entries))
    for folder, shape, parts in ((CAP, "a1", [6, 7, 7]), (CAP, "a2", [6, 6]), (MUG, "b1", [36, 37]), (MUG, "b2", [37])):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / f"{shape}.txt").write_text(rows(parts))
    return root


def test_text_by_hand(tmp_path):
    data = shapenet_parts_text(text_folder(tmp_path))
    assert data.class_names == CATEGORIES
    assert data.part_names == PART_NAMES
    assert [CATEGORIES[label] for label in data.labels] == ["mug", "cap", "cap"]
    sample = data[1]
    assert (sample.name, sample.label) == ("a1", 2)
    assert sample.xyz.tolist() == [[0, 0.5, 0], [1, 0.5, 0], [2, 0.5, 0]]
    assert sample.normals.tolist() == [[0, 0, 1]] * 3
    assert [PART_NAMES[part] for part in sample.point_labels] == ["cap/0", "cap/1", "cap/1"]
    assert [len(shapenet_parts_text(tmp_path, split)) for split in ("train", "val", "test")] == [2, 1, 1]
    assert pickle.loads(pickle.dumps(data.samples))[2].point_labels.tolist() == [6, 6]  # for spawned workers


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (rows([36, 38]), "b1, a mug, should be whole numbers from 36 to 37, they are 36 to 38"),
        (rows([36]).replace("36.0", "36.5"), "whole numbers"),
        ("1 2 3 0 0 1\n", "7 values"),
        ("1 2 3 0 0 9 36\n", "no unit normals"),
        ("", "empty"),
    ],
)
def test_text_errors_of_a_shape(tmp_path, content, text):
    data = shapenet_parts_text(text_folder(tmp_path), "train")
    (tmp_path / MUG / "b1.txt").write_text(content)
    with pytest.raises(FileFormatError, match=text) as error:
        data[0]
    assert "b1.txt" in str(error.value)


def test_text_errors_of_lists(tmp_path):
    with pytest.raises(ValueError, match="'trainval'"):
        shapenet_parts_text(tmp_path, "all")  # type: ignore[arg-type]
    with pytest.raises(FileFormatError, match="synsetoffset2category"):
        shapenet_parts_text(tmp_path)
    root = text_folder(tmp_path)
    (root / CAP / "a2.txt").unlink()
    with pytest.raises(FileFormatError, match=r"a2\.txt: 1 of 3 listed files"):
        shapenet_parts_text(root)
    assert shapenet_parts_text(root, missing="skip").labels.tolist() == [11, 2]
    with pytest.raises(FileFormatError, match="1 of 1 listed"):
        shapenet_parts_text(root, "val", missing="skip")
    listed = root / "train_test_split" / "shuffled_test_file_list.json"
    for content, text in (
        ('["shape_data/../x"]', "look like"),
        ('["shape_data/123/x"]', "'123' is not one of the folders"),
        ("{}", "JSON list"),
        ("[", "readable JSON"),
    ):
        listed.write_text(content)
        with pytest.raises(FileFormatError, match=text):
            shapenet_parts_text(root, "test")
    (root / "synsetoffset2category.txt").write_text("Spoon\t123\n")
    with pytest.raises(FileFormatError, match="'Spoon"):
        shapenet_parts_text(root)


# ---- HDF5 ------------------------------------------------------------------------------------------------------------
def hdf5_folder(root: Path) -> Path:
    (root / "train_hdf5_file_list.txt").write_text("ply_data_train0.h5\nply_data_train1.h5\n")
    for name, labels in (("train0", [2, 11]), ("train1", [2]), ("val0", [11]), ("test0", [2, 2])):
        with h5py.File(root / f"ply_data_{name}.h5", "w") as file:
            file["data"] = np.full((len(labels), 4, 3), len(labels), np.float32)
            file["label"] = np.array(labels, np.uint8)[:, None]
            file["pid"] = np.stack([np.uint8([6, 6, 7, 7] if label == 2 else [36, 37, 37, 37]) for label in labels])
    return root


def test_hdf5_by_hand(tmp_path):
    data = shapenet_parts_hdf5(hdf5_folder(tmp_path))
    assert data.labels.tolist() == [2, 11, 2, 11]
    assert data[1].point_labels.tolist() == [36, 37, 37, 37]
    assert data[1].name == "ply_data_train0[1]"
    assert data[2].xyz.tolist() == [[1, 1, 1]] * 4
    assert data[0].normals is None
    assert [len(shapenet_parts_hdf5(tmp_path, split)) for split in ("train", "val", "test")] == [3, 1, 2]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"pid": np.full((2, 4), 6)}, r"train0\[1\], a mug, should be whole numbers from 36 to 37"),
        ({"pid": np.full((2, 3), 6)}, r"pid \(2, 3\)"),
        ({"pid": np.full((2, 4), 6.0)}, "float64"),
        ({"label": np.array([2, 16])}, "from 0 to 15"),
        ({"label": np.array([2])}, r"label \(1,\)"),
        ({"data": np.ones((2, 4, 2), np.float32)}, r"floats \(N, n, 3\)"),
        ({"pid": None}, "no array 'pid', only data, label"),
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
        shapenet_parts_hdf5(root)


def test_hdf5_files_missing(tmp_path):
    root = hdf5_folder(tmp_path)
    (root / "ply_data_train1.h5").unlink()
    with pytest.raises(FileFormatError, match=r"promises 2 .h5 files, but there are 1"):
        shapenet_parts_hdf5(root)
    (root / "ply_data_val0.h5").unlink()
    with pytest.raises(FileFormatError, match="no file ply_data_val"):
        shapenet_parts_hdf5(root, "val")
