import json

import pytest

from pctransformer import cli, create_model, list_models
from pctransformer.models import model_info
from pctransformer.models.pretraining import WEIGHTS_OF_PRETRAINING


def test_table_names_every_model_on_one_line(capsys):
    assert cli.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in list_models():
        info = model_info(name)
        assert [
            line
            for line in lines
            if line.split()[:2] == [name, info.task] and info.summary in line and info.source in line
        ]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("pct_s", ["pct_small"]),
        ("PCT", None),
        ("?pct", ["npct", "spct"]),
        ("pct", ["npct", "pct", "pct_small", "spct"]),
    ],
)
def test_pattern_is_a_part_of_the_name_or_has_wildcards(capsys, pattern, names):
    code = cli.main(["models", pattern, "--json"])
    captured = capsys.readouterr()
    if names is None:
        assert code == 2
        assert "no model's name matches 'PCT'; there are " in captured.err
        assert ", npct, " in captured.err
    else:
        assert [entry["name"] for entry in json.loads(captured.out)] == names


@pytest.mark.parametrize("name", list_models())
def test_public_weights_are_named_where_they_can_be_read(name):
    """Every model whose file renames public weights, not counting those of its own pretraining, belongs to a family
    that says where they are, and the reverse."""
    import importlib

    family = [other for other in list_models() if model_info(other).module == model_info(name).module]
    module = importlib.import_module(f"pctransformer.models.{model_info(name).module}")
    renamed = getattr(module, "PUBLIC_WEIGHTS", {}).keys() - WEIGHTS_OF_PRETRAINING.keys()
    assert bool(renamed) == any(model_info(other).public_weights for other in family)
    if model_info(name).task in ("classification", "segmentation"):
        assert create_model(name, num_classes=3).head.classifier.out_features == 3
