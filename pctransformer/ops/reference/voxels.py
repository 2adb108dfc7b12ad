from __future__ import annotations

import torch
from torch import Tensor

from pctransformer.ops.reference._values import check_finite, check_offsets, spans


def voxelize(
    xyz: Tensor,
    offsets: Tensor,
    low_x: float,
    low_y: float,
    low_z: float,
    size_x: float,
    size_y: float,
    size_z: float,
    nx: int,
    ny: int,
    nz: int,
    max_points: int,
    max_voxels: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Number the cells of each cloud's points, and sort."""
    check_offsets(offsets, len(xyz), "voxelize", "offsets")
    check_finite(xyz, "voxelize", "xyz")
    low, size = (xyz.new_tensor(values) for values in ((low_x, low_y, low_z), (size_x, size_y, size_z)))
    shape = torch.tensor([nx, ny, nz], device=xyz.device)
    place = (xyz - low) / size
    cell = torch.where(place.abs() < 2**31, place, -1).floor().long()
    inside = ((place >= 0) & (cell >= 0) & (cell < shape)).all(1)
    key = (cell[:, 2] * ny + cell[:, 1]) * nx + cell[:, 0]
    index = torch.full((len(xyz),), -1, dtype=torch.int64, device=xyz.device)
    parts, counts, ends = [xyz.new_zeros(0, 4, dtype=torch.int32)], [index[:0]], [0]
    for b, (begin, end) in enumerate(spans(offsets)):
        rows = begin + inside[begin:end].nonzero()[:, 0]
        keys, voxel, count = key[rows].unique(return_inverse=True, return_counts=True)
        # the first point of each voxel, in the order of the input, and how many of its points come before a point
        order = voxel.argsort(stable=True)
        starts = count.cumsum(0) - count
        earlier = torch.empty_like(order)
        earlier[order] = torch.arange(len(order), device=xyz.device) - starts[voxel[order]]
        oldest = rows[order[starts]].argsort()[:max_voxels]
        kept = oldest.sort().values
        number = torch.full_like(count, -1)
        number[kept] = ends[-1] + torch.arange(len(kept), device=xyz.device)
        index[rows] = torch.where(earlier < max_points, number[voxel], -1)
        keys = keys[kept]
        layer = keys // nx // ny
        parts.append(torch.stack([torch.full_like(keys, b), layer, keys // nx % ny, keys % nx], 1).int())
        counts.append(count[kept].clamp_max(max_points))
        ends.append(ends[-1] + len(kept))
    return torch.cat(parts), torch.tensor(ends).to(xyz.device), index, torch.cat(counts)
