"""Multi-scale deformable attention: ours, and `grid_sample` level by level, as published beside the CUDA kernel."""

from __future__ import annotations

from collections.abc import Callable

from tests.benchmarks.harness import args, bench, describe_machine

# isort: split
import torch
import torch.nn.functional as F
from torch import Tensor

from pctransformer.ops import deformable_attention

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def by_grid_sample(shapes: list[tuple[int, int]]) -> Attend:
    """All levels sampled, then one weighted sum."""

    def attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        batch, queries, heads, levels, points = weights.shape
        grid = 2 * locations - 1
        samples = []
        for level, cells in enumerate(value.split([height * width for height, width in shapes], 1)):
            maps = cells.flatten(2).transpose(1, 2).reshape(batch * heads, -1, *shapes[level])
            places = grid[:, :, :, level].transpose(1, 2).flatten(0, 1)
            samples.append(F.grid_sample(maps, places, align_corners=False))  # (BH, D, Q, P)
        shares = weights.transpose(1, 2).reshape(batch * heads, 1, queries, levels * points)
        output = (torch.stack(samples, -2).flatten(-2) * shares).sum(-1)
        return output.view(batch, -1, queries).transpose(1, 2)

    return attend


def run(case: str, shapes: list[tuple[int, int]], queries: int | None, heads: int, dim: int, points: int) -> None:
    """Queries None: each cell is one, and looks around itself, as in an encoder; else anywhere, as in a decoder."""
    draw = torch.Generator().manual_seed(0)
    cells = sum(height * width for height, width in shapes)
    value = torch.randn(1, cells, heads, dim, generator=draw)
    sizes = torch.tensor(shapes).flip(-1)
    if queries is None:
        centres = [
            torch.cartesian_prod((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width).flip(-1)
            for height, width in shapes
        ]
        near = torch.randn(1, cells, heads, len(shapes), points, 2, generator=draw) * points / sizes[:, None]
        locations = torch.cat(centres)[None, :, None, None, None] + near
    else:
        locations = torch.rand(1, queries, heads, len(shapes), points, 2, generator=draw)
    weights = torch.rand(locations.shape[:-1], generator=draw)
    weights = weights / weights.sum((-1, -2), keepdim=True)
    inputs = [x.to(args.device).requires_grad_() for x in (value, locations, weights)]
    candidates: dict[str, Attend] = {
        "ours": lambda v, x, w: deformable_attention(v, shapes, x, w),
        "torch grid_sample": by_grid_sample(shapes),
    }
    with torch.no_grad():
        exact = by_grid_sample(shapes)(*(x.detach().cpu().double() for x in inputs))

    def forward(attend: Attend) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with torch.no_grad():
                return attend(*inputs)

        return call

    def check(name: str, out: Tensor) -> str:
        return f"max error {(out.cpu() - exact).abs().max():.0e}"

    case += f": {weights.shape[1]} queries, {cells} cells on {len(shapes)} levels, {heads} x {dim}, {points} points"
    bench(f"{case}, forward", {name: forward(attend) for name, attend in candidates.items()}, check)
    bench(
        f"{case}, forward + backward",
        {
            name: lambda attend=attend: torch.autograd.grad(attend(*inputs).sum(), inputs)[0]
            for name, attend in candidates.items()
        },
    )


if __name__ == "__main__":
    print(describe_machine())
    run("DEFORMABLE decoder", [(200, 176), (100, 88), (50, 44)], 900, 8, 32, 4)
    run("DEFORMABLE encoder", [(100, 88), (50, 44), (25, 22)], None, 8, 32, 4)
    run("DEFORMABLE encoder, narrow heads", [(80, 80), (40, 40), (20, 20)], None, 8, 16, 4)
