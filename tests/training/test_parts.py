"""Optimizers, schedule, repeatability, run folders."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pctransformer.errors import UserError
from pctransformer.training.memory import peak_memory_mb
from pctransformer.training.optimizers import create_optimizer, learning_rate
from pctransformer.training.repeatability import order_of_epoch, repeatable_kernels, start_step
from pctransformer.training.run_folder import RunFolder, environment, numbered, same_run
from pctransformer.training.settings import OptimizationSettings


# ---- optimizers ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_vectors_do_not_decay_and_frozen_weights_are_left_out(name):
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[2].requires_grad_(False)
    optimizer = create_optimizer(model, OptimizationSettings(optimizer=name, weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    expected = {id(model[0].weight): 0.3, id(model[0].bias): 0, id(model[1].weight): 0, id(model[1].bias): 0}
    assert decay == expected


def test_a_frozen_model_is_refused():
    with pytest.raises(ValueError, match="every parameter is frozen"):
        create_optimizer(nn.Linear(3, 4).requires_grad_(False), OptimizationSettings())


def test_schedule_by_hand():
    settings = OptimizationSettings(lr=1.0, final_lr=0.1)
    rates = [learning_rate(step, 12, 4, settings) for step in range(13)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[8] == pytest.approx(0.55)  # half of the cosine
    assert rates[12] == pytest.approx(0.1)


# ---- repeatability ---------------------------------------------------------------------------------------------------
def test_every_epoch_has_an_order_of_its_own():
    orders = {tuple(order_of_epoch(20, seed, epoch).tolist()) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(orders) == 6
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert torch.equal(order_of_epoch(20, 1, 2), order_of_epoch(20, 1, 2))


def test_every_step_and_process_draws_its_own_numbers():
    def draw(*numbers):
        start_step(*numbers)
        return torch.rand(1).item()

    assert len({draw(0, 0), draw(0, 1), draw(1, 0), draw(0, 0, 1)}) == 4
    assert draw(0, 1) == draw(0, 1)


def test_kernels_are_put_back():
    before = torch.are_deterministic_algorithms_enabled()
    with repeatable_kernels(torch.device("cpu")):
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.are_deterministic_algorithms_enabled() == before


def test_kept_memory_costs_no_page_faults():
    """In a process of its own, because it cannot be undone."""
    code = """
import resource, sys
import torch
from pctransformer.training.repeatability import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("no glibc")
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3): torch.zeros(2**24)
begin = faults()
for _ in range(5): torch.zeros(2**24)
print(faults() - begin)
"""
    counts = {}
    for mode in ("keep", "give"):
        result = subprocess.run([sys.executable, "-c", code, mode], capture_output=True, text=True)
        if "no glibc" in result.stderr:
            pytest.skip("the C library is not glibc")
        counts[mode] = int(result.stdout)
    assert counts["keep"] < 100
    assert counts["give"] > 1000 or counts["give"] < 100  # large pages may be on, then there is nothing to gain


# ---- memory ----------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells it")
def test_peak_memory_is_of_this_process_alone():
    """It grows by what is touched, stays when that is freed, and a process that is started does not inherit it."""
    ask = "import torch, pctransformer.training.memory as m; print(m.peak_memory_mb(torch.device('cpu')))"
    script = f"""
import subprocess, sys
{ask}
torch.ones(10**8)
print(m.peak_memory_mb(torch.device("cpu")), flush=True)
subprocess.run([sys.executable, "-c", {ask!r}], check=True)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, after, of_child = map(int, result.stdout.split())
    assert after - before == pytest.approx(400, abs=20)
    assert of_child == pytest.approx(before, abs=50)


@pytest.mark.cuda
def test_peak_memory_of_a_gpu_is_that_of_tensors():
    torch.ones(10**8, device="cuda")
    assert 400 <= peak_memory_mb(torch.device("cuda")) < 10_000


# ---- run folders -----------------------------------------------------------------------------------------------------
def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="exists already and is not overwritten; give another"):
        RunFolder(tmp_path / "other").create()
    RunFolder(tmp_path / "run").create()
    RunFolder(tmp_path / "run").write_json("settings.json", {})
    with pytest.raises(UserError, match=r"--resume .*run goes on with it"):
        RunFolder(tmp_path / "run").create()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="exists already"):
        RunFolder(tmp_path / "file").create()
    with pytest.raises(UserError, match="cannot be made"):
        RunFolder(tmp_path / "file" / "below").create()


def test_an_empty_folder_may_be_used(tmp_path):
    (tmp_path / "run").mkdir()
    RunFolder(tmp_path / "run").create()
    assert (tmp_path / "run" / "checkpoints").is_dir()


def test_only_runs_are_opened(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        RunFolder.open(tmp_path / "none")
    with pytest.raises(UserError, match=r"settings\.json is missing"):
        RunFolder.open(tmp_path)


def test_who_does_not_lead_writes_nothing(tmp_path):
    folder = RunFolder(tmp_path / "run", writes=False)
    folder.create()
    folder.log("text")
    folder.write_json("a.json", {})
    folder.write_metrics([{"epoch": 1}])
    assert list(tmp_path.iterdir()) == []


def test_metrics_are_a_table_too(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    rows = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "oa": 0.5}]
    folder.write_metrics(rows)
    assert folder.metrics() == rows
    assert (folder.path / "metrics.csv").read_text() == "epoch,loss,oa\n1,0.5,\n2,0.25,0.5\n"


def test_numbers_are_free(tmp_path):
    assert numbered(tmp_path / "a") == tmp_path / "a"
    (tmp_path / "a").mkdir()
    (tmp_path / "a-2").mkdir()
    assert numbered(tmp_path / "a") == tmp_path / "a-3"


def test_the_environment_says_what_a_run_depends_on():
    around = environment(torch.device("cpu"), 1)
    assert around["torch"] == torch.__version__
    assert json.loads(json.dumps(around)) == around
    assert same_run(around, around) == []
    assert same_run({**around, "torch": "1.0"}, around) == [f"torch was 1.0, is {torch.__version__}"]
