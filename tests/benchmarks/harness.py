"""Timing for the scripts of this folder: ours and every installed peer, in one process, in the same rounds.

    python -m tests.benchmarks.sampling --threads 1 --json results.jsonl

Import this module before numpy and torch: it fixes the number of threads and the memory settings first. A peer that is
not installed gives no row. Machines are shared and noisy, so each round runs every candidate once and the table quotes
medians; compare ratios of one run, and distrust two-thread rows where cpu/wall is near 1.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=1, help="CPU threads (1 pins the process to one core)")
parser.add_argument("--rounds", type=int, default=7, help="timed rounds after the warm-up")
parser.add_argument("--case", default="", help="only cases that match this regular expression")
parser.add_argument("--only", default="", help="only candidates that match this regular expression")
parser.add_argument(
    "--device", default="cpu", choices=("cpu", "cuda"), help="where ours runs; peers on CPU are left out on cuda"
)
parser.add_argument(
    "--malloc", default="tuned", choices=("tuned", "default"), help="glibc keeps freed memory (tuned) or returns it"
)
parser.add_argument("--cap", type=float, default=3.0, help="seconds above which a candidate runs once only")
parser.add_argument("--json", help="append one line per row to this file")
args, _ = parser.parse_known_args()

# With its default settings glibc returns every large tensor to the system, and page faults take longer than the work.
_TUNED = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
if args.malloc == "tuned" and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
    os.execve(sys.executable, sys.orig_argv, os.environ | _TUNED)
for variable in ("OMP", "MKL", "OPENBLAS", "NUMBA", "RAYON"):
    os.environ[f"{variable}_NUM_THREADS"] = str(args.threads)
# Active waiting on two threads, or libraries with their own pools sleep and wake between short regions.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE" if args.threads == 1 else "ACTIVE")
if args.threads == 1:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # also for pools that do not listen to the variables above

import numpy as np  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(args.threads)


def peer(name: str) -> Any:
    """The module `name`, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except Exception:  # a broken install must not stop the others
        return None


# ---- clouds ----------------------------------------------------------------------------------------------------------
def objects(points: int, count: int, seed: int = 0) -> torch.Tensor:
    """(count, points, 3) surfaces of boxes with noise, in the unit sphere: like normalised CAD shapes."""
    random = np.random.default_rng(seed)
    clouds = []
    for _ in range(count):
        cloud = random.uniform(-1, 1, (points, 3))
        cloud[np.arange(points), random.integers(0, 3, points)] = random.choice([-1.0, 1.0], points)
        cloud = cloud * random.uniform(0.3, 1, 3) + random.normal(0, 0.01, (points, 3))
        cloud -= cloud.mean(0)
        clouds.append(cloud / np.linalg.norm(cloud, axis=1).max())
    return torch.from_numpy(np.stack(clouds).astype(np.float32))


