import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from pctransformer.datasets import FileFormatError, folder_dataset, unlabelled_folder, write_ply
from tests.real_data import real_data


def make(root: Path, **counts: int) -> Path:
    """A folder of small clouds; point 0 of cloud i is (i, 0, 0)."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            xyz = np.zeros((5, 3), np.float32)
            xyz[0, 0] = i
            if i % 2:
                write_ply(root / name / f"{i:03}.ply", xyz)
            else:
                np.savetxt(root / name / f"{i:03}.xyz", xyz)
    return root


def names(data) -> list[str]:
    return [sample.name for sample in data]


def test_classes_labels_and_split(tmp_path):
    root = make(tmp_path, cup=10, axe=5)
    (root / "cup" / "readme.md").write_text("not a cloud")
    (root / "cup" / ".hidden.ply").write_text("not a cloud")
    (root / ".cache").mkdir()
    train, test = folder_dataset(root), folder_dataset(root, "test")
    assert train.class_names == ("axe", "cup")
    assert train.labels.bincount().tolist() == [4, 8]
    assert test.labels.bincount().tolist() == [1, 2]
    assert sorted(names(train) + names(test)) == names(folder_dataset(root, "all"))
    sample = train[-1]
    assert sample.name.startswith("cup/")
    assert sample.xyz[0, 0] == int(Path(sample.name).stem)
    assert len(sample) == 5
    assert (pickle.loads(pickle.dumps(train.samples))[-1].xyz == sample.xyz).all()  # for workers that are spawned


def test_a_split_that_is_given_by_folders(tmp_path):
    make(tmp_path / "train", cup=3, axe=2)
    make(tmp_path / "test", cup=2)
    train, test = folder_dataset(tmp_path, test_fraction=0.5), folder_dataset(tmp_path, "test")
    assert train.class_names == test.class_names == ("axe", "cup")
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 0, 1, 1, 1], [1, 1])
    assert names(test) == ["test/cup/000.xyz", "test/cup/001.ply"]
    assert names(folder_dataset(tmp_path, "all")) == names(train) + names(test)
    assert not (tmp_path / "split.json").exists()
    make(tmp_path / "test", saw=1)
    with pytest.raises(FileFormatError, match="saw: there is no such class in train"):
        folder_dataset(tmp_path, "test")


def test_scenes_and_scans_are_no_classes(tmp_path):
    """They lie in folders train and test, too."""
    scenes = make(tmp_path / "scenes", train=2, test=1)
    scans = tmp_path / "scans"
    for part in ("train", "test"):
        make(scans / part, points=1, boxes=1)
    for root in (scenes, scans):
        with pytest.raises(FileFormatError, match="train: there should be one folder per class in it; scenes whose"):
            folder_dataset(root)


def test_a_folder_without_classes(tmp_path):
    root = make(tmp_path, cup=3, axe=1)
    (root / "cup" / "readme.md").write_text("not a cloud")
    data = unlabelled_folder(root / "cup")
    assert names(data) == ["000.xyz", "001.ply", "002.xyz"]
    assert [int(sample.xyz[0, 0]) for sample in data] == [0, 1, 2]
    assert data.class_names == ("unlabelled",)
    assert sorted(path.name for path in (root / "cup").iterdir()) == ["000.xyz", "001.ply", "002.xyz", "readme.md"]
    with pytest.raises(FileFormatError, match=r"there is no file that ends in one of \.ply"):
        unlabelled_folder(root)


def test_far_coordinates_keep_their_digits(tmp_path):
    (tmp_path / "tree").mkdir()
    xyz = np.array([691234.0, 5334321.0, 519.0]) + np.array([[0, 0, 0], [0.001, 0.002, 0.003], [1, 2, 3]])
    np.savetxt(tmp_path / "tree" / "a.xyz", xyz, "%.4f")
    sample = folder_dataset(tmp_path, "all")[0]
    np.testing.assert_allclose(sample.xyz - sample.xyz[0], xyz - xyz[0], atol=1e-6)


def test_the_split_is_drawn_once(tmp_path):
    root = make(tmp_path, cup=10, axe=5)
    first = names(folder_dataset(root, "test"))
    record = json.loads((root / "split.json").read_text())
    assert record["test"] == first
    assert names(folder_dataset(root, "test", seed=9, test_fraction=0.5)) == first
    (root / "split.json").unlink()
    assert names(folder_dataset(root, "test")) == first  # and it is the same when drawn again
    (root / "split.json").unlink()
    assert names(folder_dataset(root, "test", seed=9)) != first


def test_all_needs_and_writes_no_split(tmp_path):
    folder_dataset(make(tmp_path, cup=2), "all")
    assert not (tmp_path / "split.json").exists()


def test_split_kept_elsewhere(tmp_path):
    root = make(tmp_path / "data", cup=5)
    place = tmp_path / "my split.json"
    folder_dataset(root, split_file=place)
    assert place.exists()
    assert not (root / "split.json").exists()
    assert names(folder_dataset(root, "test", split_file=place)) == json.loads(place.read_text())["test"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_folder_that_cannot_be_written(tmp_path):
    root = make(tmp_path / "data", cup=5)
    root.chmod(0o555)
    try:
        with pytest.raises(FileFormatError, match="split_file="):
            folder_dataset(root)
        folder_dataset(root, split_file=tmp_path / "split.json")
    finally:
        root.chmod(0o755)


def test_split_place_that_does_not_exist(tmp_path):
    with pytest.raises(FileFormatError, match=r"cannot be written here .*split_file="):
        folder_dataset(make(tmp_path, cup=3), split_file=tmp_path / "nowhere" / "split.json")


def test_files_that_came_or_went(tmp_path):
    root = make(tmp_path, cup=5)
    folder_dataset(root)
    make(root, cup=6)
    with pytest.raises(FileFormatError, match=r"0 files .* are gone and 1 are new, first 'cup/005.ply'; delete"):
        folder_dataset(root)
    (root / "cup" / "005.ply").unlink()
    (root / "cup" / "000.xyz").unlink()
    with pytest.raises(FileFormatError, match=r"1 files .* are gone and 0 are new"):
        folder_dataset(root)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda r: r | {"version": 2}, "another version"),
        (lambda r: r | {"classes": ["spoon"]}, "other classes"),
        (lambda r: r | {"test": r["train"]}, "twice"),
        (lambda r: r | {"test": ["../../etc/passwd"]}, "gone"),
        (lambda r: r | {"test": [1]}, "another version"),
        (lambda r: r | {"test": 1}, "not a recorded split"),
        (lambda r: [], "not a recorded split"),
        (lambda r: {"train": []}, "not a recorded split"),
    ],
)
def test_damaged_splits(tmp_path, change, text):
    root = make(tmp_path, cup=5)
    folder_dataset(root)
    path = root / "split.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(FileFormatError, match=text):
        folder_dataset(root)
    path.write_text("{")
    with pytest.raises(FileFormatError, match="not a recorded split"):
        folder_dataset(root)


def test_errors_name_what_is_wrong(tmp_path):
    with pytest.raises(FileFormatError, match="no such folder"):
        folder_dataset(tmp_path / "none")
    with pytest.raises(FileFormatError, match="one folder per class"):
        folder_dataset(tmp_path)
    (tmp_path / "chair" / "train").mkdir(parents=True)
    with pytest.raises(FileFormatError, match=r"chair: .* modelnet_off reads it"):
        folder_dataset(tmp_path)
    shutil.rmtree(tmp_path / "chair")
    make(tmp_path, cup=2)
    (tmp_path / "cup" / "000.xyz").write_text("0 0 0\n1 1 nan\n")
    with pytest.raises(FileFormatError, match=r"000.xyz: 1 of 2 points are NaN"):
        folder_dataset(tmp_path, "all")[0]
    with pytest.raises(ValueError, match="'train', 'test' or 'all'"):
        folder_dataset(tmp_path, "val")  # type: ignore[arg-type]


def test_a_mesh_gives_the_same_points_in_every_split(tmp_path):
    (tmp_path / "pot").mkdir()
    for i, name in enumerate(("teapot.obj", "chair_0002.off", "igea.ply")):
        shutil.copy(real_data("meshes", name), tmp_path / "pot" / f"{i}_{name}")
    everything = {sample.name: sample.xyz for sample in folder_dataset(tmp_path, "all", num_points=100)}
    assert {len(xyz) for xyz in everything.values()} == {100}
    for split in ("train", "test"):
        for sample in folder_dataset(tmp_path, split, num_points=100, test_fraction=0.4):
            assert (sample.xyz == everything[sample.name]).all()
