"""Many trainings, with short scripts in their place."""

import os
import sys
import time
from pathlib import Path

import pytest

from pctransformer.training import many
from pctransformer.training.many import Outcome, train_many
from pctransformer.training.settings import ClassificationTraining


@pytest.fixture
def scripts(monkeypatch):
    """Gives a function that says what a training does: a script, whose `out` is its run folder."""
    of: dict[str, str] = {}

    def command(settings):
        before = "import os, pathlib, signal, sys, time\nout = pathlib.Path(sys.argv[1]); out.mkdir(exist_ok=True)\n"
        after = "\n(out / 'results.json').write_text('{}')"
        return [sys.executable, "-c", before + of[settings.out.name] + after, str(settings.out)]

    monkeypatch.setattr(many, "_command", command)
    return of


def trainings(folder: Path, names: str) -> list[ClassificationTraining]:
    return [ClassificationTraining(out=folder / name) for name in names]


def run(folder: Path, names: str, jobs: int = 1) -> list[Outcome]:
    outcomes: list[Outcome] = []
    train_many(trainings(folder, names), jobs, outcomes.append)
    return outcomes


def test_what_is_done_is_left_out(scripts, tmp_path):
    scripts.update(a="", b="")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "results.json").write_text("{}")
    assert [(outcome.settings.out.name, outcome.fault) for outcome in run(tmp_path, "ab")] == [("b", None)]
    assert run(tmp_path, "ab") == []


def test_so_many_at_a_time(scripts, tmp_path):
    """Three that each wait to see another one running: with two jobs they meet, and never are more."""
    meet = """
(out.parent / f"running-{out.name}").touch()
end = time.monotonic() + 60
while len(list(out.parent.glob("running-*"))) < NEEDED and time.monotonic() < end:
    time.sleep(0.01)
seen = len(list(out.parent.glob("running-*")))
(out.parent / f"seen-{out.name}").write_text(str(seen))
time.sleep(0.2)
(out.parent / f"running-{out.name}").unlink()
"""
    scripts.update(a=meet.replace("NEEDED", "2"), b=meet.replace("NEEDED", "2"), c=meet.replace("NEEDED", "1"))
    assert len(run(tmp_path, "abc", jobs=2)) == 3
    seen = [int((tmp_path / f"seen-{name}").read_text()) for name in "abc"]
    assert seen[:2] == [2, 2]
    assert seen[2] <= 2


@pytest.mark.parametrize(("jobs", "given", "expected"), [(1, None, "cores"), (64, None, "1"), (1, "3", "3")])
def test_they_share_the_cores(scripts, tmp_path, monkeypatch, jobs, given, expected):
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    scripts.update(a="(out / 'threads').write_text(os.environ['OMP_NUM_THREADS'])")
    run(tmp_path, "a", jobs)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert (tmp_path / "a" / "threads").read_text() == (str(cores) if expected == "cores" else expected)


def test_a_failure_is_told_and_does_not_stop_the_others(scripts, tmp_path):
    scripts.update(
        a="print('some warning', file=sys.stderr); sys.exit('pctransformer: nowhere does not exist')",
        b="os.kill(os.getpid(), signal.SIGKILL)",
        c="print('a warning', file=sys.stderr)",
    )
    faults = {outcome.settings.out.name: outcome.fault for outcome in run(tmp_path, "abc")}
    assert faults == {"a": "nowhere does not exist", "b": "exit code -9", "c": None}


def test_much_that_is_printed_does_not_block(scripts, tmp_path):
    scripts.update(a="print('x' * 10**6); print('y' * 10**6, file=sys.stderr)")
    assert run(tmp_path, "a")[0].fault is None


def test_interruption_of_one_stops_all(scripts, tmp_path):
    wait = "(out / 'pid').write_text(str(os.getpid()))\ntime.sleep(100)"
    scripts.update(a=wait, b="while not (out.parent / 'a' / 'pid').exists(): time.sleep(0.01)\nsys.exit(130)")
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "ab", jobs=2)
    assert time.monotonic() - begun < 60
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "a" / "pid").read_text()), 0)
    assert not (tmp_path / "a" / "results.json").exists()


def test_an_error_here_stops_them(scripts, tmp_path):
    scripts.update(
        a="(out / 'pid').write_text(str(os.getpid()))\ntime.sleep(100)",
        b="while not (out.parent / 'a' / 'pid').exists(): time.sleep(0.01)",
    )

    def fail(outcome):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train_many(trainings(tmp_path, "ab"), 2, fail)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "a" / "pid").read_text()), 0)


def test_command_lines(tmp_path):
    """A new training is given its settings, one that has begun its folder; remains of none are cleared away."""
    settings = ClassificationTraining(out=tmp_path / "run", model_options={"mixer": "lstm"}, seed=1, workers=2)
    begin = ["train", "classification", "--out", str(tmp_path / "run"), "--model-options", "mixer=lstm", "--seed", "1"]
    assert many._command(settings)[3:] == [*begin, "--workers", "2"]
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert many._command(settings)[3:] == [*begin, "--workers", "2"]
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.json").write_text("{}")
    resume = ["train", "classification", "--resume", str(tmp_path / "run"), "--device", "auto", "--workers", "2"]
    assert many._command(settings)[3:] == resume
