"""`tools/gallery.py`: the page in the tree is what its table says, and a picture comes from a run and a file."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import tyro
from matplotlib.image import imread

from pctransformer import load
from pctransformer.commands import show
from pctransformer.visualization.point_maps import PointMaps
from tests.trained import write_checkpoint

ROOT = Path(__file__).parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "gallery.py"))
PICTURES = TOOL["PICTURES"]


def test_the_page_is_what_the_table_says():
    assert (ROOT / "docs" / "gallery.md").read_text() == TOOL["page"](), "run `python tools/gallery.py --only`"
    assert len({picture.name for picture in PICTURES}) == len(PICTURES)


def test_figures_are_those_of_the_page_and_small():
    page = (ROOT / "docs" / "gallery.md").read_text()
    shown = re.findall(r"\]\(figures/gallery/([\w-]+\.png)\)", page)
    there = {path.name: path.stat().st_size for path in TOOL["FIGURES"].iterdir()}
    assert sorted(there) == sorted(shown)
    assert {name: size for name, size in there.items() if size > 300_000} == {}


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_commands_mean_what_was_drawn(picture):
    """Typed into a shell, each gives the options that its panels were drawn with."""
    lines = TOOL["commands"](picture).splitlines()
    assert len(lines) == len(picture.calls)
    for line, options in zip(lines, picture.calls):
        program, command, *words = shlex.split(line)
        assert (program, command) == ("pctransformer", "show")
        meant = show.Config(Path(picture.file), Path("runs", picture.run), **options)
        assert tyro.cli(show.Config, args=words) == meant


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A run of random weights, two shapes in one file, and a table of one picture, two calls of `show`."""
    write_checkpoint(tmp_path / "runs" / "tiny" / "checkpoints" / "best.safetensors")
    points = np.random.default_rng(0).normal(size=(2, 100, 3)).astype(np.float32)
    np.savez(tmp_path / "shapes.npz", points=points, ids=np.array(["cup_0001", "cup_0002"]))
    calls = ({"method": "layer", "query": (0,)}, {"method": "saliency"})
    picture = TOOL["Picture"]("cup", "tiny", "cup_0002.npy", calls, "A cup", "Words.")
    inside = TOOL["main"].__globals__
    monkeypatch.setitem(inside, "PICTURES", (picture, TOOL["Picture"]("vase", "none", "vase.off", ({},), "", "")))
    monkeypatch.setitem(inside, "DOCS", tmp_path)
    monkeypatch.setitem(inside, "FIGURES", tmp_path / "figures" / "gallery")
    return tmp_path


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["gallery.py", *map(str, words)])
    TOOL["main"]()


def test_one_picture_is_made_without_what_others_need(workplace, monkeypatch):
    data = ["--runs", workplace / "runs", "--modelnet10", workplace / "shapes.npz"]
    drawn: list[PointMaps] = []
    draw = TOOL["write_picture"]
    monkeypatch.setitem(
        TOOL["main"].__globals__, "write_picture", lambda maps, path: drawn.append(maps) or draw(maps, path)
    )
    run(monkeypatch, *data, "--only", "cup")
    (path,) = (workplace / "figures" / "gallery").iterdir()
    picture = imread(path)
    assert path.name == "cup.png"
    assert picture.shape[1] <= TOOL["WIDTH"]
    assert picture.std() > 0.05
    (maps,) = drawn
    assert [one.method for one in maps.maps] == ["attention"] * 4 + ["saliency"]
    second = np.load(workplace / "shapes.npz")["points"][1]
    np.testing.assert_array_equal(maps.xyz, load(workplace / "runs" / "tiny").prepare(second).xyz)
    page = (workplace / "gallery.md").read_text()
    assert "## A cup\n\n    pctransformer show cup_0002.npy --model runs/tiny --method layer --query 0\n" in page


def test_what_is_missing_is_named(workplace, monkeypatch):
    with pytest.raises(SystemExit, match="--modelnet10 is needed"):
        run(monkeypatch, "--runs", workplace / "runs", "--only", "cup")
    with pytest.raises(SystemExit, match=r"vase\.off: there is no such file"):
        run(monkeypatch, "--runs", workplace / "runs", "--meshes", workplace, "--only", "vase")
    run(monkeypatch, "--only")  # the page alone
    assert not any((workplace / "figures" / "gallery").iterdir())
