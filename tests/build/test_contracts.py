"""Every public operator has all that a user and the next maintainer look for."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from pctransformer import ops

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ops.__all__)
def test_the_docstring_is_a_contract(name):
    function = getattr(ops, name)
    text = inspect.getdoc(function)
    for part in ("Args:", "Returns:", "Raises:"):
        assert part in text, part
    described = text.split("Args:")[1].split("Returns:")[0]
    for parameter in inspect.signature(function).parameters:
        assert re.search(rf"^ +{parameter}\b.*:", described, re.MULTILINE), parameter


@pytest.mark.parametrize("name", ops.__all__)
def test_tests_benchmark_and_changelog_know_it(name):
    family = getattr(ops, name).__module__.rpartition(".")[2]
    for file in (f"tests/ops/test_{family}.py", f"tests/benchmarks/{family}.py", "CHANGELOG.md"):
        assert re.search(rf"\b{name}\b", (ROOT / file).read_text()), file
