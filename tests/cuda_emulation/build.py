"""Compiles .cu files for the CPU: g++ instead of nvcc, `emulation.h` in front. Seconds; nothing to call first.

Object files and libraries are kept in `build/cuda_emulation/` under names that hold a digest of all they were made
from, so that nothing is ever compiled twice and several test processes may build at once.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CSRC = ROOT / "csrc"
OUTPUT = ROOT / "build" / "cuda_emulation"
RUNTIME = HERE / "emulation.cpp"

# -ffp-contract=off as in CMakeLists.txt; _FORTIFY_SOURCE would take a jump between two stacks for an attack.
FLAGS = [
    *shlex.split("-std=c++17 -O1 -w -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno -fno-trapping-math"),
    *["-U_FORTIFY_SOURCE", "-DPCT_CUDA_EMULATION", f"-I{CSRC}", f"-I{HERE}"],
    *shlex.split(os.environ.get("PCT_EMULATION_FLAGS", "")),
]

# gcc calls emulation.cpp where one of these rules is broken; the first is the one that a GPU traps.
FLAGS_OF_KERNELS = ["-fsanitize=alignment,bounds,shift,signed-integer-overflow,float-cast-overflow"]


@cache
def missing() -> str | None:
    """Why the emulation cannot be built here, or None."""
    if sys.platform != "linux":
        return "the CUDA emulation is written for Linux"
    if not CSRC.exists():
        return "no csrc/ beside the tests"
    return None if shutil.which("g++") else "no g++ to build the CUDA emulation with"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stderr}")


def _make(command: list[str], target: Path) -> Path:
    """Run `command -o target`, unless the target is there; it appears whole or not at all."""
    if not target.exists():
        unfinished = target.with_name(f".{os.getpid()}-{target.name}")
        _run([*command, "-o", str(unfinished)])
        unfinished.replace(target)
    return target


def _compile(source: Path, flags: list[str], headers: bytes) -> Path:
    if source == RUNTIME:
        flags = [*flags, "-fno-sanitize=all"]  # sanitizers do not know that it changes stacks
    elif source.suffix == ".cu":
        flags = [*flags, *FLAGS_OF_KERNELS, "-x", "c++", "-include", "emulation.h"]
    digest = hashlib.sha256(headers + source.read_bytes() + " ".join(flags).encode()).hexdigest()[:16]
    return _make(["g++", *flags, "-c", str(source)], OUTPUT / f"{source.stem}-{digest}.o")


def build(name: str, sources: Sequence[Path], namespace: str, more_flags: Sequence[str] = ()) -> Path:
    """Compile sources and the emulation into one library whose operators are `torch.ops.<namespace>.<operator>`."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    flags = [*FLAGS, f'-DPCT_NAMESPACE="{namespace}"', *more_flags]
    version = subprocess.run(["g++", "--version"], capture_output=True, check=True).stdout
    headers = version + b"".join(path.read_bytes() for path in [*sorted(CSRC.rglob("*.h")), HERE / "emulation.h"])
    with (OUTPUT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            jobs = [pool.submit(_compile, source, flags, headers) for source in [RUNTIME, *sources]]
            objects = [job.result() for job in jobs]
        digest = hashlib.sha256(" ".join(map(str, objects)).encode()).hexdigest()[:16]
        libraries = Path(torch.__file__).parent / "lib"
        link = ["g++", "-shared", *FLAGS, *map(str, objects), f"-L{libraries}", "-ltorch_cpu", "-lc10"]
        return _make(link, OUTPUT / f"{name}-{digest}.so")


class Emulation:
    """A loaded library of emulated kernels."""

    def __init__(self, name: str, sources: Sequence[Path], namespace: str) -> None:
        path = str(build(name, sources, namespace))
        torch.ops.load_library(path)
        self._library = ctypes.CDLL(path)
        self.operators = getattr(torch.ops, namespace)

    def schedule(self, order: str, seed: int = 0) -> None:
        """Let threads and blocks run "forward", "backward" or "shuffled" from now on."""
        self._library.pct_emulation_schedule(["forward", "backward", "shuffled"].index(order), ctypes.c_uint64(seed))

    @contextmanager
    def capture(self) -> Iterator[None]:
        """As while a CUDA graph is captured: nobody may wait for the stream."""
        self._library.pct_emulation_capture(True)
        try:
            yield
        finally:
            self._library.pct_emulation_capture(False)


@cache
def package() -> Emulation:
    """All of csrc/cuda/, as torch.ops.pctransformer_emulated."""
    sources = [CSRC / "library.cpp", *sorted((CSRC / "cuda").glob("*.cu"))]
    return Emulation("_cuda_emulation", sources, "pctransformer_emulated")
