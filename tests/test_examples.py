"""Every script in examples/ runs, as a user calls it, on little data."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pctransformer.datasets import write_ply
from pctransformer.datasets.samples import generator_for
from pctransformer.datasets.shapes import make_sample
from tests.trained import write_checkpoint

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder to work in, with a folder of somebody's data."""
    root = tmp_path_factory.mktemp("examples")
    for name in ("cup", "lamp"):
        (root / "own" / name).mkdir(parents=True)
        for i in range(15):
            write_ply(root / "own" / name / f"{i}.ply", make_sample(name, 300, generator_for(7, i)).xyz.numpy())
    return root


def run(workplace: Path, name: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=workplace, env=environment, timeout=500)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_modelnet_then_own_data(workplace):
    output = run(workplace, "modelnet.py", "own", "--epochs", "1", "--points", "64")
    assert "\nOA 0." in output or "\nOA 1." in output
    output = run(workplace, "own_data.py", "runs/pct_small-own", "own", "own/cup/0.ply", "--epochs", "1")
    answer = output.splitlines()[-2:]
    assert {line.split()[0] for line in answer} == {"cup", "lamp"}
    assert sum(float(line.split()[1].rstrip("%")) for line in answer) == pytest.approx(100, abs=0.2)
    assert (workplace / "runs" / "pct_small-own-2" / "results.json").exists()


def test_view_attention(workplace):
    """Of a model of random weights."""
    write_checkpoint(workplace / "looked" / "checkpoints" / "best.safetensors")
    output = run(workplace, "view_attention.py", "looked", "own/cup/0.ply")
    for method in ("rollout", "last_layer", "gradient_attention", "grad_cam", "saliency"):
        assert (workplace / f"{method}.html").stat().st_size > 1000
        assert f"{method}.html: most at [" in output
    assert output.splitlines()[-1].startswith("head: children, 1 queries")


def test_pretraining(workplace):
    sizes = ["--epochs", "1", "--points", "64", "--shapes", "190", "--fraction", "0.2"]
    output = run(workplace, "pretraining.py", *sizes)
    assert output.splitlines()[-1].startswith("OA 0.")
    assert output.splitlines()[-1].endswith(" not")
    assert (workplace / "runs" / "point_mae_small-generated-2" / "results.json").exists()


def test_compare_mixers(workplace):
    sizes = ["--epochs", "1", "--points", "64", "--shapes", "76", "--mixers", "shift", "mean_pool"]
    lines = run(workplace, "compare_mixers.py", *sizes).splitlines()[-2:]
    assert {line.split()[0] for line in lines} == {"shift", "mean_pool"}
    assert [float(line.split()[-1]) for line in lines] == sorted(
        (float(line.split()[-1]) for line in lines), reverse=True
    )


def test_shapenet_parts(workplace):
    sizes = ["--epochs", "1", "--points", "64", "--shapes", "76", "--model", "pointnet2_small_seg"]
    lines = run(workplace, "shapenet_parts.py", "generated", *sizes).splitlines()
    assert lines[-7].startswith("instance mIoU 0.")
    assert all(", IoU " in line for line in lines[-6:-1])
    assert lines[-1].startswith("PartPrediction('test_0000', airplane: fuselage ")


def test_kitti_detection(workplace):
    output = run(workplace, "kitti_detection.py", "generated", "--epochs", "1", "--scans", "8")
    assert "\nmean AP of moderate objects: from above " in output
    assert "DetectionPrediction('1000000', " in output
    assert (workplace / "runs" / "pointpillars_small-generated" / "scan.png").exists()


def test_plain_pytorch(workplace):
    output = run(workplace, "plain_pytorch.py", "--epochs", "2", "--shapes", "76")
    assert output.count("OA ") == 2
    assert output.startswith("epoch 1: OA 0.")


def test_no_example_is_left_out():
    tested = Path(__file__).read_text()
    assert [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in tested] == []
