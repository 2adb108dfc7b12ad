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
from tests.ops import test_deformable as deformable
from tests.ops.boxes import cars, hostile_boxes
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


# ---- grouping --------------------------------------------------------------------------------------------------------
FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def weights(*shape: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(*shape, generator=generator, dtype=torch.float64 if dtype == torch.float64 else torch.float32)


def taken() -> Iterator[tuple[str, Tensor, Tensor]]:
    """Features and an index (M, k) into them, with -1."""
    generator = torch.Generator().manual_seed(0)
    for dtype in FLOATING:
        for columns in (1, 3, 8, 70):
            for queries, neighbors in ((0, 4), (21, 1), (13, 5)):
                features = torch.randn(40, columns, generator=generator).to(dtype)
                index = torch.randint(-1, 40, (queries, neighbors), generator=generator)
                yield f"{queries} x {neighbors} x {columns}, {dtype}", features, index


def gather() -> Cases:
    for name, features, index in taken():
        yield name, (features, index.view(-1))
        yield f"{name}, not aligned", (features[1:], index.view(-1).clamp_max(38))
    yield "no rows", (torch.zeros(0, 3), torch.full((2,), -1))


def gather_backward() -> Cases:
    for name, features, index in taken():
        grad = features[: len(index)].contiguous()
        yield name, (grad, index, weights(*index.shape, dtype=grad.dtype), 40)
        yield f"{name}, no weight", (grad, index, None, 40)


def gather_dot() -> Cases:
    for name, features, index in taken():
        yield name, (features.flip(0)[: len(index)].contiguous(), features, index)


def group() -> Cases:
    for name, features, index in taken():
        xyz = hostile(40)["coordinates of 1e6"]
        yield name, (xyz, xyz[: len(index)].flip(0).contiguous(), index, features, 0.3)
    yield "coordinates alone", (xyz, xyz[: len(index)].contiguous(), index, None, 1.0)


def weighted_gather() -> Cases:
    for name, features, index in taken():
        yield name, (features, index, weights(*index.shape, dtype=features.dtype))


# ---- curves ----------------------------------------------------------------------------------------------------------
def curve_code() -> Cases:
    for dtype in (torch.int32, torch.int64):
        for bits in (1, 9, 21):
            for n in (0, 1, 300):
                cells = torch.randint(0, 1 << bits, (n, 3), generator=torch.Generator().manual_seed(n), dtype=dtype)
                yield f"{n} cells of {bits} bits, {dtype}", (cells, bits)


# ---- boxes -----------------------------------------------------------------------------------------------------------
def boxes() -> Iterator[tuple[str, Tensor]]:
    yield "cars", cars(70, span=5)
    yield from hostile_boxes(40).items()


def points_in_boxes() -> Cases:
    for name, values in boxes():
        sizes = [len(values) // 2, 0, len(values) - len(values) // 2]
        xyz = values[torch.arange(300) % len(values), :3] + 0.8 * ragged([300])[0]
        yield name, (xyz, offsets_of([100, 0, 200]), values, offsets_of(sizes))
    yield "no boxes", (xyz, offsets_of([300]), torch.zeros(0, 7), offsets_of([0]))
    yield "no points", (xyz[:0], offsets_of([0, 0]), values, offsets_of([len(values), 0]))
    yield "no clouds", (xyz[:0], offsets_of([]), values[:0], offsets_of([]))


def box_iou() -> Cases:
    for name, values in boxes():
        for bird_eye in (False, True):
            yield f"{name}, bird_eye {bird_eye}", (values, values[:21].flip(0), False, bird_eye)
        yield f"{name}, aligned", (values, values.flip(0), True, False)
    yield "none", (values[:0], values, False, True)


def box_nms() -> Cases:
    for name, values in boxes():
        n = len(values)
        scores = torch.randint(-3, 4, (n,), generator=torch.Generator().manual_seed(n)) * 0.5
        offsets, labels = offsets_of([5, 0, 1, n - 6]), torch.arange(n) % 2
        for threshold, classes, most, bird_eye in [(0.1, None, n, True), (0.5, labels, n, False), (0.0, None, 3, True)]:
            yield f"{name}, threshold {threshold}", (values, offsets, scores, classes, threshold, most, bird_eye)
    values = cars(330, span=12)  # more boxes behind a chunk than a block has threads
    yield "one large cloud", (values, offsets_of([330]), torch.arange(330) % 50 * 0.1, None, 0.1, 100, True)
    yield "no boxes", (values[:0], offsets_of([0, 0]), torch.zeros(0), None, 0.1, 5, True)
    yield "no clouds", (values[:0], offsets_of([]), torch.zeros(0), None, 0.1, 5, True)


# ---- voxels ----------------------------------------------------------------------------------------------------------
def voxelize() -> Cases:
    grids = {
        "some cells": (-2.0, -1.6, -1.0, 0.5, 0.4, 0.25, 8, 10, 16),
        "one cell": (-4.0, -4.0, -4.0, 8.0, 8.0, 8.0, 1, 1, 1),
        "beyond 32 bits": (-4.0, -4.0, -4.0, 1e-5, 1e-5, 1e-4, 800_000, 800_000, 80_000),
        "nothing inside": (1e7, 1e7, 1e7, 1.0, 1.0, 1.0, 4, 4, 4),
    }
    for name, xyz, offsets in clouds():
        for grid, numbers in grids.items():
            for max_points, max_voxels in [(1000, 1000), (2, 1000), (3, 7)]:
                yield f"{name}, {grid}, {max_points}, {max_voxels}", (xyz, offsets, *numbers, max_points, max_voxels)


# ---- segments --------------------------------------------------------------------------------------------------------
def runs() -> Iterator[tuple[str, Tensor, Tensor, Tensor | None]]:
    """Values in runs, or in an order in which some rows are in no segment; on both sides of what counts as long."""
    generator = torch.Generator().manual_seed(0)
    for sizes in ([5, 0, 1, 30], [0], [], [511, 512, 3], [0, 1500]):
        rows = sum(sizes)
        order = torch.randperm(rows, generator=generator)
        for dtype in FLOATING:
            for columns in (1, 9):
                values = torch.randint(-20, 21, (rows, columns), generator=generator).to(dtype) / 8  # with ties
                yield f"{sizes} x {columns}, {dtype}", values, offsets_of(sizes), None
                yield f"{sizes} x {columns}, {dtype}, order", values, (offsets_of(sizes) - 1).clamp_min(0), order


def sort_index() -> Cases:
    for rows in (0, 1, 3000):
        for size in (1, 2, 255, 256, 70_000):
            yield (
                f"{rows} into {size}",
                (torch.randint(-1, size, (rows,), generator=torch.Generator().manual_seed(0)), size),
            )
    yield "no groups", (torch.full((5,), -1), 0)


def segment_reduction() -> Cases:
    for name, values, offsets, order in runs():
        yield name, (values, offsets, order)


def segment_sum() -> Cases:
    for name, arguments in segment_reduction():
        yield name, (*arguments, False)
        yield f"{name}, mean", (*arguments, True)


def segment_spread() -> Cases:
    for name, values, offsets, order in runs():
        share = torch.arange((len(offsets) - 1) * values.shape[1]).view(-1, values.shape[1]).to(values.dtype)
        yield name, (share, offsets, order, len(values), False)
        yield f"{name}, mean", (share, offsets, order, len(values), True)


def segment_max_backward() -> Cases:
    for name, values, offsets, order in runs():
        largest, argrow = torch.ops.pctransformer.segment_max(values, offsets, order)
        yield name, (largest, argrow, offsets, order, len(values))


def segment_softmax_backward() -> Cases:
    for name, values, offsets, order in runs():
        yield name, (values, torch.ops.pctransformer.segment_softmax(values, offsets, order), offsets, order)


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


# ---- deformable attention --------------------------------------------------------------------------------------------
def deformable_attention() -> Cases:
    """Lanes of every power of two, more channels than lanes of a warp, places anywhere and on lines, nothing at all."""
    for dim in (1, 3, 5, 16, 32, 33, 70):
        for dtype in (torch.float32, torch.float64):
            yield f"{dim} channels, {dtype}", deformable.samples(dim=dim, dtype=dtype)
    yield "on lines", deformable.on_lines()
    for empty in ("batch", "queries", "points"):
        yield f"no {empty}", deformable.samples(**{empty: 0})


def deformable_attention_backward() -> Cases:
    for name, arguments in deformable_attention():
        output = torch.ops.pctransformer.deformable_attention(*arguments)
        grad_output = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
        yield name, (grad_output, *arguments)


@dataclass(frozen=True)
class Operator:
    cases: Callable[[], Cases]
    tolerance: float = 0.0
    """Largest difference to the CPU operator, relative to the largest magnitude of the result."""


OPERATORS = {
    "farthest_point_sample": Operator(farthest_point_sample),
    "knn": Operator(knn),
    "ball_query": Operator(ball_query),
    "gather": Operator(gather),
    "gather_backward": Operator(gather_backward, 1e-6),  # threads add in any order
    "gather_dot": Operator(gather_dot, 1e-6),  # summed in 32 lanes, on the CPU in 16
    "group": Operator(group),
    "weighted_gather": Operator(weighted_gather),
    "morton_code": Operator(curve_code),
    "hilbert_code": Operator(curve_code),
    "points_in_boxes": Operator(points_in_boxes),
    "box_iou": Operator(box_iou),
    "box_nms": Operator(box_nms),
    "voxelize": Operator(voxelize),
    "sort_index": Operator(sort_index),
    "segment_sum": Operator(segment_sum),  # equal for long segments too: sums of eighths are exact
    "segment_spread": Operator(segment_spread),
    "segment_max": Operator(segment_reduction),
    "segment_max_backward": Operator(segment_max_backward),
    "segment_softmax": Operator(segment_reduction, 4e-6),  # another exponential, and sums in another order
    "segment_softmax_backward": Operator(segment_softmax_backward, 2e-5),  # a long sum, by a tree, of terms that cancel
    # float32 sums of some hundred products in another order, with fused multiply-adds
    "ragged_attention": Operator(ragged_attention, tolerance=1e-5),
    "ragged_attention_backward": Operator(ragged_attention_backward, tolerance=1e-5),
    "deformable_attention": Operator(deformable_attention),
    # products with cells are summed in other lanes, and threads add to cells in any order
    "deformable_attention_backward": Operator(deformable_attention_backward, tolerance=1e-6),
}


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def assert_alike(ours: Tensor, expected: Tensor, tolerance: float) -> None:
    assert (ours.shape, ours.dtype) == (expected.shape, expected.dtype)
    if tolerance == 0:
        assert torch.equal(ours, expected)
    else:
        if ours.dtype in (torch.bfloat16, torch.float16):  # numbers that differ a little may be rounded apart
            tolerance = torch.finfo(ours.dtype).eps
        magnitude = expected[expected.isfinite()].abs().max().item() if expected.isfinite().any() else 1.0
        torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance * magnitude)


def surrounded(tensor: Tensor, *, aligned: bool) -> tuple[Tensor, Tensor]:
    """A copy between numbers that nobody may read, NaN or huge; if not aligned, then to its own elements only.

    Returns:
        the copy, and the whole piece of memory it lies in, as bytes.
    """
    bad = torch.nan if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max // 2
    before = 64 if aligned else 65
    room = torch.full((before + tensor.numel() + 64,), bad, dtype=tensor.dtype)
    copy = room[before : before + tensor.numel()].view(tensor.shape)
    return copy.copy_(tensor), room.view(torch.uint8)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", OPERATORS)
def test_equals_cpu(emulation, name, schedule):
    emulation.schedule(*SCHEDULES[schedule])
    emulated, cpu = getattr(emulation.operators, name), getattr(torch.ops.pctransformer, name)
    for case, arguments in OPERATORS[name].cases():
        given, rooms = [], []
        for argument in arguments:
            if isinstance(argument, Tensor):
                argument, room = surrounded(argument, aligned=schedule == "forward")
                rooms.append((room, room.clone()))
            given.append(argument)
        results = as_tuple(emulated(*given)), as_tuple(cpu(*given))
        assert len(results[0]) == len(results[1])
        for ours, expected in zip(*results):
            try:
                assert_alike(ours, expected, OPERATORS[name].tolerance)
            except AssertionError as error:
                raise AssertionError(f"{name}, {case}: {error}") from None
        for after, before in rooms:
            assert torch.equal(before, after), f"{name}, {case}: wrote into its input, or next to it"


WAITING = "box_nms", "voxelize"
"""Operators whose results have as many rows as the values say, so that they wait for the device."""


@pytest.mark.parametrize("name", [name for name in OPERATORS if name not in WAITING])
def test_operators_can_be_captured_into_a_graph(emulation, name):
    emulation.schedule("forward")
    with emulation.capture():
        for _, arguments in OPERATORS[name].cases():
            getattr(emulation.operators, name)(*arguments)


@pytest.mark.parametrize("name", WAITING)
def test_what_cannot_be_captured_is_an_error_once(emulation, name):
    emulation.schedule("forward")
    _, arguments = next(case for case in OPERATORS[name].cases())
    with emulation.capture(), pytest.raises(RuntimeError, match="reading a size: emulated CUDA error 900"):
        getattr(emulation.operators, name)(*arguments)
    cells = torch.ones(1, 3, dtype=torch.int64)
    assert emulation.operators.morton_code(cells, 1).tolist() == [7]  # and not the error of the last call


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


def test_boxes_that_are_none(emulation):
    """A box with NaN, infinity or a negative size holds nothing, overlaps nothing and is not kept."""
    values, ops = cars(50, span=2), emulation.operators
    real = values.clone()
    bad = torch.tensor([3, 4, 5, 40])
    values[3, 0], values[4, 6], values[5, 3], values[40, 4] = torch.nan, torch.inf, -1, -torch.inf
    good = torch.ones(50, dtype=torch.bool).index_fill(0, bad, False).nonzero()[:, 0]
    iou, expected = ops.box_iou(values, values, False, False), ops.box_iou(real, real, False, False)
    assert (iou[bad] == 0).all()
    assert (iou[:, bad] == 0).all()
    assert torch.equal(iou[good][:, good], expected[good][:, good])
    scores = torch.rand(50, generator=torch.Generator().manual_seed(0))
    scores[7] = torch.nan
    kept, _ = ops.box_nms(values, offsets_of([50]), scores, None, 0.1, 50, True)
    allowed = good[good != 7]
    fewer, _ = torch.ops.pctransformer.box_nms(
        real[allowed], offsets_of([len(allowed)]), scores[allowed], None, 0.1, 50, True
    )
    assert torch.equal(kept, allowed[fewer])
    found = ops.points_in_boxes(real[:, :3].contiguous(), offsets_of([50]), values, offsets_of([50]))
    assert not torch.isin(found, bad).any()
    nowhere = torch.full((2, 3), torch.nan)
    assert ops.points_in_boxes(nowhere, offsets_of([2]), values, offsets_of([50])).tolist() == [-1, -1]


def test_nan_is_in_no_voxel(emulation):
    xyz, offsets = ragged([50, 30])
    xyz[3], xyz[60, 1], xyz[7, 0] = torch.nan, torch.inf, -torch.inf
    _, ends, index, counts = emulation.operators.voxelize(
        xyz, offsets, -50.0, -50.0, -50.0, 100.0, 100.0, 100.0, 1, 1, 1, 80, 80
    )
    assert index[[3, 7, 60]].tolist() == [-1, -1, -1]
    assert counts.tolist() == [48, 29]
    assert ends.tolist() == [0, 1, 2]


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


def test_an_index_that_is_no_row_counts_as_none(emulation):
    features, index = torch.rand(4, 6), torch.tensor([[0, 4, -7, 3]])
    none = torch.tensor([[0, -1, -1, 3]])
    xyz, weight = torch.rand(4, 3), torch.rand(1, 4)
    ops = emulation.operators
    assert torch.equal(ops.gather(features, index[0]), ops.gather(features, none[0]))
    assert torch.equal(ops.group(xyz, xyz[:1], index, features, 1.0), ops.group(xyz, xyz[:1], none, features, 1.0))
    for name in ("weighted_gather", "gather_dot"):
        other = (weight,) if name == "weighted_gather" else ()
        first = () if other else (features[:1],)
        assert torch.equal(*(getattr(ops, name)(*first, features, place, *other) for place in (index, none)))
    assert torch.equal(*(ops.gather_backward(features[:1], place, weight, 4) for place in (index, none)))
    assert torch.equal(*(ops.sort_index(place[0], 4)[1] for place in (index, none)))


def test_offsets_and_orders_are_clamped(emulation):
    values = torch.arange(4.0)[:, None]
    total = emulation.operators.segment_sum(values, torch.tensor([-3, 2, 1, 100]), torch.tensor([0, 9, -9, 2]), False)
    assert total.flatten().tolist() == [3, 0, 3 + 0 + 2]


OFFSETS_THAT_ARE_NONE = (
    [0, 90, 20, 60],
    [50, 60, 60, 60],
    [-900, 30, 30, 60],
    [0, 30, 2**40, 60],
    [2**40, 2**40, 2**40, 2**40],
    [70, 70, 70, 70],
)


@pytest.mark.parametrize("wrong", OFFSETS_THAT_ARE_NONE, ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_offsets_that_are_none_write_nowhere_else(emulation, wrong, schedule):
    """The results mean nothing, but lie in their place: the emulation looks at what is around them."""
    emulation.schedule(*SCHEDULES[schedule])
    ops, offsets, right = emulation.operators, torch.tensor(wrong), offsets_of([20, 20, 20])
    xyz, boxes, scores = ragged([60])[0], cars(60, span=5), torch.linspace(0, 1, 60)
    inputs = attention.features([20, 20, 20], [20, 20, 20])
    extra = attention.bias(*inputs[:2])
    for first, second in ((offsets, right), (right, offsets), (offsets, offsets)):
        ops.knn(xyz, first, xyz, second, 3)
        ops.ball_query(xyz, first, xyz, second, 0.5, 3, True, True)
        ops.farthest_point_sample(xyz, first, second, torch.zeros(3, dtype=torch.int64), 60, False)
        ops.points_in_boxes(xyz, first, boxes, second)
        arguments = attention.arguments((*inputs[:3], first, second), extra)
        output, logsumexp = ops.ragged_attention(*arguments)
        ones, zeros, sums = torch.ones_like(output), torch.zeros_like(output), torch.zeros_like(logsumexp)
        ops.ragged_attention_backward(ones, *arguments[:3], zeros, sums, *arguments[3:])
    ops.box_nms(boxes, offsets, scores, None, 0.1, 60, True)
    ops.voxelize(xyz, offsets, -2.0, -2.0, -2.0, 0.5, 0.5, 0.5, 8, 8, 8, 4, 5)
    for order in (None, torch.arange(60)):
        ops.segment_spread(xyz[:3].contiguous(), offsets, order, 60, True)
        ops.segment_max(xyz, offsets, order)
        ops.segment_softmax(xyz, offsets, order)
        ops.segment_softmax_backward(xyz, xyz, offsets, order)


@pytest.mark.parametrize("rows", [4, 600])
def test_nan_and_infinity_stay_in_their_segment(emulation, rows):
    offsets = torch.tensor([0, rows, 2 * rows])
    for bad in (torch.nan, torch.inf, -torch.inf):
        values = torch.rand(2 * rows, 2)
        values[1, 0] = values[rows - 1, 0] = bad
        ops, cpu = emulation.operators, torch.ops.pctransformer
        softmax = ops.segment_softmax(values, offsets, None)
        torch.testing.assert_close(softmax, cpu.segment_softmax(values, offsets, None), equal_nan=True)
        for ours, expected in zip(ops.segment_max(values, offsets, None), cpu.segment_max(values, offsets, None)):
            torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 3e38])
