import dataclasses

import numpy as np
import pytest

from pctransformer.datasets import FileFormatError, read_points
from pctransformer.visualization.point_maps import BoxView, PointMap, PointMaps


def floats(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def boxes():
    return BoxView(
        floats(2, 7),
        np.array([0, 1]),
        np.array([0.9, 0.2], np.float32),
        floats(1, 7),
        np.array([-1]),
        ("Car", "Cyclist"),
    )


def example(**changes):
    values = np.linspace(0, 1, 20, dtype=np.float32)
    maps = (
        PointMap(values, None, None, None, "rollout"),
        PointMap(values[::-1].copy(), "encoder.layers.0", 2, 17, "attention"),
    )
    return dataclasses.replace(PointMaps(floats(20, 3), maps, "chair_0890.off: chair", boxes(), "y"), **changes)


def same(a, b):
    """Field by field, arrays to the last bit."""
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def colored():
    """A map of colours between two of one value."""
    first, second = example().maps
    return first, PointMap(floats(20, 3), None, None, None, "feature components"), second


@pytest.mark.parametrize(
    "changes", [{}, {"boxes": None, "title": "Stühle", "up": "z"}, {"maps": colored(), "is_room": True}]
)
def test_files_give_back_what_was_written(tmp_path, changes):
    maps = example(**changes)
    maps.save_npz(tmp_path / "maps.npz")
    assert same(PointMaps.load_npz(tmp_path / "maps.npz"), maps)
    assert [path.name for path in tmp_path.iterdir()] == ["maps.npz"]
    with np.load(tmp_path / "maps.npz", allow_pickle=False) as file:
        assert file["layer"].tolist()[:: len(maps.maps) - 1] == ["", "encoder.layers.0"]
        assert file["head"].tolist()[-1] == 2
        assert file["query"].tolist()[-1] == 17
        assert file["channels"].tolist() == [1 + 2 * found.is_color for found in maps.maps]
        assert file["values"].shape == (sum(file["channels"]), 20)
    np.testing.assert_array_equal(read_points(tmp_path / "maps.npz"), maps.xyz)


def test_names_and_colours():
    everything, one = example().maps
    assert everything.name == "rollout, all layers"
    assert one.name == "attention, encoder.layers.0, head 2, from point 17"
    assert dataclasses.replace(one, query=None, box=3).name == "attention, encoder.layers.0, head 2, from box 3"
    assert dataclasses.replace(everything, method="saliency").name == "saliency"
    assert dataclasses.replace(one, method="similarity", head=None).name.startswith("similarity, encoder.layers.0,")
    assert dataclasses.replace(one, method="height").meaning == ""
    colors, scale = one.colors("linear")
    assert colors.shape == (20, 3)
    assert (scale.low, scale.high) == (0, 1)
    assert colors[0].sum() < colors[-1].sum()  # dark is much
    assert one.colors()[1].scaling == "percentile"


def test_three_values_of_a_point_are_its_colour():
    _, found, _ = colored()
    assert found.name == "feature components"
    assert found.meaning == "three main directions of the features as red, green, blue"
    colors, scale = found.colors()
    assert scale is None
    assert (colors.argmax(0) == found.values.argmax(0)).all()
    assert (colors.min(0) == 0).all()
    assert (colors.max(0) == 1).all()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"values": np.zeros((4, 1), np.float32)}, r"values must be \(N, 3\), got \(4, 1\)"),
        ({"values": np.zeros((), np.float32)}, r"values must be \(N,\), got \(\)"),
        ({"values": np.zeros((4, 3), np.float32), "query": 4}, "query must be the row of one of 4 points, got 4"),
        (
            {"values": np.zeros(4)},
            r"values must be float32, got float64; convert with np.asarray",
        ),
        ({"values": np.array([0, np.nan], np.float32)}, "values must be finite, but row 1 is nan"),
        ({"layer": ""}, "layer must be a name, or None"),
        ({"head": -1}, "head must be at least 0, or None, got -1"),
        ({"query": 4}, "query must be the row of one of 4 points, got 4"),
        ({"method": ""}, "method must say in a word"),
    ],
)
def test_maps_that_are_refused(changes, error):
    with pytest.raises((ValueError, TypeError), match=error):
        dataclasses.replace(PointMap(np.zeros(4, np.float32), None, None, None, "rollout"), **changes)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"xyz": floats(20, 4)}, r"xyz must be \(N, 3\), got \(20, 4\)"),
        ({"xyz": floats(19, 3)}, r"maps\[0\] is of 20 points, but there are 19"),
        ({"xyz": np.full((20, 3), np.inf, np.float32)}, r"xyz must be finite, but row 0 is \[inf, inf, inf\]"),
        ({"maps": ()}, "at least one PointMap"),
        ({"up": "x"}, 'up must be "y" or "z", got \'x\''),
    ],
)
def test_clouds_that_are_refused(changes, error):
    with pytest.raises(ValueError, match=error):
        example(**changes)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"found": floats(2, 6)}, r"found must be \(N, 7\), got \(2, 6\)"),
        ({"labels": np.array([0])}, r"labels must be \(2,\) int64, one for each box, got \(1,\)"),
        ({"labels": np.array([0, 2])}, "labels must be from 0 to 1, there are 2 class_names"),
        ({"true_labels": np.array([-2])}, "true_labels must be from -1 to 1"),
        ({"scores": floats(3)}, "2 boxes found, but 3 scores"),
    ],
)
def test_boxes_that_are_refused(changes, error):
    with pytest.raises(ValueError, match=error):
        dataclasses.replace(boxes(), **changes)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, xyz=floats(3, 3))
    with pytest.raises(FileFormatError, match="it holds no maps of points: there is no array 'head'"):
        PointMaps.load_npz(path)
    with pytest.raises(FileFormatError, match="there is no such file"):
        PointMaps.load_npz(tmp_path / "absent.npz")
    np.savez(path, xyz=np.array([{}], dtype=object))
    with pytest.raises(FileFormatError, match="never pickled objects"):
        PointMaps.load_npz(path)
    example().save_npz(path)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(FileFormatError, match="not a readable npz archive"):
        PointMaps.load_npz(path)
