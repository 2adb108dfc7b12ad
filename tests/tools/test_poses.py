"""`tools/poses.py`: axes, directions and heights of found objects, counted by hand."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from pctransformer.errors import UserError

TOOL = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "poses.py"))


def line(
    name: str, x: float, z: float, turn: float, score: float | None = None, y: float = 1.7, occluded: int = 0
) -> str:
    row = f"{name} 0 {occluded} 0 0 0 50 50 1.5 1.6 4 {x} {y} {z} {turn}"
    return row if score is None else f"{row} {score}"


def test_what_is_found_is_compared_with_the_nearest(tmp_path):
    found, true = tmp_path / "detections", tmp_path / "label_2"
    found.mkdir(), true.mkdir()
    objects = [
        line("Car", 0, 10, 3.1),  # across the end of the circle
        line("Car", 5, 20, 0.0),  # reversed
        line("Car", -5, 30, 0.0),  # its only box scores too little
        line("Car", 9, 30, 0.0),  # its only box is too far away
        line("Car", 0, 40, 0.0, occluded=2),  # not counted
        line("Pedestrian", 1, 5, 0.0),  # a car stands there
        line("DontCare", 0, 10, 0.0),
    ]
    boxes = [
        line("Car", 0.1, 10, -3.1, score=0.9, y=1.4),
        line("Car", 0.6, 10, 0.5, score=0.99),  # farther
        line("Car", 5, 20.5, 2.9, score=0.31),
        line("Car", -5, 30, 0.0, score=0.29),
        line("Car", 9, 31.1, 0.0, score=0.9),
        line("Car", 0, 40, 0.0, score=0.9),
        line("Car", 1, 5, 0.0, score=0.9),
    ]
    (found / "000001.txt").write_text("\n".join(boxes))
    (true / "000001.txt").write_text("\n".join(objects))
    (found / "000002.txt").write_text("")
    (true / "000002.txt").write_text(objects[0])
    # 2 pi - 6.2 = 0.0832 rad = 4.77 degrees, and pi - 2.9 = 0.2416 rad = 13.84 degrees
    assert TOOL["summary"](found, true) == ["Car: 2 found, axes 9.3 degrees off, 50% reversed, bottoms 0.15 m too high"]


def test_folders_that_do_not_fit_are_explained(tmp_path):
    with pytest.raises(UserError, match="there are no"):
        TOOL["summary"](tmp_path, tmp_path)
    (tmp_path / "000001.txt").write_text("")
    with pytest.raises(UserError, match="there is no such file"):
        TOOL["summary"](tmp_path, tmp_path / "labels")
