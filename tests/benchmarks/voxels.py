"""Voxels: ours, spconv's PointToVoxel where it is installed (with limits, and a dense table of the grid), torch.unique.

spconv returns copies of the points of each voxel and voxels in the order of the input; ours returns sorted voxels and
the voxel of each point. What torch makes of keys with `unique` is what ours returns without limits.
"""

from __future__ import annotations

from tests.benchmarks.harness import args, bench, describe_machine, lidar, peer

# isort: split
import torch

from pctransformer.ops import voxelize
from pctransformer.voxels import Grid

GRIDS = {
    "KITTI, 0.05 x 0.05 x 0.1": ((0.05, 0.05, 0.1), (0.0, -40.0, -3.0, 70.4, 40.0, 1.0), 5, 150_000),
    "all around, 0.1 x 0.1 x 0.15": ((0.1, 0.1, 0.15), (-75.2, -75.2, -2.0, 75.2, 75.2, 4.0), 5, 150_000),
    "pillars of 0.16": ((0.16, 0.16, 4.0), (-69.12, -40.96, -3.0, 69.12, 40.96, 1.0), 32, 40_000),
}
"""Name to voxel size, range, and the usual limits of points per voxel and of voxels."""


def run(name: str, xyz: torch.Tensor) -> None:
    size, extent, max_points, max_voxels = GRIDS[name]
    grid = Grid.from_range(extent, size)
    where, shape = (grid.low, grid.voxel_size, grid.shape), grid.shape[::-1]
    points, offsets = xyz.to(args.device), torch.tensor([0, len(xyz)], device=args.device)
    low, step, cells = (torch.tensor(values, device=args.device) for values in (extent[:3], size, shape))

    def keys():
        place = ((points - low) / step).floor().long()
        inside = ((place >= 0) & (place < cells)).all(1)
        return place[inside], inside

    def torch_unique():
        place, inside = keys()
        key, voxel, counts = torch.unique(
            (place[:, 2] * shape[1] + place[:, 1]) * shape[0] + place[:, 0], return_inverse=True, return_counts=True
        )
        index = torch.full((len(points),), -1, device=args.device)
        index[inside] = voxel
        zero = torch.zeros_like(key)
        coordinates = torch.stack([zero, key // shape[0] // shape[1], key // shape[0] % shape[1], key % shape[0]], 1)
        return coordinates.int(), None, index, counts

    def torch_unique_rows():
        place, inside = keys()
        rows, voxel, counts = torch.unique(place.flip(1), dim=0, return_inverse=True, return_counts=True)
        index = torch.full((len(points),), -1, device=args.device)
        index[inside] = voxel
        return torch.nn.functional.pad(rows, (1, 0)).int(), None, index, counts

    expected = torch_unique()

    def check(candidate, result):
        if candidate.startswith("spconv"):
            return f"{len(result[0])} voxels, {int(result[2].sum())} points"
        assert torch.equal(result[0], expected[0]), "other voxels"
        if "limits" not in candidate:
            assert torch.equal(result[2], expected[2]), "points are elsewhere"
            assert torch.equal(result[3], expected[3]), "other counts"
        return f"{len(result[0])} voxels, {int(result[3].sum())} points"

    candidates = {
        "ours": lambda: voxelize(points, offsets, *where),
        "ours, with limits": lambda: voxelize(points, offsets, *where, max_points=max_points, max_voxels=max_voxels),
        "torch unique of keys": torch_unique,
        "torch unique of rows": torch_unique_rows,
    }
    if (utils := peer("spconv.pytorch.utils")) and args.device == "cpu":
        table = utils.PointToVoxel(list(size), list(extent), 3, max_voxels, max_points)
        candidates["spconv PointToVoxel, with limits"] = lambda: table(xyz)
    bench(f"voxels of {len(xyz)} points, {name} ({len(expected[0])} voxels)", candidates, check)


if __name__ == "__main__":
    print(describe_machine())
    cloud = lidar()
    for grid in GRIDS:
        run(grid, cloud)
