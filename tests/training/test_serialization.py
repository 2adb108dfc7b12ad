import dataclasses
import json
from pathlib import Path

import pytest
import tyro

from pctransformer.training.serialization import (
    differences,
    from_json,
    parse_options,
    to_arguments,
    to_json,
    write_options,
)
from pctransformer.training.settings import (
    ClassificationTraining,
    DataSettings,
    Pretraining,
    SupervisedOptimization,
    UnlabelledData,
)

CHANGED = ClassificationTraining(
    out=Path("runs/a"),
    model_options={"mixer": "lstm", "widths": [8, 8], "mixer_options": {"num_heads": 2}},
    seed=3,
    data=DataSettings(data="x y.npz", normals=True),
    optimization=SupervisedOptimization(lr=0.5),
)


@pytest.mark.parametrize(
    "settings", [ClassificationTraining(), CHANGED, Pretraining(data=UnlabelledData(data=("generated", "x.npz")))]
)
def test_they_survive_json(settings):
    text = json.dumps(to_json(settings))
    assert from_json(type(settings), json.loads(text)) == settings


def test_fields_that_are_not_there_get_their_default_and_unknown_ones_are_an_error():
    assert from_json(ClassificationTraining, {"seed": 5}) == ClassificationTraining(seed=5)
    with pytest.raises(ValueError, match="SupervisedOptimization has no momentum"):
        from_json(ClassificationTraining, {"optimization": {"momentum": 0.5}})


def test_differences_have_the_names_of_their_flags():
    assert differences(CHANGED, CHANGED) == {}
    given = dataclasses.replace(CHANGED, seed=0, optimization=SupervisedOptimization(lr=0.5, epochs=7))
    assert differences(given, CHANGED) == {"seed": (0, 3), "epochs": (7, 60)}


def test_options_are_json_or_text():
    words = ["mixer=lstm", "depth=4", "skip=false", "widths=[8, 8]", "drop=1e-1", "given=a=b", "empty="]
    expected = {"mixer": "lstm", "depth": 4, "skip": False, "widths": [8, 8], "drop": 0.1, "given": "a=b", "empty": ""}
    assert parse_options(words) == expected
    assert parse_options(write_options(expected)) == expected
    assert write_options(expected)[:2] == ["mixer=lstm", "depth=4"]
    assert write_options({"text": "4"}) == ['text="4"']
    for wrong, text in (
        (["depth"], "not of the form"),
        (["=4"], "not of the form"),
        (["a=1", "a=2"], "a is given twice"),
    ):
        with pytest.raises(ValueError, match=text):
            parse_options(wrong)


@pytest.mark.parametrize("settings", [ClassificationTraining(), CHANGED])
def test_a_command_line_gives_them_again(settings):
    settings = dataclasses.replace(settings, keep_memory=False)
    words = to_arguments(settings)
    assert "--batch-size" not in words
    assert tyro.cli(ClassificationTraining, args=words, config=(tyro.conf.OmitArgPrefixes,)) == settings