def room(points: int, seed: int = 0) -> torch.Tensor:
    """(points, 3) a room of extent 1: walls, floor, ceiling and twenty boxes, in random order."""
    random = np.random.default_rng(seed)
    walls = random.uniform(0, 1, (points // 2, 3))
    walls[np.arange(len(walls)), random.integers(0, 3, len(walls))] = random.integers(0, 2, len(walls))
    rest = points - len(walls)
    box = random.integers(0, 20, rest)
    surface = random.uniform(-1, 1, (rest, 3))
    surface[np.arange(rest), random.integers(0, 3, rest)] = random.choice([-1.0, 1.0], rest)
    boxes = random.uniform(0.1, 0.9, (20, 3))[box] + surface * random.uniform(0.03, 0.15, (20, 3))[box]
    cloud = np.concatenate([walls, boxes]) + random.normal(0, 0.002, (points, 3))
    return torch.from_numpy(cloud[random.permutation(points)].astype(np.float32))


def lidar(points: int = 120_000, seed: int = 0) -> torch.Tensor:
    """(points, 3) a sweep of a spinning 64-beam scanner over a road between walls and cars, in scan order, metres."""
    random = np.random.default_rng(seed)
    elevation = np.deg2rad(np.linspace(2.0, -24.8, 64))[:, None]
    azimuth = np.linspace(-np.pi, np.pi, 2600, endpoint=False)[None]
    ray = np.stack(
        np.broadcast_arrays(
            np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)
        ),
        -1,
    ).reshape(-1, 3)
    with np.errstate(divide="ignore"):
        distance = np.where(ray[:, 2] < -1e-3, -1.73 / ray[:, 2], np.inf)
    for i in range(120):
        wall = i < 40
        size = (
            random.uniform([5, 0.3, 2.5], [20, 8, 9]) if wall else np.array([4.2, 1.8, 1.6]) * random.uniform(0.8, 1.3)
        )
        centre = np.array(
            [
                random.uniform(-75, 75),
                random.choice([-1, 1]) * (random.uniform(12, 40) if wall else random.uniform(2.5, 25)),
            ]
        )
        turn = random.uniform(-0.3, 0.3)
        rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        origin = np.r_[rotation @ -centre, 1.73 - size[2] / 2]
        local = np.c_[ray[:, :2] @ rotation.T, ray[:, 2]]
        with np.errstate(divide="ignore", invalid="ignore"):
            a, b = (-size / 2 - origin) / local, (size / 2 - origin) / local
        near, far = np.minimum(a, b).max(1), np.maximum(a, b).min(1)
        distance = np.where((near < far) & (near > 1), np.minimum(distance, near), distance)
    hit = np.flatnonzero(distance < 80)
    cloud = ray[hit] * (distance[hit] + random.normal(0, 0.02, len(hit)))[:, None]
    keep = np.sort(random.permutation(len(hit))[:points])
    assert len(keep) == points, f"the scene returns only {len(hit)} points"
    return torch.from_numpy(cloud[keep].astype(np.float32))


# ---- timing ----------------------------------------------------------------------------------------------------------
def once(function: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of one call; on CUDA the time between two events."""
    if args.device == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3, 0.0
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h


def peak_memory(function: Callable[[], Any]) -> float:
    """Most memory during one call above what was taken before, in 10^6 bytes: of the process, or of the GPU."""
    if args.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    libc = ctypes.CDLL("libc.so.6")
    # Tensors come from the system and go back to it at once: what malloc keeps for later is no memory of this call's.
    libc.mallopt(_MMAP_THRESHOLD, 1 << 16)
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _process_memory("VmRSS")
    try:
        function()
        return (_process_memory("VmHWM") - before) * 1024 / 1e6
    finally:
        libc.mallopt(_MMAP_THRESHOLD, int(os.environ.get("MALLOC_MMAP_THRESHOLD_", 1 << 17)))


def _process_memory(field: str) -> int:
    """KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def bench(
    case: str,
    candidates: dict[str, Callable[[], Any]],
    check: Callable[[str, Any], str] | None = None,
    items: int = 0,
    memory: bool = False,
) -> None:
    """Time every candidate and print a table, fastest first.

    Args:
        case: what is timed, with its sizes.
        candidates: name to a function without arguments; ours have names that begin with "ours".
        check: given a name and that candidate's result, says in a few words whether it is right.
        items: how many things one call handles, if the table should also say how many a second.
        memory: whether the table should also say how much memory a call takes at most.
    """
    if not re.search(args.case, case):
        return
    times: dict[str, list[float]] = {}
    busy: dict[str, list[float]] = {}
    notes: dict[str, str] = {}
    peaks: dict[str, float] = {}
    for name, function in candidates.items():
        if not re.search(args.only, name):
            continue
        try:
            result = function()
            notes[name] = check(name, result) if check else ""
            del result
            if memory:
                peaks[name] = peak_memory(function)
        except Exception as error:
            print(f"   {name}: {type(error).__name__}: {str(error)[:120]}")
            continue
        wall, cpu = once(function)
        times[name], busy[name] = ([wall], [cpu]) if wall > args.cap else ([], [])
    for _ in range(args.rounds):
        for name in times:
            if times[name] and times[name][0] > args.cap:
                continue
            wall, cpu = once(candidates[name])
            times[name].append(wall)
            busy[name].append(cpu)
    if not times:
        return
    median = {name: statistics.median(values) for name, values in times.items()}
    peers = [value for name, value in median.items() if not name.startswith("ours")]
    print(f"\n### {case}  [{args.device}, threads {args.threads}, rounds {args.rounds}, malloc {args.malloc}]")
    further = f"{' per second |' if items else ''}{'  peak MB |' if memory else ''}"
    head = f"| {'':32s} | median ms |    min ms | cpu/wall | x ours |{further} check |"
    print(head + "\n|" + "---|" * (head.count("|") - 1))
    ours = min((value for name, value in median.items() if name.startswith("ours")), default=float("nan"))
    for name in sorted(median, key=lambda name: median[name]):
        ratio = sum(busy[name]) / max(1e-9, sum(times[name]))
        low = min(times[name])
        rate = f" {items / median[name]:10.4g} |" if items else ""
        peak = f" {peaks[name]:8.0f} |" if memory else ""
        print(
            f"| {name:32s} | {median[name] * 1e3:9.3f} | {low * 1e3:9.3f} | {ratio:8.2f} "
            f"| {median[name] / ours:6.2f} |{rate}{peak} {notes[name]} |"
        )
        if args.json:
            row = {
                "case": case,
                "name": name,
                "median_ms": median[name] * 1e3,
                "min_ms": low * 1e3,
                "cpu_per_wall": ratio,
                "cpu_ms": statistics.median(busy[name]) * 1e3,
                "threads": args.threads,
                "device": args.device,
                "malloc": args.malloc,
                "check": notes[name],
            }
            if items:
                row["per_second"] = items / median[name]
            if memory:
                row["peak_mb"] = peaks[name]
            with open(args.json, "a") as file:
                file.write(json.dumps(row) + "\n")
    if peers:
        print(f"best peer / ours = {min(peers) / ours:.2f}")
    sys.stdout.flush()


def describe_machine() -> str:
    """One line: processor, torch, commit."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown CPU")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    gpu = f", {torch.cuda.get_device_name()}" if args.device == "cuda" else ""
    return f"{cpu}{gpu}, torch {torch.__version__}, commit {commit or 'unknown'}"
