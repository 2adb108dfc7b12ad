"""Text and JSON with boxes: read and written alike; what is wrong is said to the line, and nothing else is raised."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pctransformer.datasets import FileFormatError
from pctransformer.datasets.box_files import NamedBoxes, read_boxes, write_boxes

TEXT = """# class x y z dx dy dz heading
Car 12.5 -3 -0.9 4.2 1.8 1.6 0.1   # the first

Pedestrian 8 2 -0.8 0.6 0.7 1.75 -3.1
"""
ROWS = [[12.5, -3, -0.9, 4.2, 1.8, 1.6, 0.1], [8, 2, -0.8, 0.6, 0.7, 1.75, -3.1]]


def written(tmp_path, text, name="a.txt"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_text(tmp_path):
    found = read_boxes(written(tmp_path, TEXT), class_names=["Pedestrian", "Car"])
    assert found.types.tolist() == ["Car", "Pedestrian"]
    np.testing.assert_array_equal(found.boxes, np.array(ROWS, np.float32))
    assert found.boxes.dtype == np.float32
    assert found.scores is None
    with_scores = read_boxes(
        written(tmp_path, "Car 1 2 3 4 5 6 7 0.25\nDontCare 1 2 3 4 5 6 7 1e-3"), class_names=["Car"]
    )
    np.testing.assert_array_equal(with_scores.scores, np.array([0.25, 0.001], np.float32))
    assert with_scores.types.tolist() == ["Car", "DontCare"]
    for nothing in ("", "\n \n", "# none\n"):
        assert len(read_boxes(written(tmp_path, nothing))) == 0


def test_the_order_of_openpcdet(tmp_path):
    text = "\n".join(" ".join(map(str, row)) + f" {name}" for row, name in zip(ROWS, ("Car", "Pedestrian")))
    found = read_boxes(written(tmp_path, text))
    assert found.types.tolist() == ["Car", "Pedestrian"]
    np.testing.assert_array_equal(found.boxes, np.array(ROWS, np.float32))
    scored = read_boxes(written(tmp_path, text.replace("Car", "Car 0.5").replace("Pedestrian", "Pedestrian 0.25")))
    assert scored.scores.tolist() == [0.5, 0.25]
    np.testing.assert_array_equal(scored.boxes, found.boxes)


def test_json(tmp_path):
    rows = [{"class": "traffic cone", "box": ROWS[0], "score": 1}, {"class": "Car", "box": ROWS[1], "score": 0.5}]
    found = read_boxes(written(tmp_path, json.dumps(rows), "a.json"))
    assert found.types.tolist() == ["traffic cone", "Car"]
    np.testing.assert_array_equal(found.boxes, np.array(ROWS, np.float32))
    assert found.scores.tolist() == [1, 0.5]
    assert len(read_boxes(written(tmp_path, "[]", "a.json"))) == len(read_boxes(written(tmp_path, "", "a.json"))) == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Car 1 2 3 4 5 6 7\nCar 1 2 3 4 5 6", r"a.txt: line 2 has 7 columns, not 8 or 9: class x y z dx dy dz"),
        ("1 2 3 4 5 6 7", r"line 1 has 7 columns, not 8 or 9: x y z dx dy dz heading class"),
        ("Car 1 2 3 4 5 6 7 8 9", "line 1 has 10 columns"),
        ("# a\nCar 1 2 x 4 5 6 7", "line 2 has 'x' where a number should be"),
        ("1 2 3 4 5 6 Car 7", "line 1 has 'Car' where a number should be: x y z dx dy dz heading class"),
        ("Car 1 nan 3 4 5 6 7", "line 1 has y = nan; it should be a finite number"),
        ("Car 1 2 3 4 5 6 inf", "line 1 has heading = inf"),
        ("Car 1e30 2 3 4 5 6 7", r"line 1 has x = 1e\+30"),
        ("Car 1 2 3 4 -5 6 7", "line 1 has a negative size, dy = -5"),
        (
            "Car 1 2 3 4 5 6 7\nCra 1 2 3 4 5 6 7",
            "line 2 is of the class 'Cra', which is not known; did you mean",
        ),
        ("Car 1 2 3 4 5 6 7\nCar 1 2 3 4 5 6 7 0.5", "line 2 has a score, others have none"),
        ("Car 1 2 3 4 5 6 7 0.5\nCar 1 2 3 4 5 6 7", "line 2 has no score, others have one"),
        (b"Car \xff", "byte 4 is none of UTF-8"),
    ],
)
def test_what_is_wrong_with_text(tmp_path, text, problem):
    with pytest.raises(FileFormatError, match=problem):
        read_boxes(written(tmp_path, text), class_names=("Car", "Pedestrian"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1, 2", r"a.json: this is not JSON"),
        ("[" * 100_000, "this is not JSON"),
        ('{"class": "Car"}', "there should be a list of boxes"),
        ("[1]", "entry 0 should be .*found '1'"),
        ('[{"class": "Car", "box": [1, 2, 3]}]', "entry 0 should be"),
        ('[{"class": 3, "box": [1, 2, 3, 4, 5, 6, 7]}]', "entry 0 should be"),
        ('[{"class": "Car", "box": [1, 2, 3, 4, 5, 6, "7"]}]', "entry 0 has something that is no number"),
        ('[{"class": "Car", "box": [1, 2, 3, 4, 5, 6, true]}]', "entry 0 has something that is no number"),
        ('[{"class": "Car", "box": [1, 2, 3, 4, 5, 6, NaN]}]', "entry 0 has heading = nan"),
        (
            '[{"class": "Car", "box": [1, 2, 3, 4, 5, 6, 1' + "0" * 400 + "]}]",
            "entry 0 has a number that is far too large",
        ),
        ('[{"class": "Car", "box": [1, 2, 3, 4, 5, -6, 7]}]', "entry 0 has a negative size, dz = -6"),
        (
            '[{"class": "Bus", "box": [1, 2, 3, 4, 5, 6, 7]}]',
            "entry 0 is of the class 'Bus', which is not known",
        ),
    ],
)
def test_what_is_wrong_with_json(tmp_path, text, problem):
    with pytest.raises(FileFormatError, match=problem):
        read_boxes(written(tmp_path, text, "a.json"), class_names=("Car", "Pedestrian"))


def test_files_of_other_kinds_and_none(tmp_path):
    with pytest.raises(FileFormatError, match="no such file; it should hold the boxes of a scan, and may be empty"):
        read_boxes(tmp_path / "none.txt")
    with pytest.raises(FileFormatError, match=r"read from \.txt and \.json"):
        read_boxes(tmp_path / "a.xml")


lines = st.lists(
    st.sampled_from(["Car", "1", "-2.5", "nan", "1e999", "#", "", "0x1", "1_0", "\t", "é", "9" * 400]), max_size=11
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=80), st.lists(lines.map(" ".join), max_size=4).map("\n".join).map(str.encode)))
@example(b"Car 1_0 2 3 4 5 6 7")
def test_any_bytes_are_boxes_or_an_error(tmp_path, data):
    for name in ("a.txt", "a.json"):
        with contextlib.suppress(FileFormatError):
            found = read_boxes(written(tmp_path, data, name))
            assert np.isfinite(found.boxes).all()
            assert (found.boxes[:, 3:6] >= 0).all()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["class", "box", "score"]), inner),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(json_values)
def test_any_json_is_boxes_or_an_error(tmp_path, value):
    with contextlib.suppress(FileFormatError):
        read_boxes(written(tmp_path, json.dumps(value), "a.json"))


sizes = st.floats(0, 100, width=32)
places = st.floats(-1000, 1000, width=32)
names = st.text("abcXYZ_-0123é", min_size=1).filter(lambda name: not name.lstrip("-").replace("_", "").isdigit())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(names, st.tuples(places, places, places, sizes, sizes, sizes, st.floats(-4, 4, width=32)))),
    st.booleans(),
    st.sampled_from([".txt", ".json"]),
)
def test_what_is_written_is_read(tmp_path, rows, scored, suffix):
    types = np.array([name for name, _ in rows], np.str_)
    values = np.array([box for _, box in rows], np.float32).reshape(-1, 7)
    scores = np.linspace(0, 1, len(rows), dtype=np.float32) if scored and rows else None
    path = tmp_path / f"boxes{suffix}"
    write_boxes(path, NamedBoxes(types, values, scores))
    found = read_boxes(path)
    assert found.types.tolist() == types.tolist()
    np.testing.assert_allclose(found.boxes, values, rtol=1e-6, atol=5.1e-5)
    if scores is None:
        assert found.scores is None
    else:
        np.testing.assert_allclose(found.scores, scores, atol=6e-7)


def test_names_that_do_not_fit_into_text(tmp_path):
    for name in ("two words", "", "a#b", "12", "nan", " a"):
        boxes = NamedBoxes(np.array([name]), np.ones((1, 7), np.float32))
        with pytest.raises(ValueError, match=r"cannot stand in a line of text; write a \.json"):
            write_boxes(tmp_path / "a.txt", boxes)
        write_boxes(tmp_path / "a.json", boxes)
        assert read_boxes(tmp_path / "a.json").types.tolist() == [name]
    with pytest.raises(ValueError, match=r"written to \.txt and \.json files"):
        write_boxes(tmp_path / "a.csv", boxes)
    with pytest.raises(ValueError, match=r"2 types need boxes \(2, 7\)"):
        NamedBoxes(np.array(["a", "b"]), np.ones((1, 7)))
