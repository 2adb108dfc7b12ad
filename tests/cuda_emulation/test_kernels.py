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
from tests.ops import test_attention as attention
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


def ball_query() -> Cases:
    for name, search in searches():
        for radius, k in [(0.3, 1), (1.0, 40), (2e5, 700)]:
            for closed in (False, True):
                yield f"{name}, radius {radius}, k = {k}", (*search, radius, k, closed, closed)
    for name, xyz in hostile(4200).items():  # large enough for a grid, in which the second cloud is too small to use it
        search = xyz, offsets_of([2400, 1800]), xyz[2340:2420], offsets_of([60, 20])
        for radius, k in [(0.05, 3), (1.0, 70), (1e30, 5)]:
            yield f"{name}, a grid, radius {radius}, k = {k}", (*search, radius, k, True, False)


# ---- curves ----------------------------------------------------------------------------------------------------------
def curve_code() -> Cases:
    for dtype in (torch.int32, torch.int64):
        for bits in (1, 9, 21):
            for n in (0, 1, 300):
                cells = torch.randint(0, 1 << bits, (n, 3), generator=torch.Generator().manual_seed(n), dtype=dtype)
                yield f"{n} cells of {bits} bits, {dtype}", (cells, bits)


# ---- attention -------------------------------------------------------------------------------------------------------
def ragged_attention() -> Cases:
    """Every size of tile, with and without bias table and mask, tables in shared and in global memory."""
    sizes = attention.QUERY_SIZES, attention.KEY_SIZES
    for dim, value_dim, window, causal, dtype in (
        (5, 7, None, False, torch.float32),
        (16, 3, (4, 3, 2), True, torch.float32),
        (20, 32, (9, 9, 5), False, torch.float32),  # a table too large for shared memory
        (64, 33, None, True, torch.float32),
        (100, 128, (4, 3, 2), False, torch.float32),
        (256, 1, (2, 1, 1), True, torch.float32),
        (16, 16, (4, 3, 2), True, torch.float64),
        (1, 256, (4, 3, 2), False, torch.float64),
    ):
        inputs = attention.features(*sizes, dim=dim, value_dim=value_dim, dtype=dtype)
        extra = attention.bias(*inputs[:2], window) if window else {}
        yield f"{dim}, {value_dim}, {window}, {causal}, {dtype}", attention.arguments(inputs, extra, causal)
    for sizes in (([], []), ([0, 0], [0, 0]), ([0], [5]), ([5], [0]), ([1], [2])):
        inputs = attention.features(*sizes)
        yield f"{sizes}", attention.arguments(inputs, attention.bias(*inputs[:2]))


def ragged_attention_backward() -> Cases:
    for name, arguments in ragged_attention():
        output, logsumexp = torch.ops.pctransformer.ragged_attention(*arguments)
        grad_output = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
        yield name, (grad_output, *arguments[:3], output, logsumexp, *arguments[3:])


@dataclass(frozen=True)
class Operator:
    cases: Callable[[], Cases]
    tolerance: float = 0.0
    """Largest difference to the CPU operator, relative to the largest magnitude of the result."""


OPERATORS = {
    "farthest_point_sample": Operator(farthest_point_sample),
    "knn": Operator(knn),
    "ball_query": Operator(ball_query),
    "morton_code": Operator(curve_code),
    "hilbert_code": Operator(curve_code),
    # float32 sums of some hundred products in another order, with fused multiply-adds
    "ragged_attention": Operator(ragged_attention, tolerance=1e-5),
    "ragged_attention_backward": Operator(ragged_attention_backward, tolerance=1e-5),
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


@pytest.mark.parametrize("n", [80, 4200])
def test_ball_query_never_finds_nan_and_a_nan_query_finds_nothing(emulation, n):
    xyz, offsets = ragged([n - 30, 30])
    xyz[3], xyz[n - 20, 1], xyz[20, 0] = torch.nan, torch.nan, torch.inf
    query = xyz[:40].clone()
    index = emulation.operators.ball_query(xyz, offsets, query, offsets_of([30, 10]), 1e25, 600, False, False)
    first = [row for row in range(n - 30) if row not in (3, 20)]
    second = [row for row in range(n - 30, n) if row != n - 20]
    for q in range(40):
        expected = [] if q in (3, 20) else first if q < 30 else second
        assert index[q].tolist() == (expected + [-1] * 600)[:600]


def test_coordinates_outside_the_window_count_as_its_border(emulation):
    query, key, value, *offsets = attention.features()
    extra = attention.bias(query, key, (3, 2, 2))
    names = "query_coordinates", "key_coordinates"
    wild = [extra[name] + torch.randint(-5, 6, extra[name].shape).int() for name in names]
    tame = [torch.minimum(x.clamp_min(0), torch.tensor([2, 1, 1], dtype=torch.int32)) for x in wild]
    run = emulation.operators.ragged_attention
    ours, expected = (run(query, key, value, *offsets, extra["bias_table"], *x, 1.0, False)[0] for x in (wild, tame))
    assert torch.equal(ours, expected)


def test_nan_features_stay_in_their_sequence_and_head(emulation):
    query, key, value, *offsets = attention.features([40, 40, 40], [50, 50, 50], heads=3)
    run = emulation.operators.ragged_attention
    clean = run(*attention.arguments((query, key, value, *offsets), {}))[0]
    for features in (query, key, value):
        dirty = features.clone()
        dirty[60, 1] = torch.nan
        inputs = (*(dirty if x is features else x for x in (query, key, value)), *offsets)
        output = run(*attention.arguments(inputs, {}))[0]
        touched = torch.zeros(120, 3, dtype=torch.bool)
        touched[slice(60, 61) if features is query else slice(40, 80), 1] = True
        assert output[touched].isnan().all()
        assert torch.equal(output[~touched], clean[~touched])


# ---- results that do not depend on the order in which threads run, to the last bit -----------------------------------
def test_gradients_of_attention_are_the_same_on_every_run(emulation):
    """The bias table's gradient is summed with atomics, from many blocks."""
    for case, arguments in ragged_attention_backward():
        gradients = []
        for schedule in SCHEDULES.values():
            emulation.schedule(*schedule)
            gradients.append(emulation.operators.ragged_attention_backward(*arguments))
        for other in gradients[1:]:
            assert all(torch.equal(a, b) for a, b in zip(gradients[0], other)), case
