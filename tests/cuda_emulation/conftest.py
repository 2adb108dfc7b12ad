from __future__ import annotations

import pytest

from tests.cuda_emulation import build

SCHEDULES = {"forward": ("forward", 0), "backward": ("backward", 0), "shuffled": ("shuffled", 7)}
"""Orders in which threads and blocks run."""


@pytest.fixture(scope="session")
def emulation() -> build.Emulation:
    """The kernels of csrc/cuda/ on the CPU."""
    if (reason := build.missing()) is not None:
        pytest.skip(reason)
    return build.package()
