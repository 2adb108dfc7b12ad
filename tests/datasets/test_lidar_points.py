import numpy as np
import pytest

from pctransformer.datasets import FileFormatError, write_ply
from pctransformer.datasets.lidar_points import lidar_channels, read_lidar
from tests.real_data import real_data


def test_reflectance_up_to_one_or_up_to_255():
    points = np.array([[1, 2, 3, 0.5], [4, 5, 6, 1]])
    found = lidar_channels(points)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, points.astype(np.float32))
    scaled = points * [1, 1, 1, 255]
    np.testing.assert_allclose(lidar_channels(scaled), points)
    assert scaled[1, 3] == 255  # not written into
    assert lidar_channels(points, 3).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert lidar_channels(points[:, :3], reflectance=0.25)[:, 3].tolist() == [0.25, 0.25]
    assert lidar_channels(points, reflectance=0.25)[1, 3] == 1  # only where there is none
    assert lidar_channels(np.zeros((0, 4))).shape == (0, 4)
    wide = np.column_stack([points, [7, 8], [9, 9]])
    assert lidar_channels(wide, 5)[:, 4].tolist() == [7, 8]


@pytest.mark.parametrize(
    ("points", "channels", "problem"),
    [
        (np.zeros((2, 3)), 4, r"3 values, but 4 are needed, x, y, z and reflectance first; reflectance=0.0"),
        (np.zeros((2, 4)), 5, r"4 values, but 5 are needed"),
        (np.full((2, 4), 256.0), 4, r"up to 255, found 256 to 256"),
        (np.full((2, 4), -0.5), 4, r"found -0.5 to -0.5"),
        (np.zeros((2, 2)), 4, r"points must be \(n, 3 or more\)"),
        (np.zeros(4), 4, r"points must be"),
    ],
)
def test_what_is_no_scan(points, channels, problem):
    with pytest.raises(ValueError, match=problem):
        lidar_channels(points, channels)


def test_columns_are_found_by_name(tmp_path):
    rng = np.random.default_rng(0)
    xyz, values = rng.normal(size=(20, 3)).astype(np.float32), rng.uniform(size=20).astype(np.float32)
    for name in ("intensity", "reflectance", "i"):
        write_ply(tmp_path / "a.ply", xyz, features={"time": -values, name: values})
        np.testing.assert_array_equal(read_lidar(tmp_path / "a.ply"), np.column_stack([xyz, values]))
    write_ply(tmp_path / "a.ply", xyz, features={"time": -values})
    np.testing.assert_array_equal(read_lidar(tmp_path / "a.ply", channels=3), xyz)
    with pytest.raises(FileFormatError, match=r"a.ply: its points have 3 values"):
        read_lidar(tmp_path / "a.ply")
    (tmp_path / "a.ply").write_bytes(b"ply\nnonsense")
    with pytest.raises(FileFormatError) as error:
        read_lidar(tmp_path / "a.ply")
    assert "values" not in error.value.problem


def test_bin_files_by_their_columns(tmp_path):
    rows = np.column_stack([np.random.default_rng(0).normal(size=(16, 3)), np.full(16, 100), np.arange(16)])
    rows.astype("<f4").tofile(tmp_path / "a.pcd.bin")
    assert read_lidar(tmp_path / "a.pcd.bin").shape == (16, 4)
    rows.astype("<f4").tofile(tmp_path / "a.bin")
    with pytest.raises(FileFormatError, match=r"it was read with 4 values per point, give columns for another number"):
        read_lidar(tmp_path / "a.bin")
    np.testing.assert_allclose(read_lidar(tmp_path / "a.bin", columns=5)[:, 3], 100 / 255)


def test_real_scans():
    sweep = read_lidar(real_data("scans", "nuscenes_lidar_top.pcd.bin"))
    assert sweep.shape == (34688, 4)
    assert sweep[:, 3].max() == 1
    frame = read_lidar(real_data("kitti", "training", "velodyne", "000008.bin"))
    assert 0.9 < frame[:, 3].max() <= 1
