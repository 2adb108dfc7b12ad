"""Every CUDA operator, emulated on the CPU, against the CPU operator, with threads in several orders.

To add an operator: a function that yields named arguments, and a line in OPERATORS. Results must be equal bit by bit
unless the line gives a tolerance and says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import pctransformer.ops  # noqa: F401  registers torch.ops.pctransformer
from tests.cuda_emulation import build
from tests.cuda_emulation.conftest import SCHEDULES
from tests.ops.clouds import RAGGED_SIZES, hostile, offsets_of, ragged

Cases = Iterator[tuple[str, tuple[Any, ...]]]
EMPTY_SIZES: dict[str, list[int]] = {"no clouds": [], "an empty cloud": [0], "one point": [1]}


def clouds() -> Iterator[tuple[str, Tensor, Tensor]]:
    """Packed clouds of at most some hundred points: name, xyz, offsets."""
    yield "ragged", *ragged([*RAGGED_SIZES, 600])
    for name, sizes in EMPTY_SIZES.items():
        yield name, *ragged(sizes)
    for name, xyz in hostile(100).items():
        yield name, xyz, offsets_of([60, 0, 40])


# ---- sampling --------------------------------------------------------------------------------------------------------
def farthest_point_sample() -> Cases:
    for name, xyz, offsets in clouds():
        lengths = offsets.diff()
        start = lengths.clamp_max(3).sub(1).clamp_min(0)
        sample_offsets = torch.arange(len(offsets)) * 20  # more samples than some clouds have points
        for skip_near_origin in (False, True):
            yield name, (xyz, offsets, sample_offsets, start, int(sample_offsets[-1]), skip_near_origin)
    # Blocks of 64 threads, since most clouds are empty, with as many points per thread as the kernel has variants.
    xyz, offsets = ragged([64 * points + more for points in (1, 2, 4, 8, 16, 24) for more in (0, 1)] + [0] * 60)
    sample_offsets, start = torch.arange(len(offsets)) * 6, torch.zeros(len(offsets) - 1, dtype=torch.int64)
    yield "every variant", (xyz.round(decimals=1), offsets, sample_offsets, start, int(sample_offsets[-1]), False)


# ---- neighbours ------------------------------------------------------------------------------------------------------
def searches() -> Iterator[tuple[str, tuple[Tensor, Tensor, Tensor, Tensor]]]:
    """Clouds to search and queries into them: xyz, offsets, query_xyz, query_offsets."""
    for name, xyz, offsets in clouds():
        sizes = [7 * (b % 2) for b in range(len(offsets) - 1)]
        yield name, (xyz, offsets, *ragged(sizes, seed=1))
        yield f"{name}, among themselves", (xyz, offsets, xyz, offsets)


def knn() -> Cases:
    for name, search in searches():
        for k in (1, 5, 40) if "themselves" in name else (100, 256):
            yield f"{name}, k = {k}", (*search, k)
    for name in ("all the same", "lattice (ties)", "spread over 1e6"):
        xyz = hostile(4200)[name]  # large enough to be sorted, and for a tree of two levels
        yield f"large, {name}", (xyz, offsets_of([4100, 100]), xyz[4095:4105], offsets_of([5, 5]), 20)
    xyz, offsets = ragged([50, 0, 3])
    yield "float64", (xyz.double(), offsets, xyz.double(), offsets, 7)


# ---- curves ----------------------------------------------------------------------------------------------------------
def curve_code() -> Cases:
    for dtype in (torch.int32, torch.int64):
        for bits in (1, 9, 21):
            for n in (0, 1, 300):
                cells = torch.randint(0, 1 << bits, (n, 3), generator=torch.Generator().manual_seed(n), dtype=dtype)
                yield f"{n} cells of {bits} bits, {dtype}", (cells, bits)


@dataclass(frozen=True)
class Operator:
    cases: Callable[[], Cases]
    tolerance: float = 0.0
    """Largest difference to the CPU operator, relative to the largest magnitude of the result."""


OPERATORS = {
    "farthest_point_sample": Operator(farthest_point_sample),
    "knn": Operator(knn),
    "morton_code": Operator(curve_code),
    "hilbert_code": Operator(curve_code),
}


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def assert_alike(ours: Tensor, expected: Tensor, tolerance: float) -> None:
    assert (ours.shape, ours.dtype) == (expected.shape, expected.dtype)
    if tolerance == 0:
        assert torch.equal(ours, expected)
    else:
        magnitude = expected[expected.isfinite()].abs().max().item() if expected.isfinite().any() else 1.0
        torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance * magnitude)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", OPERATORS)
def test_equals_cpu(emulation, name, schedule):
    emulation.schedule(*SCHEDULES[schedule])
    emulated, cpu = getattr(emulation.operators, name), getattr(torch.ops.pctransformer, name)
    for case, arguments in OPERATORS[name].cases():
        given = [argument.clone() if isinstance(argument, Tensor) else argument for argument in arguments]
        results = as_tuple(emulated(*given)), as_tuple(cpu(*arguments))
        assert len(results[0]) == len(results[1])
        for ours, expected in zip(*results):
            try:
                assert_alike(ours, expected, OPERATORS[name].tolerance)
            except AssertionError as error:
                raise AssertionError(f"{name}, {case}: {error}") from None
        for before, after in zip(arguments, given):
            if isinstance(before, Tensor):
                assert torch.equal(before, after), f"{name}, {case}: wrote into its input"


def test_every_cuda_operator_is_here():
    sources = "".join(path.read_text() for path in (build.CSRC / "cuda").glob("*.cu"))
    assert set(re.findall(r'implement<[^"]*>\("(\w+)"\)', sources)) == set(OPERATORS)


# ---- what CUDA promises where the CPU operator raises an error -----------------------------------------------------
def test_nan_is_never_sampled_and_starts_are_clamped(emulation):
    xyz, offsets = ragged([50, 30])
    xyz[[3, 60]] = torch.nan
    sample = emulation.operators.farthest_point_sample
    chosen = sample(xyz, offsets, offsets, torch.tensor([-7, 1000]), 80, False)
    assert not torch.isin(torch.tensor([3, 60]), chosen).any()
    assert chosen[0] == 0
    assert chosen[50] == 79


def test_knn_never_finds_nan_and_a_nan_query_finds_nothing(emulation):
    xyz, offsets = ragged([50, 30])
    clean = xyz.clone()
    xyz[[3, 60]], clean[[3, 60]] = torch.nan, 1e9
    xyz[20, 0], clean[20] = torch.inf, 1e9
    query = clean[:60].clone()
    query[5] = torch.nan
    index, squared_distance = emulation.operators.knn(xyz, offsets, query, offsets_of([55, 5]), 9)
    expected, _ = torch.ops.pctransformer.knn(clean, offsets, query.nan_to_num(), offsets_of([55, 5]), 9)
    others = torch.tensor(
        [m for m in range(60) if m not in (3, 5, 20)]
    )  # these queries are near what only CUDA leaves out
    assert torch.equal(index[others], expected[others])
    assert (index[5] == -1).all()
    assert (squared_distance[5] == torch.inf).all()
