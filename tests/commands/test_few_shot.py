import json

import pytest

from pctransformer import cli
from tests.trained import CLASSES, write_checkpoint
from tests.training.test_pretraining import DATA, MAE
from tests.training.test_pretraining import run as pretrain

SMALL = ["--ways", "3", "5", "--shots", "1", "2", "--queries", "1", "--trials", "4"]


def run(*arguments):
    return cli.main(["few-shot", *map(str, arguments)])


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    assert pretrain("--out", folder, *MAE, *DATA, "--epochs", 1) == 0
    return folder


def test_table_and_file(pretrained, capsys):
    assert run(pretrained, *SMALL) == 0
    lines = capsys.readouterr().out.splitlines()
    result = json.loads((pretrained / "few-shot" / "results.json").read_text())
    assert [(entry["ways"], entry["shots"]) for entry in result["results"]] == [(3, 1), (3, 2), (5, 1), (5, 2)]
    for line, entry in zip(lines[1:5], result["results"]):
        assert len(entry["accuracies"]) == 4
        assert entry["mean"] == pytest.approx(sum(entry["accuracies"]) / 4)
        assert line.split() == [
            *f"{entry['ways']} ways, {entry['shots']} shots".split(),
            *(f"{100 * entry['mean']:.1f}", "\u00b1", f"{100 * entry['std']:.1f}"),
        ]
    assert "frozen features, logistic regression" in lines[-2]
    assert run(pretrained, *SMALL, "--json") == 0
    assert json.loads(capsys.readouterr().out) == result
    assert (pretrained / "few-shot-2" / "results.json").exists()


def test_a_classifier_has_features_too(tmp_path, capsys):
    write_checkpoint(tmp_path / "a.safetensors")
    arguments = [*SMALL, "--data", "generated", "--out", tmp_path / "out"]
    assert run(tmp_path / "a.safetensors", *arguments) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["eval_points"] == 48
    assert len(CLASSES) == 3  # fewer than the ways: the data's own classes are told apart


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--ways", "20"], "20 ways need 20 classes with 10 clouds to learn from and 20 to classify; there are"),
        (["--shots", "0"], "must be at least 1, got 5, 0, 20, 10"),
        (["--data", "nowhere"], "there is no such file"),
        (["--seed", "-1"], "--seed must be 0 or more"),
        (["--out", "{run}"], "is not overwritten"),
    ],
)
def test_faults_of_the_user(pretrained, capsys, arguments, text):
    assert run(pretrained, *(argument.format(run=pretrained) for argument in arguments)) == 2
    assert text in capsys.readouterr().err


def test_runs_that_cannot_say_what_to_classify(tmp_path, capsys):
    settings = {"data": {"data": ["generated", "x.npz"]}}
    write_checkpoint(tmp_path / "two.safetensors", task="pretraining", settings=settings)
    assert run(tmp_path / "two.safetensors") == 2
    assert "was pretrained on generated, x.npz; say with --data" in capsys.readouterr().err
    write_checkpoint(tmp_path / "other.safetensors", task="segmentation")
    assert run(tmp_path / "other.safetensors") == 2
    assert "few-shot wants a model of classification or pretraining" in capsys.readouterr().err
