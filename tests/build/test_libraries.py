"""The compiled libraries: which are loaded, what they need from torch, and what takes over without them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pctransformer
from pctransformer.ops import _library
from tests.build.cuda_architectures import architectures

FOUND = {path.stem: path for folder in pctransformer.__path__ for path in Path(folder).glob("_c*.so")}


@pytest.mark.skipif(os.environ.get("PCTRANSFORMER_REFERENCE") == "1", reason="the reference operators were asked for")
def test_these_tests_run_on_the_compiled_operators():
    assert _library.missing["cpu"] is None
    assert _library.lacking == []  # else `make extension`


@pytest.mark.parametrize("name", ["_cpu", "_cuda"])
def test_no_symbol_of_the_torch_that_built_it(name):
    """Symbols of torch's C++ interface would tie the library to one version of torch."""
    if name not in FOUND or not shutil.which("nm"):
        pytest.skip(f"{name}.so was not built here, or there is no nm")
    listing = subprocess.run(["nm", "-DC", "--undefined-only", FOUND[name]], capture_output=True, text=True, check=True)
    assert "aoti_torch_library_init_impl" in listing.stdout
    foreign = [line for line in listing.stdout.splitlines() if any(n in line for n in ("c10::", "at::", "torch::"))]
    assert foreign == []


def test_cuda_library_holds_machine_code():
    if "_cuda" not in FOUND:
        pytest.skip("_cuda.so was not built here")
    assert any(name.startswith("sm_") for name in architectures(FOUND["_cuda"]))
    assert architectures(FOUND["_cpu"]) == set()


PLAIN_TORCH = """
import sys, warnings
sys.meta_path[:] = [finder for finder in sys.meta_path if "Redirecting" not in type(finder).__name__]  # editable
sys.path.insert(0, sys.argv[1])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from pctransformer.ops import _library, farthest_point_sample
print(_library.__file__, *(str(w.message) for w in caught if "pctransformer" in str(w.message)), sep="\\n")
import torch
print(farthest_point_sample(torch.eye(3), torch.tensor([0, 3]), 3).tolist())
"""


def test_plain_torch_takes_over_with_one_warning(tmp_path):
    source = Path(_library.__file__).parents[1]
    shutil.copytree(source, tmp_path / "pctransformer", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    environment = {name: value for name, value in os.environ.items() if name != "PCTRANSFORMER_REFERENCE"}
    result = subprocess.run(
        [sys.executable, "-c", PLAIN_TORCH, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    file, *warnings, samples = result.stdout.splitlines()
    assert file.startswith(str(tmp_path))
    assert len(warnings) == 1
    assert "plain-torch operators on cpu: _cpu.so was not built" in warnings[0]
    assert "pctransformer doctor" in warnings[0]
    assert samples == "[0, 1, 2]"
