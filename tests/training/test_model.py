"""Options of models, as users give them."""

from collections.abc import Mapping
from typing import Any, Literal

import pytest

from pctransformer.errors import UserError
from pctransformer.models import list_models, model_options
from pctransformer.training.model import _fits, make_model


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (int, [4], ["4", 4.0, True, None]),
        (float, [0.5, 1], ["0.5", True]),
        (bool, [True], [1, "true"]),
        (str, ["lstm", ""], [4, None]),
        (Literal["none", "first"], ["none"], ["nil", None]),
        (tuple[int, int], [[8, 8], (8, 8)], [[8], [8, 8, 8], [8, "8"], 8, "88"]),
        (tuple[int, ...], [[8], (8, 8, 8), []], [[8, "8"], 8, "88"]),
        (Mapping[str, Any] | None, [{"num_heads": 2}, None], [[2], "num_heads=2"]),
    ],
)
def test_values_must_be_of_the_type_that_the_model_says(kind, right, wrong):
    assert [value for value in right if not _fits(value, kind)] == []
    assert [value for value in wrong if _fits(value, kind)] == []


@pytest.mark.parametrize("name", list_models())
def test_every_option_has_a_type_that_its_default_fits(name):
    for option in model_options(name).values():
        assert option.annotation is not option.empty
        assert _fits(option.default, option.annotation)


def test_a_value_that_the_model_would_take_for_another_is_refused():
    with pytest.raises(UserError, match=r"block of patch_mixer must be Literal\['transformer', 'published'\]"):
        make_model("patch_mixer", {"block": "publishd"}, task="classification", in_channels=3, num_classes=2)


def test_options_reach_the_model():
    model = make_model("npct", {"dim": 32, "width": 64}, task="classification", in_channels=6, num_classes=2)
    assert (model.in_channels, model.num_features) == (6, 64)
    assert model.head.classifier.out_features == 2
