import json

import numpy as np
import pytest
import torch

from pctransformer.datasets import write_ply
from pctransformer.datasets.files import FileFormatError
from pctransformer.datasets.scenes import read_scene, scene_folder

XYZ = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0]])
RGB = np.array([[255, 0, 0], [0, 51, 0], [0, 0, 102]], np.uint8)
LABEL = np.array([2, -1, 0])


def folder(root, names: str | None = "floor\nwall\n\nbox\n"):
    for part in ("train", "test"):
        (root / part).mkdir(parents=True)
        write_ply(root / part / "a.ply", XYZ, colors=RGB, features={"label": LABEL})
    np.savez(root / "train" / "b.npz", points=np.concatenate([XYZ, RGB / 255], 1), label=LABEL)
    np.savez(root / "train" / "c.npz", points=XYZ, colors=RGB, label=LABEL)
    (root / "train" / ".hidden.ply").write_text("")
    if names is not None:
        (root / "class_names.txt").write_text(names)
    return root


def test_all_forms_are_the_same_scene(tmp_path):
    scenes = scene_folder(folder(tmp_path))
    assert len(scenes) == 3
    assert scenes.part_names == ("floor", "wall", "box")
    for i in range(3):
        sample = scenes[i]
        assert torch.equal(sample.xyz, torch.from_numpy(XYZ).float())
        torch.testing.assert_close(sample.features, torch.from_numpy(RGB).float() / 255)
        assert sample.point_labels.tolist() == [2, -1, 0]
    assert len(scene_folder(tmp_path, "test")) == 1
    assert scene_folder(tmp_path, colors=False)[0].features is None


def test_names_of_classes(tmp_path):
    assert scene_folder(folder(tmp_path / "a", None)).part_names == ("class 0", "class 1", "class 2")
    root = folder(tmp_path / "b", None)
    (root / "class_names.json").write_text(json.dumps(["x", "y", "z", "never"]))
    assert scene_folder(root).part_names == ("x", "y", "z", "never")


def test_large_coordinates_keep_their_precision(tmp_path):
    far = XYZ + np.array([5_400_000.125, 300_000, 0])
    np.savez(tmp_path / "far.npz", points=far, label=LABEL)
    xyz = read_scene(tmp_path / "far.npz", colors=False).xyz
    assert xyz.abs().max() < 10
    assert (xyz[1] - xyz[0]).tolist() == [1, 0, 0]


def test_bare_numbers_with_colours(tmp_path):
    rows = np.concatenate([XYZ, RGB], 1).astype("<f4")
    rows.tofile(tmp_path / "scan.bin")
    np.savetxt(tmp_path / "scan.txt", rows)
    for name, columns in (("scan.bin", 6), ("scan.txt", None)):
        sample = read_scene(tmp_path / name, labels=False, columns=columns)
        torch.testing.assert_close(sample.features, torch.from_numpy(RGB).float() / 255)
    rows[1, 0] = np.nan
    rows.tofile(tmp_path / "broken.bin")
    with pytest.raises(FileFormatError, match="NaN"):
        read_scene(tmp_path / "broken.bin", labels=False, columns=6)
    assert len(read_scene(tmp_path / "broken.bin", labels=False, columns=6, not_finite="drop")) == 2


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"points": XYZ, "label": LABEL}, "no red, green, blue; train with --no-colors"),
        ({"points": XYZ, "colors": RGB}, "have no label"),
        ({"points": XYZ, "colors": RGB, "label": LABEL[:2]}, r"label should be \(3,\)"),
        ({"points": XYZ, "colors": RGB, "label": LABEL + 0.5}, "whole numbers from -1"),
        ({"points": XYZ, "colors": RGB, "label": LABEL - 1}, "whole numbers from -1"),
        ({"points": XYZ + np.inf, "colors": RGB, "label": LABEL}, "NaN or infinite"),
        ({"points": XYZ, "colors": RGB, "label": LABEL + 1}, "a label 3, but only 3 class names"),
        ({"clouds": XYZ, "label": LABEL}, "there should be an array points"),
    ],
)
def test_faults_of_files_are_named(tmp_path, values, text):
    (folder(tmp_path) / "train" / "a.ply").unlink()
    np.savez(tmp_path / "train" / "b.npz", **values)
    with pytest.raises(FileFormatError, match=text):
        scene_folder(tmp_path)[0]


def test_faults_of_folders_are_named(tmp_path):
    with pytest.raises(FileFormatError, match="no such folder"):
        scene_folder(tmp_path / "nowhere")
    with pytest.raises(FileFormatError, match="clouds with labels"):
        scene_folder(tmp_path)
    (folder(tmp_path) / "class_names.txt").unlink()
    (tmp_path / "class_names.json").write_text("{")
    with pytest.raises(FileFormatError, match="JSON list"):
        scene_folder(tmp_path)
    write_ply(tmp_path / "plain.ply", XYZ)
    with pytest.raises(FileFormatError, match="have no label"):
        read_scene(tmp_path / "plain.ply")
    (tmp_path / "a.xyz").write_text("0 0 0\n")
    with pytest.raises(FileFormatError, match=r"\.ply and \.npz"):
        read_scene(tmp_path / "a.xyz")
