"""Attention inside windows of occupied cells: ours, and the ways to it by torch's own attention; time and peak memory.

    python -m tests.benchmarks.window_attention --threads 1 --rounds 5 --cap 3 --json results.jsonl

Voxels are those of DSVT for KITTI, 0.2 x 0.2 x 0.125 m, and so are windows, of 12 x 12 columns, and 8 heads of 24
channels. Cells are those of a LiDAR sweep nearest to the scanner; for more of them than it has, the sweep comes again
as the next cloud of a batch. All candidates are exact, none drops a cell:

- window by window: a loop of `scaled_dot_product_attention`
- padded: all windows filled up to the longest, and a mask
- bucketed by size: windows of similar sizes together, filled up to the longest of their bucket, and masks
- dense: every cell sees every other, and a mask leaves those of its window

Biases are made from the table in every call, as a training has to. What would need a mask of more than --gigabytes is
left out, and said so.
"""

from __future__ import annotations

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
from tests.benchmarks.attention import by_size, heads_first

HEADS, HEAD_DIM, WINDOW = 8, 24, (32, 12, 12)
GRID = Grid.from_range((-70.8, -70.8, -3, 70.8, 70.8, 1), (0.2, 0.2, 0.125))
COUNTS = (1_000, 3_000, 10_000, 30_000, 100_000)

parser.add_argument("--gigabytes", type=float, default=4.0, help="largest mask of a candidate that is tried")
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


def one_by_one(bounds: list[int], places: Tensor, bias: WindowBias | None) -> Attend:
    def attend(*qkv: Tensor) -> Tensor:
        pieces = []
        for a, b in pairwise(bounds):
            at = places[None, a:b]
            mask = None if bias is None else bias(at, at).type_as(qkv[0])
            window = (x[None] for x in heads_first(*(x[a:b] for x in qkv)))
            pieces.append(F.scaled_dot_product_attention(*window, attn_mask=mask)[0])
        return torch.cat([piece.transpose(0, 1) for piece in pieces])

    return attend


def padded(bounds: list[int], groups: list[list[int]], places: Tensor, bias: WindowBias | None) -> Attend:
    """Rows of each group are found beforehand: they are cells' matter, as ours are."""
    plans = []
    back = torch.empty(bounds[-1], dtype=torch.long)
    done = 0
    for group in groups:
        begin = torch.tensor([bounds[w] for w in group])
        length = torch.tensor([bounds[w + 1] for w in group]) - begin
        rows = begin[:, None] + torch.arange(int(length.max()))
        valid = rows < (begin + length)[:, None]
        back[rows[valid]] = done + valid.flatten().nonzero()[:, 0]
        done += valid.numel()
        plans.append((rows.clamp_max(bounds[-1] - 1).to(places.device), valid.to(places.device)))
    back = back.to(places.device)

    def attend(*qkv: Tensor) -> Tensor:
        out = []
        for rows, valid in plans:
            q, k, v = (x.index_select(0, rows.flatten()).unflatten(0, rows.shape).transpose(1, 2) for x in qkv)
            mask = valid[:, None, None]
            if bias is not None:
                at = places[rows]
                mask = bias(at, at).type_as(q).masked_fill(~mask, -torch.inf)
            out.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(0, 1))
        return torch.cat(out).index_select(0, back)

    return attend


def dense(window: Tensor, places: Tensor, bias: WindowBias | None) -> Attend:
    def attend(*qkv: Tensor) -> Tensor:
        mask = (window[:, None] == window)[None, None]
        if bias is not None:
            mask = bias(places[None], places[None]).type_as(qkv[0]).masked_fill(~mask, -torch.inf)
        return F.scaled_dot_product_attention(*(x[None] for x in heads_first(*qkv)), attn_mask=mask)[0].transpose(0, 1)

    return attend


def candidates(voxels: VoxelBatch, windows: Windows, bias: WindowBias | None) -> dict[str, Attend]:
    """Those whose masks fit into memory."""
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

    window = torch.arange(len(sizes), device=voxels.device).repeat_interleave(windows.offsets.diff())
    every = [list(range(len(sizes)))]
    score = 4 * HEADS if bias is not None else 1  # bytes of a mask for each pair
    longest = max(sizes)
    made: dict[str, tuple[float, Callable[[], Attend]]] = {
        "torch, window by window": (0, lambda: one_by_one(bounds, windows.places, bias)),
        "torch, bucketed by size": (
            max(len(group) * max(sizes[w] for w in group) ** 2 for group in by_size(sizes)) * score,
            lambda: padded(bounds, by_size(sizes), windows.places, bias),
        ),
        "torch, padded": (
            # without biases the mask is one row for each window, but keys, values and queries are filled up too
            len(sizes) * longest * (longest * score if bias is not None else 12 * HEADS * HEAD_DIM),
            lambda: padded(bounds, every, windows.places, bias),
        ),
        "torch, dense": (len(window) ** 2 * score, lambda: dense(window, windows.places, bias)),
    }
    found: dict[str, Attend] = {"ours": ours, "ours, windows found anew": ours_from_cells}
    for name, (size, make) in made.items():
        if size > LARGEST_MASK:
            print(f"   {name}: left out, {size / 1e9:.1f} GB")
        else:
            found[name] = make()
    return found


def run(voxels: VoxelBatch, with_bias: bool) -> None:
    device, count = args.device, len(voxels.coordinates)
    voxels = voxels.to(device)
    windows = find_windows(voxels, WINDOW)
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    bias = WindowBias(HEADS, WINDOW).to(device) if with_bias else None
    qkv = [torch.randn(count, HEADS, HEAD_DIM, generator=draw).to(device).requires_grad_() for _ in range(3)]
    leaves = [*qkv, *([] if bias is None else [bias.table])]
    sizes = windows.offsets.diff()
    pairs = int(sizes.square().sum())
    case = (
        f"WINDOWS {'with' if with_bias else 'without'} bias: {count} cells, {len(sizes)} windows, longest"
        f" {int(sizes.max())}, {4 * pairs * HEADS * HEAD_DIM / 1e9:.2f} GFLOP"
    )
    tried = candidates(voxels, windows, bias)
    with torch.no_grad():
        exact = one_by_one(windows.offsets.tolist(), windows.places, bias)(*(x.double() for x in qkv))

    def forward(attend: Attend) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with torch.no_grad():
                return attend(*qkv)

        return call

    def backward(attend: Attend) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(attend(*qkv).square().sum(), leaves)[-1]

    def check(name: str, out: Tensor) -> str:
        return f"max error {(out - exact).abs().max():.0e}"

    bench(f"{case}, forward", {name: forward(of) for name, of in tried.items()}, check, memory=True)
    bench(f"{case}, forward + backward", {name: backward(of) for name, of in tried.items()}, memory=True)


if __name__ == "__main__":
    print(describe_machine())
    sweep = VoxelBatch.from_points(PointBatch.from_list([lidar()]), GRID)
    for with_bias in (False, True):
        for count in COUNTS:
            run(cells(sweep, count), with_bias)
