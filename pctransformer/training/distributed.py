"""One process or many: `torchrun --nproc-per-node 4 -m pctransformer train classification ...` is the same training.

Batch sizes are global, each process takes its share. Batch norm is synchronised on CUDA; on CPU torch has no such
layer, so that each process normalises by its own share there, and results depend on the number of processes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor, nn

from pctransformer.errors import UserError

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """The processes that train together, seen from one of them."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> tuple[nn.Module, nn.Module]:
        """The model on the device, and what to call in training: with several processes it averages their gradients."""
        model = model.to(self.device)
        if self.size == 1:
            return model, model
        if self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return model, nn.parallel.DistributedDataParallel(model)

    def without_averaging(self, wrapped: nn.Module) -> contextlib.AbstractContextManager[None]:
        """While it lasts gradients add up in each process alone."""
        if isinstance(wrapped, nn.parallel.DistributedDataParallel):
            return wrapped.no_sync()
        return contextlib.nullcontext()

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size == 1:
            return values
        values = values.to(self.device, copy=True)
        torch.distributed.all_reduce(values)
        return values

    def gather(self, values: list[Value]) -> list[Value]:
        """The values of all processes, those of the first one first."""
        if self.size == 1:
            return values
        lists: list[list[Value]] = [[] for _ in range(self.size)]
        torch.distributed.all_gather_object(lists, values)
        return [value for own in lists for value in own]

    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Give these tensors in every process the values that they have in the first."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            torch.distributed.barrier()


def choose_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"{name!r} is no device; give cpu, cuda or cuda:0") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"there is no device {name} here; `pctransformer doctor` says why. --device cpu always works")
    return device


@contextlib.contextmanager
def join_world(device: str) -> Iterator[World]:
    """The processes that torchrun has started, or this one alone."""
    size, rank, local = (
        int(os.environ.get(name, n)) for name, n in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0))
    )
    chosen = choose_device(device)
    if size == 1:
        yield World(chosen)
        return
    if chosen.type == "cuda":
        chosen = choose_device(f"cuda:{local}")
        torch.cuda.set_device(chosen)
    torch.distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(chosen, rank, size)
    finally:
        torch.distributed.destroy_process_group()
