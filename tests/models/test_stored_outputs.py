"""Models give the numbers that they gave when these were stored."""

import json

import pytest
import torch

from pctransformer.models import list_models
from tests.models.stored_outputs import FILE, numbers

STORED = json.loads(FILE.read_text())


@pytest.mark.parametrize("name", list_models())
def test_outputs_are_those_that_were_stored(name):
    """To 1e-4 of their size: other versions of torch, and other processors, add up in other orders, which leaves some
    1e-6 of it here. A change that is meant is stored by `python -m tests.models.stored_outputs`."""
    assert name in STORED, "a new model: run `python -m tests.models.stored_outputs`"
    stored = torch.tensor(STORED[name])
    torch.testing.assert_close(numbers(name), stored, rtol=0, atol=1e-4 * stored.abs().max().item())


def test_nothing_else_is_stored():
    assert set(STORED) == set(list_models())
