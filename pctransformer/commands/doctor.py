"""`pctransformer doctor`: what is installed, what is missing, what that costs, and the line that installs it.

Optional packages are only looked up, not imported (importing spconv alone takes 8 s); `--imports` imports each in a
process of its own.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pctransformer


@dataclass(frozen=True)
class Config:
    json: bool = False
    """Print JSON instead of a table."""
    imports: bool = False
    """Import every package, each in a process of its own, and time it."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    state: Literal["ok", "missing", "broken", "info"]
    detail: str
    required: bool = False
    cost: str = ""
    """What does not work without it."""
    install: str = ""
    """The line that mends it."""

    @property
    def is_fault(self) -> bool:
        return self.state in ("missing", "broken")


@dataclass(frozen=True)
class Package:
    """A Python package: the module to import, the distributions that bring it, and what is lost without it."""

    module: str
    distributions: tuple[str, ...]
    cost: str
    required: bool = False
    install: str = ""
    libraries: tuple[str, ...] = ()
    """Shared libraries that it needs from the system."""
    system: str = ""
    """The line that installs them on Debian and Ubuntu."""


REQUIRED = tuple(
    Package(name, (name,), cost, required=True, install=f"pip install {name}")
    for name, cost in {
        "numpy": "nothing works",
        "scipy": "no matching of predictions to objects",
        "safetensors": "no checkpoints",
        "tyro": "no command line",
        "rich": "no tables on the terminal",
        "matplotlib": "no pictures",
        "h5py": "no HDF5 data sets",
        "trimesh": "no meshes",
    }.items()
)
_SPCONV = "spconv-cu120" if sys.version_info < (3, 12) else "spconv-cu126"
OPTIONAL = (
    Package(
        "open3d",
        ("open3d", "open3d-cpu"),
        "no generated streets, no 3-D windows; pictures fall back to matplotlib",
        install="pip install open3d",
        libraries=("libusb-1.0.so.0", "libGL.so.1", "libEGL.so.1", "libgomp.so.1", "libX11.so.6"),
        system="apt-get install libusb-1.0-0 libgl1 libegl1 libgomp1 libx11-6 libvulkan1 mesa-vulkan-drivers",
    ),
    Package(
        "spconv",
        ("spconv-cu120", "spconv-cu126", "spconv-cu124", "spconv-cu121", "spconv-cu118", "spconv"),
        "no sparse convolutions by spconv",
        install=f"pip install {_SPCONV}",
    ),
    Package(
        "torch_scatter",
        ("torch-scatter",),
        "no backend='torch_scatter'; the package's own segment operators do the same",
        install="pip install --no-build-isolation torch-scatter",
    ),
)


# ---- looking ---------------------------------------------------------------------------------------------------------
def _version(distributions: tuple[str, ...]) -> str:
    for name in distributions:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "version unknown"


