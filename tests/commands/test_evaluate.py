import json

import pytest
from matplotlib.image import imread

from pctransformer import cli

TINY = [
    *("--num-shapes", "76", "--validation", "0.25"),
    *("--num-points", "64", "--eval-points", "64"),
    *("--batch-size", "19", "--epochs", "1"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert cli.main(["train", "classification", "--out", str(folder), *TINY]) == 0
    return folder


def test_it_prints_and_writes_beside_the_run(trained, capsys):
    assert cli.main(["evaluate", str(trained)]) == 0
    text = capsys.readouterr().out
    assert "airplane" in text
    assert "OA 0." in text
    for number in ("", "-2"):
        folder = trained / f"evaluation{number}"
        if number:
            assert cli.main(["evaluate", str(trained / "checkpoints" / "last.safetensors")]) == 0
        result = json.loads((folder / "results.json").read_text())
        assert result["result"]["votes"] == 0
        assert "with_votes" not in result
        assert imread(folder / "confusion.png").std() > 0.01
        assert imread(folder / "errors.png").std() > 0.01


def test_votes_are_apart(trained, tmp_path, capsys):
    assert cli.main(["evaluate", str(trained), "--votes", "2", "--json", "--out", str(tmp_path / "a")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["result"]["votes"] == 0
    assert result["with_votes"]["votes"] == 2
    plain = json.loads((trained / "results.json").read_text())["test"]
    assert result["result"] == plain


def test_the_training_part_and_other_numbers_of_points(trained, tmp_path):
    arguments = ["--split", "train", "--eval-points", "32", "--out", str(tmp_path / "a")]
    assert cli.main(["evaluate", str(trained), *arguments]) == 0
    result = json.loads((tmp_path / "a" / "results.json").read_text())
    assert (result["result"]["count"], result["eval_points"], result["split"]) == (76, 32, "train")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["{run}", "--out", "{run}"], "is not overwritten"),
        (["{run}", "--votes", "-1"], "--votes must be 0 or more"),
        (["{run}", "--nms", "0.5"], "--nms is for detectors; the task of"),
        (["{run}", "--data", "nowhere"], "there is no such file"),
        (["{run}", "--data", "{other}"], "knows 19 classes, airplane"),
    ],
)
def test_faults_of_the_user(trained, tmp_path, capsys, arguments, text):
    (tmp_path / "other" / "thing").mkdir(parents=True)
    for i in range(3):
        (tmp_path / "other" / "thing" / f"{i}.xyz").write_text("0 0 0\n1 1 1\n")
    filled = [a.format(run=trained, other=tmp_path / "other") for a in arguments]
    assert cli.main(["evaluate", *filled]) == 2
    assert text in capsys.readouterr().err
