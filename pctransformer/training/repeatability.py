"""Training that repeats exactly: the same settings on the same machine give the same bits, resumed or not.

Nothing random has a state that would have to be saved. The order of an epoch comes from (seed, epoch), a sample's
changes from (seed, epoch, index), drop-out from (seed, step, rank): each step starts its own stream.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

import torch

from pctransformer.datasets.samples import generator_for

_ORDER, _STEP = 2**32 - 1, 2**32 - 2  # larger than any index of a sample: streams of their own


def order_of_epoch(count: int, seed: int, epoch: int) -> torch.Tensor:
    """(count,) int64: the samples of an epoch, shuffled."""
    return torch.randperm(count, generator=generator_for(seed, epoch, _ORDER))


def start_step(seed: int, step: int, rank: int = 0) -> None:
    """Seed torch's own generators, from which drop-out draws, for one step of one process."""
    torch.manual_seed(generator_for(seed, step, _STEP, rank).initial_seed())


@contextlib.contextmanager
def repeatable_kernels(device: torch.device) -> Iterator[None]:
    """On CPU only kernels that repeat exactly; afterwards as before.

    On CUDA some of torch's kernels add in any order, so that runs agree to rounding only.
    """
    if device.type != "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads it
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]


_MALLOPT = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 512 * 2**20), "M_MMAP_MAX": (-4, 0)}


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed instead of giving it back to the system with every large tensor.

    Given back, each page of a new tensor has to be fetched again: more than half the time of a training step on a CPU.
    It holds for the whole process, and for what is allocated from now on; call it early.

    Returns:
        whether there is a glibc to tell.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all([mallopt(parameter, value) for parameter, value in _MALLOPT.values()])