def _can_load(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _import_in_process(module: str) -> tuple[bool, str]:
    """Whether a fresh Python can import `module`, and its seconds or the last line of its error."""
    begin = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if result.returncode == 0:
        return True, f"imported in {seconds:.1f} s"
    lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
    return False, lines[-1]


def _look_for(package: Package, imports: bool) -> Finding:
    def finding(state: Literal["ok", "missing", "broken"], detail: str, install: str = package.install) -> Finding:
        cost, install = ("", "") if state == "ok" else (package.cost, install)
        return Finding(package.module, state, detail, package.required, cost, install)

    if importlib.util.find_spec(package.module) is None:
        return finding("missing", "not installed")
    version = _version(package.distributions)
    lacking = [library for library in package.libraries if not _can_load(library)]
    if lacking:
        return finding("broken", f"{version}; system lacks {', '.join(lacking)}", package.system)
    if imports:
        module = "spconv.pytorch" if package.module == "spconv" else package.module
        works, note = _import_in_process(module)
        return finding("ok" if works else "broken", f"{version}, {note}")
    return finding("ok", version)


def _look_for_torch() -> list[Finding]:
    install = "pip install torch==2.13.0"
    nothing = "nothing works"
    try:
        import torch
    except ImportError as error:
        state: Literal["missing", "broken"] = "broken" if importlib.util.find_spec("torch") else "missing"
        return [Finding("torch", state, str(error), required=True, cost=nothing, install=install)]
    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    detail = f"{torch.__version__} ({built_for}), {torch.get_num_threads()} threads of {os.cpu_count()} processors"
    if tuple(map(int, torch.__version__.split("+")[0].split(".")[:2])) < (2, 11):
        return [Finding("torch", "broken", f"{detail}; 2.11 or newer is needed", True, nothing, install)]
    return [Finding("torch", "ok", detail, required=True), _gpu(), *_operators()]


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        described = "; ".join(f"{p.name}, {p.total_memory / 2**30:.0f} GiB, sm_{p.major}{p.minor}" for p in names)
        return Finding("GPU", "ok", described)
    if shutil.which("nvidia-smi"):
        why = "its driver is too old or none is visible" if torch.version.cuda else "this torch was built for CPU only"
        cost = "everything runs on the CPU"
        return Finding("GPU", "broken", f"nvidia-smi is there, but {why}", False, cost, "see pytorch.org, Get started")
    return Finding("GPU", "info", "none; everything runs on the CPU")


def _operators() -> list[Finding]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what is reported here
        from pctransformer.ops import _library

    cost = "operators run in plain torch: the same results, slowly"
    build = "pip install --force-reinstall --no-deps .   (in the source folder, with g++ and, for CUDA, nvcc on PATH)"
    findings = []
    for device, reason in _library.missing.items():
        name = f"operators, {device.upper()}"
        if reason is None:
            findings.append(Finding(name, "ok", "compiled library loaded"))
        else:
            findings.append(Finding(name, "missing", reason, cost=cost, install=build))
    return findings


def _data_folder() -> Finding:
    value = os.environ.get("PCTRANSFORMER_DATA")
    if not value:
        return Finding("data folder", "info", "PCTRANSFORMER_DATA is not set; tests on real data look for shared/data")
    folder = Path(value).resolve()
    if folder.is_dir():
        return Finding("data folder", "info", f"{folder} (PCTRANSFORMER_DATA)")
    detail = f"{folder} (PCTRANSFORMER_DATA) does not exist"
    return Finding("data folder", "missing", detail, cost="tests on real data skip", install=f"mkdir -p {folder}")


def examine(imports: bool = False) -> list[Finding]:
    """Everything that the report says, in its order."""
    machine = f"{platform.system()} {platform.machine()}"
    return [
        Finding("pctransformer", "ok", f"{pctransformer.__version__} in {Path(pctransformer.__file__).parent}"),
        Finding("python", "ok", f"{platform.python_version()} on {machine}, {sys.executable}"),
        *_look_for_torch(),
        *(_look_for(package, imports) for package in REQUIRED + OPTIONAL),
        _data_folder(),
    ]


# ---- telling ---------------------------------------------------------------------------------------------------------
_MARKS = {"ok": "[green]ok[/]", "missing": "[yellow]missing[/]", "broken": "[red]broken[/]", "info": "[dim]-[/]"}


def _print_table(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("", "", "what is there"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        needed = " [red](required)[/]" if finding.is_fault and finding.required else ""
        table.add_row(finding.name, _MARKS[finding.state] + needed, escape(finding.detail))
    console.print(table)
    faults = [finding for finding in findings if finding.is_fault]
    for finding in faults:
        console.print(
            f"\n{finding.name}: {escape(finding.cost)}\n  [bold]{escape(finding.install)}[/]", highlight=False
        )
    if not faults:
        console.print("\nEverything is there.")


def run(config: Config) -> int:
    """Print the report; 0 where everything that is required works, else 1."""
    findings = examine(config.imports)
    healthy = not any(finding.is_fault and finding.required for finding in findings)
    if config.json:
        report = {"healthy": healthy, "findings": [dataclasses.asdict(finding) for finding in findings]}
        print(json.dumps(report, indent=2))
    else:
        _print_table(findings)
    return 0 if healthy else 1
