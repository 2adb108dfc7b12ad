"""How much memory a training takes."""

from __future__ import annotations

from pathlib import Path

import torch


def peak_memory_mb(device: torch.device) -> int | None:
    """Most memory so far, in units of 10^6 bytes: what tensors took on a GPU, or this whole process in main memory.

    Linux knows the latter; elsewhere it is None. It is not `getrusage`'s number, which a process inherits from the one
    that started it.
    """
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        kibibytes = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None
    return round(int(kibibytes) * 1024 / 1e6)
