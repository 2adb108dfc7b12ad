import os
import subprocess
import sys

import pytest
import torch

from pctransformer.errors import UserError
from pctransformer.training import checkpoint
from pctransformer.training.checkpoint import LAST
from pctransformer.training.distributed import World, choose_device, join_world
from tests.training.two_processes import train


def test_two_processes_train_what_one_trains(tmp_path):
    """To rounding: gradients of halves are averaged. The model has LayerNorm; batch norm would see halves."""
    train(tmp_path / "one", World(torch.device("cpu")))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.training.two_processes", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("epoch 4/4") == 2  # for each of two trainings; the first process alone prints
    for parts in ("1", "2"):
        one, two = (checkpoint.read(tmp_path / name / parts / "checkpoints" / LAST) for name in ("one", "two"))
        assert one.about["progress"]["best"] == two.about["progress"]["best"]
        assert one.about["metrics"]["train_loss"] == pytest.approx(two.about["metrics"]["train_loss"], rel=1e-4)
        for name, value in one.weights.items():
            torch.testing.assert_close(two.weights[name], value, rtol=1e-4, atol=1e-5)


def test_one_process_is_a_world():
    with join_world("cpu") as world:
        assert (world.rank, world.size, world.leads) == (0, 1, True)
        values = torch.tensor([1.0, 2.0])
        assert world.total(values) is values
        model = torch.nn.Linear(2, 2)
        assert world.wrap(model) == (model, model)
        world.agree(model.parameters())
        world.wait()
    assert not World(torch.device("cpu"), rank=1, size=2).leads


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UserError, match="no device cuda:99 here"):
        choose_device("cuda:99")
    with pytest.raises(UserError, match="'gpu' is no device"):
        choose_device("gpu")
