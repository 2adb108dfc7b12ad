import numpy as np
import pytest

from pctransformer.datasets.files import FileFormatError
from pctransformer.datasets.kitti import KittiObjects, read_objects, write_objects
from pctransformer.datasets.kitti.objects import concatenate

CAR = "Car 0.50 1 -1.57 100.0 110.0 200.5 180.0 1.50 1.60 3.90 2.00 1.70 20.00 -1.47"
DONT_CARE = "DontCare -1 -1 -10 500.0 100.0 520.0 120.0 -1 -1 -1 -1000 -1000 -1000 -10"


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_columns_have_their_meaning(tmp_path):
    objects = read_objects(write(tmp_path / "a.txt", CAR, "", DONT_CARE), scores=False)
    assert objects.types.tolist() == ["Car", "DontCare"]
    assert objects.truncated.tolist() == [0.5, -1]
    assert objects.occluded.tolist() == [1, -1]
    assert objects.alpha.tolist() == [-1.57, -10]
    assert objects.boxes_2d[0].tolist() == [100, 110, 200.5, 180]
    assert objects.dimensions[0].tolist() == [1.5, 1.6, 3.9]
    assert objects.locations[0].tolist() == [2, 1.7, 20]
    assert objects.rotation_y[0] == -1.47
    assert objects.scores is None


def test_a_score_of_a_label_is_left_out_and_of_a_detection_wanted(tmp_path):
    path = write(tmp_path / "a.txt", f"{CAR} 0.75")
    assert read_objects(path, scores=False).scores is None
    assert read_objects(path, scores=True).scores.tolist() == [0.75]
    with pytest.raises(FileFormatError, match=r"a\.txt: line 1 has 15 columns; a detection has 16, the last its score"):
        read_objects(write(path, CAR), scores=True)


def test_an_empty_file_is_a_frame_without_objects(tmp_path):
    path = write(tmp_path / "a.txt")
    for scores in (False, True):
        objects = read_objects(path, scores=scores)
        assert len(objects) == 0
        assert objects.boxes_2d.shape == (0, 4)
        assert (objects.scores is None) is not scores


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Car 0 0", "line 1 has 3 columns; a label has 15"),
        (CAR.replace("20.00", "far"), "could not convert string to float: 'far'"),
        (CAR.replace("20.00", "nan"), "object 1 has a number that is NaN or infinite"),
        (CAR + "\n" + CAR.replace("20.00", "1e999"), "object 2 has a number that is NaN"),
        (CAR + " 1 2", "line 1 has 17 columns"),
        ("V\u00e9lo" + CAR[3:], "should be plain text"),
    ],
)
def test_broken_files_are_named(tmp_path, text, problem):
    path = tmp_path / "000007.txt"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=problem) as error:
        read_objects(path, scores=False)
    assert "000007.txt" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileFormatError, match="there is no such file"):
        read_objects(tmp_path / "none.txt", scores=False)


def test_what_is_written_is_read_again(tmp_path):
    labels = read_objects(write(tmp_path / "a.txt", CAR, DONT_CARE), scores=False)
    for objects in (labels, labels.with_scores(np.array([0.25, 0.125])), labels.take(np.array([1]))):
        write_objects(tmp_path / "b.txt", objects)
        again = read_objects(tmp_path / "b.txt", scores=objects.scores is not None)
        for name in ("types", "truncated", "occluded", "alpha", "boxes_2d", "dimensions", "locations", "rotation_y"):
            np.testing.assert_array_equal(getattr(again, name), getattr(objects, name), name)
        np.testing.assert_array_equal(again.scores, objects.scores)
    assert len((tmp_path / "b.txt").read_text().split()) == 15
    write_objects(tmp_path / "b.txt", KittiObjects.empty())
    assert (tmp_path / "b.txt").read_bytes() == b""


def test_frames_are_joined(tmp_path):
    labels = read_objects(write(tmp_path / "a.txt", CAR, DONT_CARE), scores=False)
    joined, offsets = concatenate([labels, KittiObjects.empty(), labels.take(np.array([0]))])
    assert offsets.tolist() == [0, 2, 2, 3]
    assert joined.types.tolist() == ["Car", "DontCare", "Car"]
    assert joined.scores is None
    assert concatenate([])[1].tolist() == [0]


def test_shapes_are_checked(tmp_path):
    labels = read_objects(write(tmp_path / "a.txt", CAR), scores=False)
    with pytest.raises(ValueError, match=r"scores of 1 objects must be \(1,\), got \(2,\)"):
        labels.with_scores(np.zeros(2))
