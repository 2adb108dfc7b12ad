"""Shared by all tests: the CUDA mark, and one hypothesis profile."""

from __future__ import annotations

import sys

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("pctransformer", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.load_profile("pctransformer")


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_functions():
    """torch.compile gives up on a function that it has compiled too often; each file of tests starts afresh."""
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


@pytest.fixture
def deterministic_algorithms():
    """As trainings run: what cannot repeat exactly is refused."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cuda: needs a GPU; skipped, and counted, where there is none")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="no GPU"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "no GPU" in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} tests skipped for want of a GPU")
