"""Real data for tests: a folder beside the project, or the one that PCTRANSFORMER_DATA names. Absent: tests skip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("PCTRANSFORMER_DATA", Path(__file__).parents[2] / "shared" / "data"))


def real_data(*parts: str) -> Path:
    """The path of a file or folder in the real data; skips the test where it is not there."""
    path = FOLDER.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no real data: {path} is not there; PCTRANSFORMER_DATA names the folder that holds it")
    return path
