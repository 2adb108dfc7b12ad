"""csrc/torch_abi.h declares torch's C functions by itself; here torch's own headers have their say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
HEADER = ROOT / "csrc" / "torch_abi.h"
TORCH_HEADERS = Path(torch.__file__).parent / "include"
COMPILER = shutil.which("g++") or shutil.which("clang++")

pytestmark = pytest.mark.skipif(
    COMPILER is None or not TORCH_HEADERS.is_dir(), reason="needs a C++ compiler and torch's headers"
)


def compile_with_torch(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check syntax and types of torch_abi_check.cpp with the torch_abi.h that lies in `folder`."""
    source = ROOT / "tests" / "build" / "torch_abi_check.cpp"
    command = [COMPILER, "-std=c++17", "-fsyntax-only", f"-I{TORCH_HEADERS}", f"-I{folder}", str(source)]
    return subprocess.run(command, capture_output=True, text=True)


def test_declarations_agree_with_torch():
    result = compile_with_torch(HEADER.parent)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("ours", "drifted"),
    [
        ("aoti_torch_get_dim(AtenTensorOpaque*, int64_t*)", "aoti_torch_get_dim(AtenTensorOpaque*, int32_t*)"),
        ("int32_t torch_get_num_threads(", "int64_t torch_get_num_threads("),
    ],
)
def test_a_drifted_declaration_does_not_compile(tmp_path, ours, drifted):
    text = HEADER.read_text()
    assert ours in text
    (tmp_path / "torch_abi.h").write_text(text.replace(ours, drifted))
    result = compile_with_torch(tmp_path)
    assert "conflicting declaration" in result.stderr or "conflicting types" in result.stderr


def test_torch_declares_every_function_we_call():
    """A function that torch has dropped would still compile: our own declaration is all the compiler needs."""
    declared = HEADER.read_text().split('extern "C" {')[1].split("\n}\n")[0]
    functions = re.findall(r"\b((?:aoti_torch|torch)_\w+)\(", declared)
    assert len(functions) > 20
    shims = (TORCH_HEADERS / "torch/csrc/inductor/aoti_torch/c/shim.h", TORCH_HEADERS / "torch/csrc/stable/c/shim.h")
    theirs = "".join(path.read_text() for path in shims)
    # torch writes out aoti_torch_dtype_float32() and its like in full, so a plain search finds them too
    assert [name for name in functions if not re.search(rf"\b{name}\(", theirs)] == []
