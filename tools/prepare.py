"""Prepares the virtual environment that the Makefile uses: standard library only, and instant when nothing changed.

    python3 tools/prepare.py test --torch torch==2.13.0

The environment is the active one ($VIRTUAL_ENV), else .venv, which is made. What was done is written into
<environment>/pctransformer.json, keyed by what it depends on, so that only what changed is done again. What is optional
may fail: then a line says what is lost.
"""

from __future__ import annotations

import argparse
import ctypes
import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = Path(os.environ.get("VIRTUAL_ENV") or ROOT / ".venv")
PYTHON = str(ENVIRONMENT / "bin" / "python")
STAMPS = ENVIRONMENT / "pctransformer.json"
LOG = ENVIRONMENT / "pctransformer-setup.log"

TORCH = "torch==2.13.0"
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"

# What Open3D needs to be imported and, with the last two, to draw without a display: Debian package -> file it brings.
SYSTEM_LIBRARIES = {
    "libusb-1.0-0": "libusb-1.0.so.0",
    "libgl1": "libGL.so.1",
    "libegl1": "libEGL.so.1",
    "libgomp1": "libgomp.so.1",
    "libx11-6": "libX11.so.6",
    "libvulkan1": "libvulkan.so.1",
    "mesa-vulkan-drivers": "/usr/share/vulkan/icd.d/*.json",
}


class Failed(Exception):
    """A step did not work; the text says what the user can do."""


def run(*command: str) -> None:
    with open(LOG, "a") as log:
        print("$", *command, file=log, flush=True)
        if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT).returncode:
            raise Failed(f"`{' '.join(command)}` failed")


def output(*command: str) -> str:
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    ).stdout.strip()


def pip(*arguments: str) -> None:
    run(PYTHON, "-m", "pip", "--disable-pip-version-check", "install", *arguments)


def apt(*packages: str) -> None:
    """Install Debian packages where we may, else say how."""
    line = "apt-get install -y --no-install-recommends " + " ".join(packages)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Failed(f"needs, as root on Debian or Ubuntu:  {line}")
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    run("apt-get", "update")
    run(*line.split())


# ---- steps -----------------------------------------------------------------------------------------------------------
def make_environment() -> None:
    if sys.version_info < (3, 10):  # noqa: UP036 - this file runs before anybody checked
        sys.exit(
            f"Python 3.10 or newer is needed; {sys.executable} is {sys.version.split()[0]}. Try make PYTHON=python3.12"
        )
    if Path(PYTHON).exists():
        return
    print(f"· virtual environment {ENVIRONMENT}", flush=True)
    if subprocess.run([sys.executable, "-c", "import ensurepip"], stderr=subprocess.DEVNULL).returncode:
        ENVIRONMENT.mkdir(parents=True, exist_ok=True)
        apt("python3-venv")
    subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)


def system_libraries() -> None:
    missing = [package for package, file in SYSTEM_LIBRARIES.items() if not _has_library(file)]
    if missing:
        apt(*missing)


def _has_library(file: str) -> bool:
    if file.startswith("/"):
        return bool(glob.glob(file))
    try:
        ctypes.CDLL(file)
    except OSError:
        return False
    return True


def compiler() -> None:
    if not has_compiler():
        apt("g++")


def torch(requirement: str) -> None:
    """Torch as asked for. Unasked: none where 2.11 or newer is there already, and one without CUDA where no GPU is."""
    if not requirement and output(PYTHON, "-c", "import torch; print(torch.__version__ >= (2, 11))") == "True":
        return
    options = (requirement or TORCH).split()
    if not requirement and not _has_gpu() and _brings_cuda(options):
        options += ["--index-url", CPU_WHEELS]
    pip(*options)


def _has_gpu() -> bool:
    return bool(shutil.which("nvidia-smi")) and bool(output("nvidia-smi", "-L"))


def _brings_cuda(options: list[str]) -> bool:
    """Whether pip would download the CUDA libraries, gigabytes, with this torch."""
    dry = ["-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--report", "-", *options]
    report = output(PYTHON, *dry)
    needs = json.loads(report)["install"][0]["metadata"].get("requires_dist", []) if report else []
    return any(need.startswith(("nvidia-", "cuda-")) for need in needs)


