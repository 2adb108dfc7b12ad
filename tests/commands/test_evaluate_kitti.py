import json

import pytest

from pctransformer import cli
from tests.real_data import real_data

CAR = "Car 0.00 0 {alpha} {left} 100.0 {right} 160.0 1.50 1.60 3.90 {x} 1.70 20.00 0.30"


def car(x, alpha=0.1, score=None):
    line = CAR.format(alpha=alpha, left=20 * x, right=20 * x + 90, x=x)
    return line if score is None else f"{line} {score}"


@pytest.fixture
def folders(tmp_path):
    """Labels of frames 000001 to 000003 with two cars each, and detections of the first two."""
    for name in ("labels", "detections"):
        (tmp_path / name).mkdir()
    for frame in ("000001", "000002", "000003"):
        (tmp_path / "labels" / f"{frame}.txt").write_text(f"{car(0)}\n{car(10)}\n")
    (tmp_path / "detections" / "000001.txt").write_text(f"{car(0, score=0.9)}\n{car(10, score=0.8)}\n")
    (tmp_path / "detections" / "000002.txt").write_text("")
    return tmp_path


def run(folder, *options):
    return cli.main(["evaluate-kitti", str(folder / "labels"), str(folder / "detections"), *map(str, options)])


def test_table_and_json(folders, capsys):
    assert run(folders, "--json", folders / "out.json", "--picture", folders / "curves.png") == 0
    text = capsys.readouterr().out
    assert "Car AP_R40@0.70, 0.70, 0.70:" in text
    assert "3d   AP: 2.5000, 2.5000, 2.5000" in text  # two of six cars, two thresholds
    assert "Car         easy              6        12.50" in text
    assert "3 frames, 2 detections" in text
    assert "1 of the frames have no file" in text
    assert (folders / "curves.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((folders / "out.json").read_text())
    assert (written["frames"], written["missing"], written["detections"]) == (3, 1, 2)
    curve = next(c for c in written["curves"] if (c["class"], c["metric"], c["difficulty"]) == ("Car", "3d", "hard"))
    assert curve["precision"][:3] == [1, 1, 0]
    assert curve["false_negatives"] == [5, 4]


def test_frames_of_a_split(folders, capsys):
    (folders / "val.txt").write_text("000001\n000002\n")
    (folders / "detections" / "999999.txt").write_text("")  # of another split
    assert run(folders, "--frames", folders / "val.txt") == 0
    text = capsys.readouterr().out
    assert "2 frames, 2 detections" in text
    assert "have no file" not in text


@pytest.mark.parametrize(
    ("change", "options", "text"),
    [
        (
            lambda f: (f / "detections/000002.txt").write_text(car(0)),
            [],
            "000002.txt: line 1 has 15 columns; a detecti",
        ),
        (lambda f: (f / "detections/000009.txt").write_text(""), [], "000009.txt has no labels in"),
        (lambda f: None, ["--frames", "nowhere.txt"], "nowhere.txt: there is no such file"),
        (lambda f: None, ["--json", "nowhere/out.json"], "there is no folder nowhere"),
        (lambda f: None, ["--picture", "a.txt"], "--picture must end in .png, .pdf or .svg, got a.txt"),
        (lambda f: [p.unlink() for p in (f / "labels").glob("*")], [], "labels: there are no .txt files in it"),
        (lambda f: (f / "labels").rename(f / "other"), [], "labels: there is no such folder"),
    ],
)
def test_faults_are_explained(folders, capsys, change, options, text):
    change(folders)
    assert run(folders, *options) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "text"),
    [("", "val.txt: the file is empty"), ("../x", "found '../x'"), ("000001 000777", "names frame '000777', which")],
)
def test_a_file_of_frames_must_fit(folders, capsys, names, text):
    (folders / "val.txt").write_text(names)
    assert run(folders, "--frames", folders / "val.txt") == 2
    assert text in capsys.readouterr().err


def test_real_detections(capsys):
    folder = real_data("kitti_evaluation", "mmdet3d_27_frames")
    assert cli.main(["evaluate-kitti", str(folder / "label_2"), str(folder / "detections")]) == 0
    assert "3d   AP: 23.3333, 69.9702, 65.5705" in capsys.readouterr().out
