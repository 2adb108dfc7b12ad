"""The command: tables, files it writes, files it never overwrites, files it cannot use."""

import json

import numpy as np
import pytest
from matplotlib.image import imread

from pctransformer import cli
from pctransformer.commands.predictions import RECORD
from pctransformer.datasets import read_points, write_ply
from pctransformer.predict import load
from tests.trained import CLASSES, PARTS, write_checkpoint, write_part_checkpoint


@pytest.fixture
def run(tmp_path):
    write_checkpoint(tmp_path / "run" / "checkpoints" / "best.safetensors")
    return tmp_path / "run"


@pytest.fixture
def files(tmp_path):
    """A folder with two clouds of one name, and a hidden one."""
    folder = tmp_path / "scans"
    for i, name in enumerate(("a/cup.ply", "b/cup.ply", ".hidden/cup.ply")):
        (folder / name).parent.mkdir(parents=True)
        write_ply(folder / name, np.random.default_rng(i).normal(size=(100, 3)))
    return folder


def predict(*arguments):
    return cli.main(["predict", *map(str, arguments)])


def test_a_folder_is_predicted_drawn_and_written_down(run, files, capsys):
    assert predict(files, "--model", run, "--top", 2) == 0
    out, err = capsys.readouterr()
    folder = run / "predictions"
    assert err == ""
    assert out.splitlines()[-1] == f"predictions.json and pictures: {folder}"
    record = json.loads((folder / RECORD).read_text())
    assert record["model"] == str(run / "checkpoints" / "best.safetensors")
    assert record["failed"] == []
    assert sorted(path.name for path in folder.iterdir()) == ["cup-2.png", "cup.png", RECORD]
    expected = load(run).predict([files / "a/cup.ply", files / "b/cup.ply"], top=2)
    assert len(record["predictions"]) == 2
    for line, entry, prediction, picture in zip(
        out.splitlines()[1:], record["predictions"], expected, ("cup.png", "cup-2.png")
    ):
        assert entry == {
            "file": prediction.name,
            "points": 48,
            "classes": [{"label": label, "probability": p} for label, p in prediction.classes],
            "picture": picture,
        }
        (first, one), (second, two) = prediction.classes
        assert line.split() == [prediction.name, "48", first, f"{one:.1%}", second, f"{two:.1%}"]
        assert imread(folder / picture).std() > 0.05  # something is drawn


def test_nothing_is_overwritten(run, files, tmp_path, capsys):
    for name in ("predictions", "predictions-2", "predictions-3"):
        assert predict(files, "--model", run, "--no-pictures") == 0
        assert [path.name for path in (run / name).iterdir()] == [RECORD]
    assert predict(files, "--model", run, "--no-pictures", "--out", tmp_path / "new") == 0
    capsys.readouterr()
    for out in (tmp_path / "new", run / "predictions" / RECORD):
        assert predict(files, "--model", run, "--no-pictures", "--out", out) == 2
        assert "is not overwritten; give a new folder with --out" in capsys.readouterr().err
    assert predict(files, "--model", run, "--no-pictures", "--out", run / "predictions" / RECORD / "x") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_files_that_cannot_be_used_do_not_stop_the_others(run, files, tmp_path, capsys):
    (tmp_path / "empty.ply").touch()
    np.save(tmp_path / "one.npy", np.zeros((1, 3)))
    np.save(tmp_path / "holes.npy", np.insert(np.random.default_rng(0).normal(size=(50, 3)), 7, np.nan, axis=0))
    broken = [tmp_path / name for name in ("empty.ply", "one.npy", "holes.npy", "none.off")]
    assert predict(files, *broken, "--model", run, "--no-pictures") == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 + 2 + 1
    lines = err.splitlines()
    assert lines[0] == "pctransformer: 4 of 6 files could not be used:"
    reasons = ("the file is empty", "only one point", "--not-finite drop leaves such points out", "no such file")
    for line, file, reason in zip(lines[1:], broken, reasons, strict=True):
        assert line.startswith(f"pctransformer: {file}: ")
        assert reason in line
    record = json.loads((run / "predictions" / RECORD).read_text())
    assert [fault["file"] for fault in record["failed"]] == [str(file) for file in broken]
    assert predict(tmp_path / "holes.npy", "--model", run, "--no-pictures", "--not-finite", "drop") == 0