def package() -> None:
    """The package itself, editable, with its compiled operators: CUDA ones where torch and nvcc can use them."""
    cuda = shutil.which("nvcc") and output(PYTHON, "-c", "import torch; print(torch.version.cuda or '')")
    option = "--config-settings"  # its short form, -C, is younger than Debian's pip
    settings = [option, f"cmake.define.PCT_CUDA={'AUTO' if cuda else 'OFF'}"]
    if cuda and _has_gpu():
        capabilities = output("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader").replace(".", "")
        settings += [
            "--config-settings",
            f"cmake.define.CMAKE_CUDA_ARCHITECTURES={';'.join(sorted(set(capabilities.split())))}",
        ]
    pip("-e", ".", *settings)
    installed = output(PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))")
    if not Path(installed, "pctransformer", "_cpu.so").exists():
        print(f"  NOT compiled: operators run in plain torch, slowly. Why: {LOG}", flush=True)


def has_compiler() -> bool:
    return any(map(shutil.which, ("c++", "g++", "clang++")))


def extra(name: str, module: str, *options: str) -> None:
    """An optional dependency of the installed package, and whether it can be imported."""
    if "--no-build-isolation" in options:
        pip("setuptools", "wheel")
    pip(f"pctransformer[{name}]", *options)
    if subprocess.run(
        [PYTHON, "-c", f"import {module}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ).returncode:
        raise Failed(f"{module} is installed but cannot be imported; `pctransformer doctor --imports` shows why")


# ---- which steps, and when -------------------------------------------------------------------------------------------
def hash_of(*patterns: str) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()):
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Step:
    name: str
    seconds: int  # on two cores
    key: str  # the step is done again when this changes
    action: Callable[[], None]
    lost: str = ""  # what is lost without it; a step without such words must succeed


def steps(purpose: str, torch_requirement: str) -> list[Step]:
    settings = hash_of("pyproject.toml")
    sources = hash_of("pyproject.toml", "CMakeLists.txt", "csrc/**/*") + f" compiler: {has_compiler()}"
    chosen = [
        Step("C++ compiler", 30, "1", compiler, "operators run in plain torch, slowly"),
        Step("torch", 90, torch_requirement, lambda: torch(torch_requirement)),
        Step("pctransformer, compiling its operators", 60, sources, package),
    ]
    if purpose in ("demo", "test"):
        no_windows = "no 3-D windows; pictures are drawn by matplotlib"
        libraries = " ".join(SYSTEM_LIBRARIES)
        chosen += [
            Step("system libraries of Open3D", 20, libraries, system_libraries, no_windows),
            Step("Open3D", 30, settings, lambda: extra("open3d", "open3d"), no_windows),
            Step("spconv", 20, settings, lambda: extra("spconv", "spconv"), "no sparse convolutions by spconv"),
        ]
    if purpose in ("develop", "test"):
        chosen += [Step("test and lint tools", 20, settings, lambda: pip("pctransformer[dev]"))]
    if purpose == "test":
        scatter = lambda: extra("scatter", "torch_scatter", "--no-build-isolation")  # noqa: E731
        lost = "tests that compare with it are skipped"
        chosen += [Step("torch-scatter, compiled from source", 260, settings, scatter, lost)]
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description="Prepare the virtual environment that the Makefile uses.")
    parser.add_argument("purpose", choices=("demo", "develop", "test"))
    parser.add_argument("--torch", default="", help=f"what pip installs as torch, options included (default {TORCH})")
    arguments = parser.parse_args()
    try:
        make_environment()
    except Failed as failure:
        sys.exit(f"no virtual environment: {failure}")
    done = json.loads(STAMPS.read_text()) if STAMPS.exists() else {}
    for step in steps(arguments.purpose, arguments.torch):
        key, failed = done.get(step.name, (None, False))
        if key != step.key:
            print(f"· {step.name} (about {step.seconds} s) ...", flush=True)
            begin, failed = time.monotonic(), False
            try:
                step.action()
                print(f"  done in {time.monotonic() - begin:.0f} s", flush=True)
            except Failed as failure:
                print(f"  {failure}\n  details: {LOG}", flush=True)
                failed = True
            if failed and not step.lost:
                sys.exit(1)
            done[step.name] = step.key, failed
            STAMPS.write_text(json.dumps(done, indent=2))
        if failed:
            print(f"· without {step.name}: {step.lost}; `pctransformer doctor` tells more", flush=True)


if __name__ == "__main__":
    main()
