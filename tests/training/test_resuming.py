import dataclasses
import importlib
import json

import pytest

from pctransformer import cli
from pctransformer.commands import compare_mixers
from pctransformer.errors import UserError
from pctransformer.training.resuming import kept_settings, refuse_changes
from pctransformer.training.serialization import to_json
from pctransformer.training.settings import ClassificationTraining, DataSettings, SupervisedOptimization

BEGUN = ClassificationTraining(
    workers=3,
    model_options={"mixer": "lstm"},
    data=DataSettings(normals=True),
    optimization=SupervisedOptimization(epochs=20),
)


def named(place):
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


def begin(folder, settings):
    (folder / "settings.json").write_text(json.dumps(to_json(settings)))
    return folder


RESUMABLE = [
    name
    for name, command in cli.COMMANDS.items()
    if "resume" in {field.name for field in dataclasses.fields(named(command.config))}
]


def test_trainings_and_comparisons_go_on():
    assert {name for name in cli.COMMANDS if name.startswith(("train ", "compare-"))} == set(RESUMABLE)


@pytest.mark.parametrize("name", RESUMABLE)
def test_words_are_read_on_top_of_the_settings_of_the_run(tmp_path, monkeypatch, name):
    """What is given counts, though it is the default; what is not given is as in the run, though that is none."""
    command, seen = cli.COMMANDS[name], []
    monkeypatch.setattr(importlib.import_module(command.run.split(":")[0]), "run", lambda config: seen.append(config))
    usual = named(command.config)()
    begun = dataclasses.replace(
        usual,
        workers=3,
        data=dataclasses.replace(usual.data, validation=0.4),
        optimization=dataclasses.replace(usual.optimization, epochs=1, weight_decay=0.5),
    )
    begin(tmp_path, begun)
    words = ["--resume", str(tmp_path), "--workers", "0", "--epochs", str(usual.optimization.epochs)]
    cli.main([*name.split(), *words])
    optimization = dataclasses.replace(begun.optimization, epochs=usual.optimization.epochs)
    assert seen == [dataclasses.replace(begun, resume=tmp_path, workers=0, optimization=optimization)]


@pytest.mark.parametrize(("words", "seeds"), [([], (4, 5)), (["--seeds", "0", "1", "2"], (0, 1, 2))])
def test_the_default_seeds_can_be_asked_for(tmp_path, monkeypatch, words, seeds):
    seen = []
    monkeypatch.setattr(compare_mixers, "run", lambda config: seen.append(config.seeds))
    begin(tmp_path, compare_mixers.Config(seeds=(4, 5)))
    cli.main(["compare-mixers", "--resume", str(tmp_path), *words])
    assert seen == [seeds]


def test_they_are_those_that_the_run_was_begun_with(tmp_path):
    assert kept_settings(ClassificationTraining, begin(tmp_path, BEGUN)) == dataclasses.replace(BEGUN, resume=tmp_path)


@pytest.mark.parametrize(
    ("kept", "text"),
    [
        (None, "holds no run"),
        ("{", "settings.json cannot be read"),
        ("[1]", "is of another command, or of another version"),
        ('{"later": 1}', "is of another command, or of another version: ClassificationTraining has no later"),
    ],
)
def test_what_is_no_run_of_this_version(tmp_path, kept, text):
    if kept is not None:
        (tmp_path / "settings.json").write_text(kept)
    with pytest.raises(UserError, match=text):
        kept_settings(ClassificationTraining, tmp_path)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"seed": 1}, "--seed 1 was given, but {run} was begun with 0"),
        ({"optimization": SupervisedOptimization()}, "--epochs 60 was given, but {run} was begun with 20"),
        ({"data": DataSettings()}, "--normals False was given, but {run} was begun with True"),
        ({"model_options": {}}, "--model-options {{}} was given, but {run} was begun with {{'mixer': 'lstm'}}"),
    ],
)
def test_changes_are_refused(tmp_path, changes, text):
    kept = kept_settings(ClassificationTraining, begin(tmp_path, BEGUN))
    refuse_changes(kept, free=(), reason="")
    refuse_changes(dataclasses.replace(kept, workers=0), free=("workers",), reason="")
    with pytest.raises(UserError) as caught:
        refuse_changes(dataclasses.replace(kept, **changes), free=("workers",), reason="; begin a new run")
    assert str(caught.value) == text.format(run=tmp_path) + "; begin a new run"
