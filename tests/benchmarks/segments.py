"""Segments and scattered groups: ours, torch's index_add / scatter_reduce / segment_reduce, and torch_scatter."""

from __future__ import annotations

from tests.benchmarks.harness import args, bench, describe_machine, peer

# isort: split
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pctransformer.ops import scatter, segment, segment_softmax


def run(case: str, values: Tensor, functions: dict[str, Callable[[Tensor], Tensor]]) -> None:
    """Time functions of values, forward, and forward with backward of one fixed gradient."""

    def compare(expected: Tensor) -> Callable[[str, Tensor], str]:
        return lambda _, result: f"max difference {(result.detach() - expected).abs().max():.1e}"

    expected = functions["ours"](values)
    bench(f"{case}, forward", {k: partial(f, values) for k, f in functions.items()}, compare(expected))
    leaf, grad = values.detach().requires_grad_(), torch.rand_like(expected)

    def step(function: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.autograd.grad(function(leaf), leaf, grad)[0]

    steps = {k: partial(step, f) for k, f in functions.items()}
    bench(f"{case}, forward + backward", steps, compare(steps["ours"]()))


def scattered(rows: int, columns: int, groups: int) -> None:
    """Voxel means: few rows in each of many groups, in no order."""
    torch.manual_seed(0)
    values = torch.randn(rows, columns, device=args.device)
    index = torch.randint(groups, (rows,), device=args.device)

    def index_add(values):
        count = torch.bincount(index, minlength=groups).clamp(min=1)
        return values.new_zeros(groups, columns).index_add(0, index, values) / count[:, None]

    def scatter_reduce(values):
        where = index[:, None].expand(-1, columns)
        return values.new_zeros(groups, columns).scatter_reduce(0, where, values, "mean", include_self=False)

    functions = {
        "ours": lambda values: scatter(values, index, groups, "mean"),
        "torch index_add": index_add,
        "torch scatter_reduce": scatter_reduce,
    }
    if package := peer("torch_scatter"):
        functions["torch_scatter"] = lambda values: package.scatter(values, index, 0, dim_size=groups, reduce="mean")
    run(f"scatter mean {rows} x {columns} into {groups}", values, functions)


def runs(rows: int, columns: int, length: int) -> None:
    """Neighbourhoods: segments of equal length, so that torch's reductions over (S, length, C) can compete."""
    torch.manual_seed(0)
    values = torch.randn(rows, columns, device=args.device)
    segments = rows // length
    offsets = torch.arange(segments + 1, device=args.device) * length
    index = torch.arange(segments, device=args.device).repeat_interleave(length)
    package = peer("torch_scatter")
    dense = {"mean": lambda values: values.mean(1), "max": lambda values: values.max(1).values}
    for reduce in ("mean", "max"):
        functions = {
            "ours": partial(segment, offsets=offsets, reduce=reduce),
            "torch segment_reduce": partial(torch.segment_reduce, reduce=reduce, offsets=offsets, axis=0),
            "torch dense": lambda values, reduce=dense[reduce]: reduce(values.view(segments, length, columns)),
        }
        if package:
            functions["torch_scatter"] = partial(package.segment_csr, indptr=offsets, reduce=reduce)
        run(f"segment {reduce} {rows} x {columns} in runs of {length}", values, functions)
    functions = {
        "ours": lambda values: segment_softmax(values, offsets),
        "torch dense": lambda values: values.view(segments, length, columns).softmax(1).view(rows, columns),
    }
    if package:
        functions["torch_scatter"] = lambda values: package.composite.scatter_softmax(values, index, dim=0)
    run(f"segment softmax {rows} x {columns} in runs of {length}", values, functions)


if __name__ == "__main__":
    print(describe_machine())
    scattered(120_000, 16, 41_000)
    runs(131_072, 64, 32)
