import dataclasses

import numpy as np
import pytest

from pctransformer.datasets import read_points
from pctransformer.errors import UserError
from pctransformer.visualization.output import write
from pctransformer.visualization.point_maps import PointMap, PointMaps


@pytest.fixture
def maps():
    rng = np.random.default_rng(0)
    values = rng.random((3, 50), dtype=np.float32)
    found = (
        PointMap(values[0], None, None, None, "rollout"),
        PointMap(values[1], "encoder.layers.0", 2, 17, "attention"),
        PointMap(values[2], "encoder/layers.0", 2, 17, "attention"),  # the same word as the one before
    )
    return PointMaps(rng.normal(size=(50, 3)).astype(np.float32), found, "a cloud")


def test_ply_has_colours_and_all_values(tmp_path, maps):
    assert write(maps, tmp_path / "a.ply") == []
    word = "attention_encoder_layers_0_head_2_from_point_17"
    columns = read_points(
        tmp_path / "a.ply", features=("rollout_all_layers", word, f"{word}_2", "red", "green", "blue")
    )
    np.testing.assert_array_equal(columns[:, :3], maps.xyz)
    for column, found in zip(columns[:, 3:6].T, maps.maps):
        np.testing.assert_array_equal(column, found.values)
    expected, _ = maps.maps[0].colors()
    colors = columns[:, 6:]
    np.testing.assert_allclose(colors / (255 if colors.max() > 1 else 1), expected, atol=1 / 255)
    assert (tmp_path / "a.ply").read_bytes().startswith(b"ply\nformat binary_little_endian")


def test_ply_of_colours(tmp_path, maps):
    """Its points have these colours, where the map is the first; and the three values."""
    values = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    found = PointMap(values, None, None, None, "feature components")
    write(dataclasses.replace(maps, maps=(found, *maps.maps)), tmp_path / "a.ply")
    names = [f"feature_components_{color}" for color in ("red", "green", "blue")]
    columns = read_points(tmp_path / "a.ply", features=(*names, "rollout_all_layers", "red", "green", "blue"))[:, 3:]
    np.testing.assert_array_equal(columns[:, :3], values)
    np.testing.assert_array_equal(columns[:, 3], maps.maps[0].values)
    np.testing.assert_allclose(columns[:, 4:], 255 * found.colors()[0], atol=0.51)


def test_the_ending_says_how(tmp_path, maps):
    write(maps, tmp_path / "a.npz")
    assert PointMaps.load_npz(tmp_path / "a.npz").maps[1].name == maps.maps[1].name
    write(maps, tmp_path / "a.HTML", scaling="sigmoid")
    assert '"scaling":"sigmoid"' in (tmp_path / "a.HTML").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.HTML", "a.npz"]


def test_methods_that_are_no_words(tmp_path, maps):
    odd = dataclasses.replace(maps.maps[0], method="2nd gradient * attention")
    write(dataclasses.replace(maps, maps=(odd,)), tmp_path / "a.ply")
    column = "map_2nd_gradient_attention_all_layers"
    np.testing.assert_array_equal(read_points(tmp_path / "a.ply", features=(column,))[:, 3], odd.values)


def test_other_endings_and_folders_are_refused(tmp_path, maps):
    with pytest.raises(UserError, match=r"a.jpg: maps of points are written as .png, .html, .ply, .npz"):
        write(maps, tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"there is no folder .*absent; make it first"):
        write(maps, tmp_path / "absent" / "a.ply")
