"""Generated streets in KITTI's folders, and the command that writes them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("open3d")

from pctransformer import cli
from pctransformer.datasets.kitti import read_split
from pctransformer.datasets.kitti.calibration import camera_plane, lidar_plane
from pctransformer.datasets.street import street_frames, write_street
from pctransformer.datasets.street.frames import CALIBRATION
from pctransformer.errors import UserError
from tests.datasets.street.same import assert_same


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streets") / "street"
    write_street(folder, 2, 1, seed=3)
    return folder


def test_kittis_readers_give_back_the_same_frames(folder):
    made = street_frames(3, seed=3, camera_view=False)
    train, val, both = (read_split(folder, split) for split in ("train", "val", "trainval"))
    assert [[frame.name for frame in split] for split in (train, val)] == [["000000", "000001"], ["000002"]]
    for one, other in zip(made, [*train, *val]):
        assert_same(one, other)
        np.testing.assert_array_equal(one.labels.types, other.labels.types)  # regions included
        for name, value in vars(one.calibration).items():
            np.testing.assert_array_equal(getattr(other.calibration, name), value)
    assert [frame.name for frame in both] == ["000000", "000001", "000002"]
    assert any(frame.plane is not None for frame in both)


def test_frames_may_have_what_the_camera_sees_alone(tmp_path, capsys):
    arguments = ["prepare", "street", str(tmp_path / "street"), "--frames", "1", "--val-frames", "0", "--seed", "3"]
    assert cli.main([*arguments, "--camera-view", "--workers", "0"]) == 0
    assert "1 frames" in capsys.readouterr().out
    (written,) = read_split(tmp_path / "street", "train")
    assert_same(street_frames(1, seed=3, camera_view=True)[0], written)


def test_lines_of_a_calibration_stand_where_others_count_them(folder):
    lines = (folder / "training" / "calib" / "000000.txt").read_text().splitlines()
    names = ["P0", "P1", "P2", "P3", "R0_rect", "Tr_velo_to_cam", "Tr_imu_to_velo"]
    assert [line.split(":")[0] for line in lines] == names
    assert [len(line.split()) - 1 for line in lines] == [12, 12, 12, 12, 9, 12, 12]


def test_a_plane_goes_to_the_camera_and_back():
    plane = np.array([0.02, -0.01, np.sqrt(1 - 5e-4), 1.73])
    in_camera = camera_plane(plane, CALIBRATION)
    assert in_camera[1] < -0.99  # as in AVOD's files; y points down there
    np.testing.assert_allclose(lidar_plane(in_camera, CALIBRATION), plane, atol=1e-12)
    np.testing.assert_allclose(lidar_plane(-in_camera, CALIBRATION), plane, atol=1e-12)


def test_a_folder_that_holds_something_is_left_alone(folder, tmp_path):
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(UserError, match="is there already and not an empty folder; name another, or remove it first"):
        write_street(folder, 1, 0)
    assert sorted(path.name for path in folder.rglob("*")) == before
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        write_street(file, 1, 0)


def test_a_folder_appears_as_a_whole_or_not_at_all(tmp_path):
    def stop(frames):
        yield next(iter(frames))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_street(tmp_path / "street", 2, 0, watch=stop)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled_and_a_split_without_frames_has_no_list(tmp_path):
    write_street(tmp_path, 1, 0)
    assert sorted(path.name for path in (tmp_path / "ImageSets").iterdir()) == ["train.txt", "trainval.txt"]


def test_numbers_that_make_no_sense(tmp_path):
    for numbers in ((0, 0), (-1, 3)):
        with pytest.raises(ValueError, match="a data set needs frames"):
            write_street(tmp_path / "street", *numbers)


def test_the_command(tmp_path, capsys):
    folder = tmp_path / "street"
    assert cli.main(["prepare", "street", str(folder), "--frames", "1", "--val-frames", "1", "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert "train, 1 frames" in out
    assert "val, 1 frames" in out
    assert_same(read_split(folder, "val")[0], street_frames(1, start=1, camera_view=False)[0])
    assert cli.main(["prepare", "street", str(folder), "--frames", "1"]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert cli.main(["prepare", "street", str(tmp_path / "other"), "--frames", "0"]) == 2
    assert "--frames must be 1 or more, got 0" in capsys.readouterr().err
