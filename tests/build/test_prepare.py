"""tools/prepare.py: what it does again, what may fail, and what it says then. Nothing is installed here."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "tools" / "prepare.py"


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """The module, with an environment in a temporary folder and commands that are noted instead of run."""
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    specification = importlib.util.spec_from_file_location("prepare", SOURCE)
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "prepare", module)
    specification.loader.exec_module(module)
    module.ran = []
    monkeypatch.setattr(module, "run", lambda *command: module.ran.append(" ".join(command)))
    monkeypatch.setattr(module, "output", lambda *command: "")
    monkeypatch.setattr(module, "make_environment", lambda: None)
    monkeypatch.setattr(module.subprocess, "run", lambda *a, **k: type("Done", (), {"returncode": 0}))
    return module


def call(prepare, monkeypatch, *arguments):
    prepare.ran.clear()
    monkeypatch.setattr(sys, "argv", ["prepare.py", *arguments])
    prepare.main()
    return " | ".join(prepare.ran)


def test_second_time_is_instant(prepare, monkeypatch, capsys):
    first = call(prepare, monkeypatch, "test")
    for word in (prepare.TORCH, "-e .", "[open3d]", "[spconv]", "[dev]", "--no-build-isolation"):
        assert word in first
    capsys.readouterr()
    assert call(prepare, monkeypatch, "test") == ""
    assert call(prepare, monkeypatch, "demo") == ""
    assert capsys.readouterr().out == ""


def test_only_what_changed_is_done_again(prepare, monkeypatch):
    call(prepare, monkeypatch, "demo")
    monkeypatch.setattr(prepare, "hash_of", lambda *patterns: "changed" if "csrc/**/*" in patterns else old)
    old = json.loads(prepare.STAMPS.read_text())["Open3D"][0]
    again = call(prepare, monkeypatch, "demo")
    assert "-e ." in again
    assert "open3d" not in again
    assert "torch==" not in again


def test_hash_sees_content_and_names(prepare, monkeypatch, tmp_path):
    monkeypatch.setattr(prepare, "ROOT", tmp_path)
    seen = set()
    for name, text in (("a.cu", "1"), ("a.cu", "2"), ("b.cu", "2")):
        (tmp_path / name).write_text(text)
        seen.add(prepare.hash_of("*.cu"))
    assert len(seen) == 3


def test_demo_needs_no_test_tools(prepare, monkeypatch):
    commands = call(prepare, monkeypatch, "demo")
    assert "[dev]" not in commands
    assert "scatter" not in commands


def test_an_optional_step_may_fail(prepare, monkeypatch, capsys):
    def fail(*arguments):
        if "pctransformer[open3d]" in arguments:
            raise prepare.Failed("no wheel for this Python")
        prepare.ran.append(" ".join(arguments))

    monkeypatch.setattr(prepare, "pip", fail)
    assert "[spconv]" in call(prepare, monkeypatch, "demo")
    text = capsys.readouterr().out
    assert "no wheel for this Python" in text
    assert "without Open3D: no 3-D windows" in text
    call(prepare, monkeypatch, "demo")
    assert "without Open3D" in capsys.readouterr().out  # said again, not tried again


def test_a_necessary_step_must_not_fail(prepare, monkeypatch, capsys):
    def fail(*arguments):
        raise prepare.Failed("no network")

    monkeypatch.setattr(prepare, "pip", fail)
    with pytest.raises(SystemExit) as stop:
        call(prepare, monkeypatch, "demo")
    assert stop.value.code == 1
    assert "no network" in capsys.readouterr().out


def test_without_root_the_line_is_printed(prepare, monkeypatch):
    monkeypatch.setattr(prepare.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(prepare, "SYSTEM_LIBRARIES", {"libnosuch9": "libnosuch.so.9"})
    with pytest.raises(prepare.Failed, match="apt-get install -y --no-install-recommends libnosuch9"):
        prepare.system_libraries()


@pytest.mark.parametrize(
    ("gpu", "needs", "asked", "expected"),
    [
        (False, ["nvidia-cublas==1", "sympy"], "", "install torch==2.13.0 --index-url https://"),
        (False, ["sympy"], "", "install torch==2.13.0"),
        (True, ["nvidia-cublas==1"], "", "install torch==2.13.0"),
        (False, ["nvidia-cublas==1"], "torch==2.11.0", "install torch==2.11.0"),
    ],
)
def test_torch_without_cuda_where_no_gpu_is(prepare, monkeypatch, gpu, needs, asked, expected):
    report = json.dumps({"install": [{"metadata": {"requires_dist": needs}}]})
    monkeypatch.setattr(prepare, "_has_gpu", lambda: gpu)
    monkeypatch.setattr(prepare, "output", lambda *command: report if "--dry-run" in command else "")
    prepare.torch(asked)
    (command,) = prepare.ran
    assert expected in command
    assert ("--index-url" in command) == ("--index-url" in expected)


def test_torch_that_fits_is_left_alone(prepare, monkeypatch):
    monkeypatch.setattr(prepare, "output", lambda *command: "True")
    prepare.torch("")
    assert prepare.ran == []
