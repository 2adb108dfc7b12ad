"""Attention inside windows of occupied cells: ours, and the ways to it by torch's own attention; time and peak memory.

    python -m tests.benchmarks.window_attention --threads 1 --rounds 5 --cap 3 --json results.jsonl
    python -m tests.benchmarks.window_figure results.jsonl --figure window_attention.png

Voxels are those of DSVT for KITTI, 0.2 x 0.2 x 0.125 m, and so are windows, of 12 x 12 columns, and 8 heads of 24
channels. Cells are those of a LiDAR sweep nearest to the scanner; for more of them than it has, the sweep comes again
as the next cloud of a batch. One more case has 20 000 cells in windows of log-normal sizes, 95 on average, and 8 heads
of 16 channels, as `attention` has without biases. All candidates are exact, none drops a cell:

- window by window: a loop of `scaled_dot_product_attention`
- padded: all windows filled up to the longest, and a mask
- window by window, biases given: the same without making masks from the table, nor gradients of it
- bucketed by size: windows of similar sizes together, filled up to the longest of their bucket, and masks
- dense: every cell sees every other, and a mask leaves those of its window

Biases are made from the table in every call, for a training changes it and every scan has other windows. What would
need a mask of more than --gigabytes is left out, and said so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from tests.benchmarks.harness import args, bench, describe_machine, lidar, parser

# isort: split
import torch
import torch.nn.functional as F
from torch import Tensor

from pctransformer.grid_view.window_attention import Windows, find_windows
from pctransformer.layers.position import WindowBias
from pctransformer.ops import ragged_attention
from pctransformer.points import PointBatch
from pctransformer.voxels import Grid, VoxelBatch
from tests.benchmarks import attention
from tests.benchmarks.attention import by_size, heads_first

WINDOW = (32, 12, 12)
GRID = Grid.from_range((-70.8, -70.8, -3, 70.8, 70.8, 1), (0.2, 0.2, 0.125))
COUNTS = (1_000, 3_000, 10_000, 30_000, 100_000)

parser.add_argument("--gigabytes", type=float, default=2.0, help="largest mask of a candidate that is tried")
LARGEST_MASK = parser.parse_known_args()[0].gigabytes * 1e9

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def cells(sweep: VoxelBatch, count: int) -> VoxelBatch:
    """So many, of a batch of as many clouds as it takes."""
    by_distance = sweep.centers.norm(dim=1).argsort()
    rows: list[Tensor] = []
    left = count
    while left:
        of_cloud = sweep.coordinates[by_distance[:left]]
        of_cloud[:, 0] = len(rows)
        rows.append(of_cloud)
        left -= len(of_cloud)
    return VoxelBatch.from_coordinates(torch.cat(rows), torch.zeros(count, 0), GRID, len(rows))


def crowded_windows() -> Windows:
    """Windows with the sizes of the benchmark `attention`, their cells anywhere in them."""
    sizes = attention.windows()
    draw = torch.Generator().manual_seed(0)
    depth, rows, columns = WINDOW
    places = []
    for size in sizes:
        place = torch.randperm(depth * rows * columns, generator=draw)[:size].sort().values
        places.append(torch.stack([place // (rows * columns), place // columns % rows, place % columns], 1))
    rows_of_cells = torch.arange(sum(sizes), device=args.device)
    offsets = torch.tensor([0, *sizes], device=args.device).cumsum(0)
    return Windows(WINDOW, False, rows_of_cells, rows_of_cells, offsets, torch.cat(places).int().to(args.device))


def one_by_one(bounds: list[int], places: Tensor, bias: WindowBias | None, *, ready: bool = False) -> Attend:
    """A loop over windows; ready: biases are made beforehand."""
    if bias is None:
        return attention.one_by_one(bounds)
    of_windows = [places[None, a:b] for a, b in pairwise(bounds)]

    def mask(w: int) -> Tensor:
        return bias(of_windows[w], of_windows[w])

    if not ready:
        return attention.one_by_one(bounds, mask)
    with torch.no_grad():
        masks = [mask(w).contiguous() for w in range(len(of_windows))]
    return attention.one_by_one(bounds, masks.__getitem__)


def padded(bounds: list[int], groups: list[list[int]], places: Tensor, bias: WindowBias | None) -> Attend:
    return attention.padded(bounds, groups, None if bias is None else lambda rows: bias(places[rows], places[rows]))


def dense(window: Tensor, places: Tensor, bias: WindowBias | None) -> Attend:
    def attend(*qkv: Tensor) -> Tensor:
        mask = (window[:, None] == window)[None, None]
        if bias is not None:
            mask = bias(places[None], places[None]).type_as(qkv[0]).masked_fill(~mask, -torch.inf)
        return F.scaled_dot_product_attention(*(x[None] for x in heads_first(*qkv)), attn_mask=mask)[0].transpose(0, 1)

    return attend


def candidates(
    windows: Windows, heads: int, head_dim: int, bias: WindowBias | None, voxels: VoxelBatch | None
) -> dict[str, Attend]:
    """Those whose masks fit into memory; `voxels` are the cells of the windows, if they are of any."""
    bounds = windows.offsets.tolist()
    sizes = [b - a for a, b in pairwise(bounds)]
    extra: dict[str, Any] = {}
    if bias is not None:
        extra = {
            "bias_table": bias.table, "query_coordinates": windows.places, "key_coordinates": windows.places
        }  # fmt: skip

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ragged_attention(q, k, v, windows.offsets, windows.offsets, **extra)

    def ours_from_cells(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        find_windows(voxels, WINDOW)
        return ours(q, k, v)

    window = torch.arange(len(sizes), device=windows.places.device).repeat_interleave(windows.offsets.diff())
    every = [list(range(len(sizes)))]
    score = 4 * (heads if bias is not None else 1)  # bytes of a mask for each pair; torch makes numbers of booleans
    longest = max(sizes)
    made: dict[str, tuple[float, Callable[[], Attend]]] = {
        "torch, window by window": (0, lambda: one_by_one(bounds, windows.places, bias)),
        "torch, bucketed by size": (
            max(len(group) * max(sizes[w] for w in group) ** 2 for group in by_size(sizes)) * score,
            lambda: padded(bounds, by_size(sizes), windows.places, bias),
        ),
        "torch, padded": (
            # without biases the mask is one row for each window, but keys, values and queries are filled up too
            len(sizes) * longest * (longest * score if bias is not None else 12 * heads * head_dim),
            lambda: padded(bounds, every, windows.places, bias),
        ),
        "torch, dense": (len(window) ** 2 * score, lambda: dense(window, windows.places, bias)),
    }
    if bias is not None:
        given = sum(size * size for size in sizes) * score  # all masks at once
        made["torch, window by window, biases given"] = (
            given, lambda: one_by_one(bounds, windows.places, bias, ready=True)
        )  # fmt: skip
    found: dict[str, Attend] = {"ours": ours}
    if voxels is not None:
        found["ours, windows found anew"] = ours_from_cells
    for name, (size, make) in made.items():
        if size > LARGEST_MASK:
            print(f"   {name}: left out, {size / 1e9:.1f} GB")
        else:
            found[name] = make()
    return found


def run(
    case: str, windows: Windows, heads: int, head_dim: int, with_bias: bool, voxels: VoxelBatch | None = None
) -> None:
    device, count = args.device, len(windows.order)
    sizes = windows.offsets.diff()
    pairs = int(sizes.square().sum())
    case = (
        f"{case} {'with' if with_bias else 'without'} bias: {count} cells, {len(sizes)} windows, longest"
        f" {int(sizes.max())}, {heads} x {head_dim}, {4 * pairs * heads * head_dim / 1e9:.2f} GFLOP"
    )
    cases = [f"{case}, forward", f"{case}, forward + backward"]
    if not any(re.search(args.case, one) for one in cases):
        return
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    bias = WindowBias(heads, WINDOW).to(device) if with_bias else None
    qkv = [torch.randn(count, heads, head_dim, generator=draw).to(device).requires_grad_() for _ in range(3)]
    leaves = [*qkv, *([] if bias is None else [bias.table])]
    tried = candidates(windows, heads, head_dim, bias, voxels)
    with torch.no_grad():
        exact = one_by_one(windows.offsets.tolist(), windows.places, bias)(*(x.double() for x in qkv))

    def forward(attend: Attend) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with torch.no_grad():
                return attend(*qkv)

        return call

    def backward(name: str, attend: Attend) -> Callable[[], Tensor]:
        wanted = qkv if name.endswith("biases given") else leaves
        return lambda: torch.autograd.grad(attend(*qkv).square().sum(), wanted)[-1]

    def check(name: str, out: Tensor) -> str:
        return f"max error {(out - exact).abs().max():.0e}"

    bench(cases[0], {name: forward(of) for name, of in tried.items()}, check, memory=True)
    bench(cases[1], {name: backward(name, of) for name, of in tried.items()}, memory=True)


def main() -> None:
    print(describe_machine())
    sweep = VoxelBatch.from_points(PointBatch.from_list([lidar()]), GRID)
    for with_bias in (False, True):
        for count in COUNTS:
            voxels = cells(sweep, count).to(args.device)
            run("WINDOWS", find_windows(voxels, WINDOW), 8, 24, with_bias, voxels)
    run("CROWDED WINDOWS", crowded_windows(), 8, 16, True)


if __name__ == "__main__":
    main()
