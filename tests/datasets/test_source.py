import shutil

import pytest
import torch

from pctransformer.datasets import FileFormatError, open_dataset
from tests.datasets.test_scanobjectnn import h5_files
from tests.datasets.test_shapenet import hdf5_folder, text_folder
from tests.real_data import real_data


def test_generated():
    train, test = (open_dataset("generated", split, num_points=20, num_shapes=40) for split in ("train", "test"))
    assert (len(train), len(test)) == (40, 10)
    assert train[0].xyz.shape == (20, 3)
    assert not torch.equal(train[0].xyz, test[0].xyz)


def test_a_folder_of_ones_own_and_modelnets_meshes(tmp_path):
    mesh = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
    for name in ("chair", "table"):
        for split in ("train", "test"):
            folder = tmp_path / "modelnet" / name / split
            folder.mkdir(parents=True)
            (folder / f"{name}_0001.off").write_text(mesh)
        (tmp_path / "own" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "own" / name / f"{i}.off").write_text(mesh)
    meshes = open_dataset(tmp_path / "modelnet", "test", num_points=30, normals=True)
    assert (len(meshes), meshes[0].xyz.shape, meshes[0].normals.shape) == (2, (30, 3), (30, 3))
    assert not (tmp_path / "modelnet" / "split.json").exists()
    assert len(open_dataset(tmp_path / "own", "train", num_points=30)) == 4
    assert (tmp_path / "own" / "split.json").exists()


def test_files_without_classes_are_for_those_who_need_no_labels(tmp_path):
    (tmp_path / "only.xyz").write_text("0 0 0\n1 1 1\n")
    assert len(open_dataset(tmp_path, "train", labelled=False)) == 1
    for options in ({"split": "train"}, {"split": "test", "labelled": False}):
        with pytest.raises(FileFormatError, match="one folder per class"):
            open_dataset(tmp_path, **options)
    for name in ("axe", "cup"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "own" / name / f"{i}.xyz").write_text("0 0 0\n1 1 1\n")
    assert len(open_dataset(tmp_path / "own", "train", labelled=False)) == 6  # its test part is kept out


def test_shapenet_and_scanobjectnn(tmp_path):
    for name in ("text", "hdf5", "scans"):
        (tmp_path / name).mkdir()
    assert len(open_dataset(text_folder(tmp_path / "text"), "train")) == 3
    assert len(open_dataset(tmp_path / "text", "test")) == 1
    assert len(open_dataset(hdf5_folder(tmp_path / "hdf5"), "train")) == 4
    assert len(open_dataset(h5_files(tmp_path / "scans"), "test")) == 6
    (tmp_path / "scans").rename(tmp_path / "h5_files")
    assert len(open_dataset(tmp_path, "test")) == 6  # as the archive unpacks


def test_real_layouts(tmp_path):
    assert len(open_dataset(real_data("modelnet10", "modelnet10_1024.npz"), "test")) == 908
    folder = tmp_path / "resampled"
    shutil.copytree(real_data("modelnet40", "modelnet40_normal_resampled"), folder)
    with pytest.raises(FileFormatError, match=r"files that modelnet40_train\.txt lists are not there"):
        open_dataset(folder, "train")


@pytest.mark.parametrize(
    ("name", "text"),
    [("genrated", "`generated` stands for generated shapes"), ("a/b", "no such file"), ("a.txt", "a data set is a")],
)
def test_other_things(tmp_path, monkeypatch, name, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(FileFormatError, match=text):
        open_dataset(name, "train")