def test_nothing_is_written_where_nothing_was_predicted(run, tmp_path, capsys):
    assert predict(tmp_path / "none.off", "--model", run) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"pctransformer: {tmp_path / 'none.off'}: there is no such file\n"
    assert not (run / "predictions").exists()


def test_json_is_all_that_is_printed(run, files, capsys):
    assert predict(files, "--model", run, "--no-pictures", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads((run / "predictions" / RECORD).read_text())
    assert [label for label in CLASSES if f'"{label}"' in out] == list(CLASSES)
    assert err == f"predictions.json: {run / 'predictions'}\n"


def test_parts_of_points_are_written_beside_pictures(tmp_path, files, capsys):
    run = tmp_path / "parts"
    write_part_checkpoint(run / "checkpoints" / "best.safetensors")
    assert predict(files, "--model", run, "--category", "vase") == 0
    out, err = capsys.readouterr()
    folder = run / "predictions"
    assert err == ""
    assert out.splitlines()[-1] == f"predictions.json, points and pictures: {folder}"
    written = ["cup-2.npz", "cup-2.ply", "cup-2.png", "cup.npz", "cup.ply", "cup.png", RECORD]
    assert sorted(path.name for path in folder.iterdir()) == written
    record = json.loads((folder / RECORD).read_text())
    expected = load(run).predict([files / "a/cup.ply", files / "b/cup.ply"], "vase")
    for line, entry, prediction, stem in zip(out.splitlines()[1:], record["predictions"], expected, ("cup", "cup-2")):
        counts = prediction.counts
        assert entry == {
            "file": prediction.name, "points": 100, "category": "vase", "parts": counts,
            "ply": f"{stem}.ply", "npz": f"{stem}.npz", "picture": f"{stem}.png",
        }  # fmt: skip
        shares = [word for name, count in counts.items() for word in (name, f"{count / 100:.1%}")]
        assert line.replace(",", "").split() == [prediction.name, "100", "vase", *shares]
        arrays = np.load(folder / f"{stem}.npz")
        assert np.array_equal(arrays["part"], prediction.parts)
        assert np.array_equal(arrays["xyz"], prediction.xyz)
        assert (str(arrays["category"]), tuple(arrays["part_names"])) == ("vase", PARTS)
        points = read_points(folder / f"{stem}.ply", features=("red", "green", "blue", "part", "probability"))
        assert np.array_equal(points[:, :3], prediction.xyz)
        assert np.array_equal(points[:, 6], prediction.parts)
        colours = {tuple(row[3:6]) for row in points}
        assert len(colours) == len({(part, *colour) for part, colour in zip(points[:, 6], map(tuple, points[:, 3:6]))})
        assert len(colours) == len(set(prediction.parts)) > 1
        assert imread(folder / f"{stem}.png").std() > 0.05


def test_what_is_shown_has_to_be_said_for_parts_alone(tmp_path, run, files, capsys):
    parts = write_part_checkpoint(tmp_path / "parts.safetensors")
    for arguments, text in (
        (["--model", parts], "--category: "),
        (["--model", parts, "--category", "vas"], "there is no category 'vas'; did you mean 'vase'?"),
        (["--model", run, "--category", "vase"], "--category is for models that tell parts of objects"),
        (["--model", run, "--score", "0.3"], "--score is for detectors"),
        (["--model", run, "--around"], "--around is for detectors"),
    ):
        assert predict(files, *arguments, "--out", tmp_path / "out") == 2
        assert text in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "predict what? give files or folders"),
        (["FILES", "--top", "0"], "--top must be at least 1"),
        (["EMPTY"], "holds no file that ends in one of .ply"),
        (["FILES", "--device", "abacus"], "'abacus' is no device"),
        (["FILES", "--model", "nowhere"], "nowhere does not exist"),
    ],
)
def test_faults_of_the_user(run, files, tmp_path, capsys, arguments, text):
    (tmp_path / "empty").mkdir()
    places = {"FILES": files, "EMPTY": tmp_path / "empty"}
    model = [] if "--model" in arguments else ["--model", run]
    assert predict(*(places.get(word, word) for word in arguments), *model) == 2
    assert text in capsys.readouterr().err
    assert not (run / "predictions").exists()
