"""`tools/results.py`: what runs reached becomes an entry of docs/results.json and a line of docs/results.md."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "results.py"))


def run_of(seed, accuracy, **settings):
    environment = dict.fromkeys(("gpu", "processor", "threads", "processes", "torch", "python", "commit"), "-")
    test = {"overall_accuracy": accuracy, "mean_class_accuracy": accuracy / 2}
    return {
        "settings": {"seed": seed, "out": f"/somewhere/{seed}", "model": "pct_small", **settings},
        "results": {
            "task": "classification", "test": test, "epoch": 3, "validation": {}, "seconds": 120,
            "environment": environment,
        },
    }  # fmt: skip


def test_seeds_become_one_entry():
    row = TOOL["entry"]("PCT", [run_of(0, 0.9), run_of(1, 0.92, device="auto")])
    assert row["test"]["overall_accuracy"] == pytest.approx({"mean": 0.91, "std": 0.0002**0.5})
    assert row["settings"]["model"] == "pct_small"
    assert "out" not in row["settings"]
    assert TOOL["line"](row) == "| PCT | 91.0 ± 1.4 | 45.5 ± 0.7 | 0, 1 | 90.0, 92.0 | 2 min |"
    with pytest.raises(ValueError, match="more than their seed"):
        TOOL["entry"]("PCT", [run_of(0, 0.9), run_of(1, 0.9, model="pct")])


def test_the_file_stays_short_and_holds_the_same():
    rows = [{"title": "a [1, 2] {b}", "list": [1, [2, 3], {"x": "y z", "w": []}]}]
    text = TOOL["written"](rows)
    assert json.loads(text) == rows
    assert "[ 2, 3 ]" in text
    kept = (ROOT / "docs" / "results.json").read_text()
    assert kept == TOOL["written"](json.loads(kept))