def test_places_that_are_nowhere(emulation, bad):
    """As on the CPU, in the results and in the gradients."""
    value, sizes, locations, weights = deformable.samples()
    locations[1, 4, 2, 0, 3, 0] = locations[0, 1, 1, 3, 0, 1] = bad
    arguments = value, sizes, locations, weights
    ours = emulation.operators.deformable_attention(*arguments)
    expected = torch.ops.pctransformer.deformable_attention(*arguments)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)
    assert ours.isnan().sum() == (2 * 5 if bad != bad else 0)
    grad = torch.ones_like(ours)
    ours = emulation.operators.deformable_attention_backward(grad, *arguments)
    expected = torch.ops.pctransformer.deformable_attention_backward(grad, *arguments)
    torch.testing.assert_close(ours, expected, equal_nan=True)


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


def test_gradients_of_places_and_weights_are_the_same_on_every_run(emulation):
    """Those of values are summed with atomics; these by shuffles."""
    for case, arguments in deformable_attention_backward():
        gradients = []
        for schedule in SCHEDULES.values():
            emulation.schedule(*schedule)
            gradients.append(emulation.operators.deformable_attention_backward(*arguments)[1:])
        for other in gradients[1:]:
            assert all(torch.equal(a, b) for a, b in zip(gradients[0], other, strict=True)), case
