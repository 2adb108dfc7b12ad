"""`tools/detectors.py`: runs of detectors, grouped by model, become lines of one table."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

TOOL = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "detectors.py"))


def write_run(folder, *, model="second_small", seed=0, bev=60.0, space=50.0, options=None, **settings):
    curves = [
        {"class": name, "metric": metric, "difficulty": difficulty, "overlap": overlap, "R40": value}
        for name, more in (("Car", 10), ("Cyclist", 0))
        for metric, of in (("bbox", 90), ("bev", bev), ("3d", space))
        for difficulty, overlap, value in (
            ("easy", "strict", 99),
            ("moderate", "loose", 98),
            ("moderate", "strict", of + more),
        )
    ]
    folder.mkdir()
    told = {"model": model, "model_options": options or {}, "seed": seed, "out": str(folder), **settings}
    (folder / "settings.json").write_text(json.dumps(told))
    (folder / "results.json").write_text(json.dumps({"task": "detection", "test": {"kitti": {"curves": curves}}}))
    return folder


def test_seeds_of_a_model_are_one_line_and_the_best_comes_first(tmp_path):
    runs = [
        write_run(tmp_path / "a", model="pointpillars_small", bev=40, space=20),
        write_run(tmp_path / "b", bev=60, space=50),
        write_run(tmp_path / "c", bev=62, space=52, seed=1),
        write_run(tmp_path / "d", model="pointpillars_small", bev=4, space=2, options={"head": "query"}),
    ]
    costs = {
        "second_small": {"parameters": 890_280, "multiply_adds": 1_582_729_184, "train_ms": 428.4, "find_ms": 46.6}
    }
    lines = TOOL["table"](TOOL["grouped"](runs), costs).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "second_small", "pointpillars_small", "pointpillars_small head=query",
    ]  # fmt: skip
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    # 70 and 72 from above: mean 71, deviation sqrt(2); the mean over classes is 5 less
    assert cells[1:5] == ["71.0 ± 1.4 / 61.0 ± 1.4", "61.0 ± 1.4 / 51.0 ± 1.4", "66.0 ± 1.4 / 56.0 ± 1.4", "0, 1"]
    assert cells[5:] == ["0.89", "1.58", "428", "47", "-", "-"]
    assert lines[3].strip("|").split("|")[1].strip() == "50.0 / 30.0"


def test_runs_that_do_not_belong_together_are_refused(tmp_path):
    one = write_run(tmp_path / "a")
    with pytest.raises(ValueError, match="second_small differ in more than their seed"):
        TOOL["grouped"]([one, write_run(tmp_path / "b", seed=1, optimization={"epochs": 3})])
    older = json.loads((one / "settings.json").read_text())  # without what has a default; a later one wrote it out
    (tmp_path / "later").mkdir()
    later = {**older, "seed": 2, "data": {"label_fraction": 1.0}}
    (tmp_path / "later" / "settings.json").write_text(json.dumps(later))
    (tmp_path / "later" / "results.json").write_text((one / "results.json").read_text())
    assert len(TOOL["grouped"]([one, tmp_path / "later"])["second_small"]) == 2
    with pytest.raises(ValueError, match="two runs of second_small have the same seed"):
        TOOL["grouped"]([one, write_run(tmp_path / "c")])
    (one / "results.json").write_text(json.dumps({"task": "classification"}))
    with pytest.raises(ValueError, match="is a training for classification, not for detection"):
        TOOL["grouped"]([one])
