"""Attention over ragged windows: ours, and scaled_dot_product_attention window by window, bucketed and padded."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from tests.benchmarks.harness import args, bench, describe_machine, lidar

# isort: split
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pctransformer.ops import ragged_attention

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def windows(tokens: int = 20_000) -> list[int]:
    """Sizes with the spread that sparse voxels give: log-normal, 1 to 400."""
    random = np.random.default_rng(0)
    sizes: list[int] = []
    while sum(sizes) < tokens:
        sizes.append(int(np.clip(random.lognormal(4.4, 0.6), 1, 400)))
    sizes[-1] -= sum(sizes) - tokens
    return sizes


def pillar_windows(places: int = 12) -> tuple[list[int], Tensor]:
    """A LiDAR sweep in pillars of 0.32 m: sizes of its windows, and the place (N, 3) of each pillar."""
    cells = torch.unique(((lidar()[:, :2] + 74.88) / 0.32).floor().int(), dim=0)
    cells = cells[((cells >= 0) & (cells < 468)).all(1)]
    window = cells // places
    cells = cells[torch.argsort(window[:, 0] * 1000 + window[:, 1], stable=True)]
    _, counts = torch.unique(cells // places, dim=0, return_counts=True)
    return counts.tolist(), F.pad(cells % places, (0, 1)).contiguous()


def heads_first(*tensors: Tensor) -> list[Tensor]:
    return [x.transpose(-3, -2) for x in tensors]


def one_by_one(bounds: list[int], mask: Callable[[int], Tensor] | None = None) -> Attend:
    """A loop over windows; mask(w), (1, H, S, S), is added to the scores of window w.

    Windows are split off, not sliced: the gradient of each slice would be as large as the whole. Masks with four axes
    keep torch in its fused kernel.
    """
    sizes = [b - a for a, b in pairwise(bounds)]

    def attend(*qkv: Tensor) -> Tensor:
        pieces = []
        for w, window in enumerate(zip(*(x[None].split(sizes, 1) for x in qkv), strict=True)):
            added = None if mask is None else mask(w).type_as(qkv[0])
            pieces.append(F.scaled_dot_product_attention(*heads_first(*window), attn_mask=added)[0])
        return torch.cat([piece.transpose(0, 1) for piece in pieces])

    return attend


def padded(bounds: list[int], groups: list[list[int]], bias: Callable[[Tensor], Tensor] | None = None) -> Attend:
    """Windows padded to the longest of their group, and a mask; one group for all, or groups of similar size.

    Rows are found beforehand: they are windows' matter. bias(rows (W, L)), (W, H, L, L), is added to scores.
    """
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
        plans.append((rows.clamp_max(bounds[-1] - 1).to(args.device), valid.to(args.device)))
    back = back.to(args.device)
    every = torch.cat([rows.flatten() for rows, _ in plans])  # taken at once: a gradient for each group would be added
    counts = [rows.numel() for rows, _ in plans]

    def attend(*qkv: Tensor) -> Tensor:
        out = []
        taken = zip(*(x.index_select(0, every).split(counts) for x in qkv), strict=True)
        for (rows, valid), of_group in zip(plans, taken, strict=True):
            q, k, v = heads_first(*(x.unflatten(0, rows.shape) for x in of_group))
            mask = valid[:, None, None]
            if bias is not None:
                mask = bias(rows).type_as(q).masked_fill(~mask, -torch.inf)
            out.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(0, 1))
        return torch.cat(out).index_select(0, back)

    return attend


def by_size(sizes: list[int]) -> list[list[int]]:
    """Windows in order of size, in groups in which the longest is at most a quarter longer than the shortest."""
    groups: list[list[int]] = []
    for w in sorted(range(len(sizes)), key=sizes.__getitem__):
        if groups and sizes[w] <= max(sizes[groups[-1][0]] * 1.25, sizes[groups[-1][0]] + 8):
            groups[-1].append(w)
        else:
            groups.append([w])
    return groups


def run(case: str, sizes: list[int], heads: int, dim: int, places: Tensor | None = None) -> None:
    device, tokens = args.device, sum(sizes)
    draw = torch.Generator().manual_seed(0)
    qkv = [torch.randn(tokens, heads, dim, generator=draw).to(device).requires_grad_() for _ in range(3)]
    offsets = torch.tensor([0, *sizes], device=device).cumsum(0)
    bounds = offsets.tolist()
    extra, masks = {}, None
    if places is not None:
        window = places.max(0).values + 1
        table = torch.randn(heads, *(2 * window - 1).tolist(), generator=draw).to(device).requires_grad_()
        extra = {"bias_table": table, "query_coordinates": places.to(device), "key_coordinates": places.to(device)}
        with torch.no_grad():
            masks = []
            for a, b in pairwise(bounds):
                x, y, z = (places[a:b, None] - places[None, a:b] + window - 1).long().unbind(-1)
                masks.append(table.cpu()[None, :, x, y, z].contiguous())
    mask = masks.__getitem__ if masks else None
    candidates: dict[str, Attend] = {"ours": lambda q, k, v: ragged_attention(q, k, v, offsets, offsets, **extra)}
    if len(set(sizes)) == 1:
        candidates["torch, one dense call"] = lambda *qkv: (
            F.scaled_dot_product_attention(*heads_first(*(x.unflatten(0, (len(sizes), -1)) for x in qkv)))
            .transpose(1, 2)
            .flatten(0, 1)
        )
    elif device == "cpu":
        candidates["torch, window by window" + (", masks ready" if masks else "")] = one_by_one(bounds, mask)
        if not masks:
            candidates["torch, bucketed by size"] = padded(bounds, by_size(sizes))
            candidates["torch, padded"] = padded(bounds, [list(range(len(sizes)))])
    with torch.no_grad():
        exact = one_by_one(bounds, mask)(*(x.detach().cpu().double() for x in qkv))

    def without_grad(attend: Attend) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with torch.no_grad():
                return attend(*qkv)

        return call

    def with_grad(attend: Attend) -> Callable[[], Tensor]:
        leaves = [*qkv, *(x for x in extra.values() if x.requires_grad)]

        def call() -> Tensor:
            return torch.autograd.grad(attend(*qkv).sum(), leaves, allow_unused=True)[0]

        return call

    def check(name: str, out: Tensor) -> str:
        return f"max error {(out.cpu() - exact).abs().max():.0e}"

    pairs = sum(size * size for size in sizes) * heads
    case += f": {tokens} tokens, {len(sizes)} sequences, {heads} x {dim}, {4 * pairs * dim / 1e9:.2f} GFLOP"
    bench(case + ", forward", {name: without_grad(attend) for name, attend in candidates.items()}, check)
    bench(case + ", forward + backward", {name: with_grad(attend) for name, attend in candidates.items()})


if __name__ == "__main__":
    print(describe_machine())
    run("ATTENTION windows", windows(), 8, 16)
    pillars, places = pillar_windows()
    run("ATTENTION pillars", pillars, 8, 16)
    run("ATTENTION pillars with bias", pillars, 8, 16, places)
    run("ATTENTION windows of 32", windows(), 4, 32)
    run("ATTENTION windows of 48", windows(), 4, 48)
    run("ATTENTION dense", [1024] * 8, 4, 64)
