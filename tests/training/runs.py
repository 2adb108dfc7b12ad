"""What tests of all training commands do: kill a run and compare it with an unbroken one; train in two processes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pctransformer.training import checkpoint
from pctransformer.training.engine import Trainer


class Killed(Exception):
    pass


def killed_in(run: Callable[..., int], folder: Path, *arguments: object, at: tuple[int, int]) -> None:
    """Train in a folder until this (epoch, step), counted from 0."""
    backward = Trainer._backward

    def dies(self, batch, epoch, step):
        if (epoch, step) == at:
            raise Killed
        return backward(self, batch, epoch, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_backward", dies)
        with pytest.raises(Killed):
            run("--out", folder, *arguments)


def assert_same_run(one: Path, other: Path) -> None:
    """The last checkpoints have the same bits, and the same progress."""
    a, b = (checkpoint.read(folder / "checkpoints" / "last.safetensors") for folder in (one, other))
    assert a.tensors.keys() == b.tensors.keys()
    assert [name for name in a.tensors if not torch.equal(a.tensors[name], b.tensors[name])] == []
    assert a.about["progress"] == b.about["progress"]


def assert_resumes(run: Callable[..., int], folder: Path, *arguments: object, at: tuple[int, int]) -> None:
    """A run that is killed inside of an epoch and goes on is an unbroken run, in folder/killed and folder/whole."""
    assert run("--out", folder / "whole", *arguments) == 0
    killed_in(run, folder / "killed", *arguments, "--save-steps", 1, at=at)
    assert run("--resume", folder / "killed") == 0
    assert_same_run(folder / "killed", folder / "whole")


def in_two_processes(task: str, folder: Path, *arguments: object) -> tuple[str, dict]:
    """What is printed, and the results, of `torchrun --nproc-per-node=2 -m pctransformer train TASK`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    command += ["pctransformer", "train", task, *map(str, arguments), "--out", str(folder), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert result.returncode == 0, result.stderr
    results = json.loads((folder / "results.json").read_text())
    assert results["environment"]["processes"] == 2
    return result.stdout, results
