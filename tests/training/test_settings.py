import dataclasses
import json
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from pctransformer.datasets.transforms import RECIPES
from pctransformer.training.settings import (
    Augmentation,
    ClassificationTraining,
    DataSettings,
    OptimizationSettings,
    differences,
    from_json,
    to_json,
)

CHANGED = ClassificationTraining(
    out=Path("runs/a"), seed=3, data=DataSettings(data="x.npz"), optimization=OptimizationSettings(lr=0.5)
)


@pytest.mark.parametrize("settings", [ClassificationTraining(), CHANGED])
def test_they_survive_json(settings):
    text = json.dumps(to_json(settings))
    assert from_json(ClassificationTraining, json.loads(text)) == settings


def test_fields_that_are_not_there_get_their_default_and_unknown_ones_are_an_error():
    assert from_json(ClassificationTraining, {"seed": 5}) == ClassificationTraining(seed=5)
    with pytest.raises(ValueError, match="OptimizationSettings has no momentum"):
        from_json(ClassificationTraining, {"optimization": {"momentum": 0.5}})


def test_differences_are_what_was_given_and_is_not_kept():
    assert differences(ClassificationTraining(), CHANGED) == {}
    given = dataclasses.replace(CHANGED, seed=4, optimization=OptimizationSettings(epochs=7))
    assert differences(given, CHANGED) == {"seed": (4, 3), "epochs": (7, 60)}


def test_every_recipe_can_be_chosen():
    assert set(typing.get_args(Augmentation)) == {"none", *RECIPES}


def test_help_needs_no_torch():
    code = (
        "import sys; from pctransformer import cli\n"
        "try: cli.main(['train', 'classification', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--label-smoothing" in result.stdout
