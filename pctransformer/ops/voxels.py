"""Voxels: from points to the cells of a grid that hold some."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pctransformer.ops import _checks, _library

MAX_POINTS = 2**31 - 1
"""Points are 32-bit numbers inside the kernels (kMaxVoxelizePoints in csrc/checks.h)."""

MAX_CELLS = 2**62
"""Cells of the grids of a whole batch, whose numbers are 64-bit."""


class Voxels(NamedTuple):
    """Occupied cells of a batch of clouds; see `voxelize`."""

    coordinates: Tensor
    offsets: Tensor
    point_voxel: Tensor
    counts: Tensor


def voxelize(
    xyz: Tensor,
    offsets: Tensor,
    low: Sequence[float],
    voxel_size: Sequence[float],
    shape: Sequence[int],
    *,
    max_points: int | None = None,
    max_voxels: int | None = None,
) -> Voxels:
    """Put points into the cells of a grid, cloud by cloud, and name the cells that are not empty.

    A cell includes its lower border and excludes its upper one; points outside of the range, on its upper border too,
    are in no voxel. Cells are computed in float32, (x - low) / size, rounded down, as published detectors do.

    Without limits every point in the range counts ("dynamic" voxels). With limits the published rule decides what is
    left out: in the order of the input, a point is left out when its voxel holds `max_points` already, or when its
    voxel would be one more than `max_voxels` in its cloud; shuffle clouds whose order has a meaning. CPU and CUDA give
    the same, whatever the number of threads. On CUDA this waits for the device, since the number of voxels is not known
    beforehand.

    Features of voxels come from `scatter(features, point_voxel, len(coordinates), "mean")`. `pctransformer.voxels.Grid`
    makes the three numbers of a grid from a range and a voxel size.

    Args:
        xyz: clouds, packed (N, 3) float32, metres; N < 2^31.
        offsets: (B + 1,) int64, cloud b is rows offsets[b]:offsets[b + 1].
        low: x, y, z of the lowest corner of the grid, metres.
        voxel_size: x, y, z edges of a voxel, metres.
        shape: (nz, ny, nx) voxels of the grid, each below 2^31.
        max_points: most points of a voxel; None: no limit.
        max_voxels: most voxels of each cloud; None: no limit.

    Returns:
        coordinates (M, 4) int32: cloud, z, y, x of each voxel, ascending in this order.
        offsets (B + 1,) int64: the voxels of cloud b are rows offsets[b]:offsets[b + 1].
        point_voxel (N,) int64: point_voxel[n] = m means that point n is in voxel m; -1 where it is in none.
        counts (M,) int64: points of each voxel, 1 <= counts <= max_points.

    Raises:
        ValueError: low, voxel_size and shape do not make a grid, the grids of the batch have more than 2^62 voxels, a
            limit is below 1; on CPU: NaN or infinite coordinates, offsets that decrease. On CUDA a NaN point is in no
            voxel.
        TypeError: xyz is not float32, offsets are not int64.

    Source: Zhou and Tuzel, VoxelNet, 2018 (limits); dynamic voxels: Zhou et al., Multi-view fusion, 2020.
    """
    _checks.xyz(xyz)
    _checks.offsets(offsets, xyz)
    if xyz.shape[0] > MAX_POINTS:
        raise ValueError(f"xyz must hold at most {MAX_POINTS} points, got {xyz.shape[0]}; split the batch")
    for name, values in (("low", low), ("voxel_size", voxel_size), ("shape", shape)):
        if len(values) != 3:
            raise ValueError(f"{name} must be three numbers, got {tuple(values)}")
    if not all(-math.inf < x < math.inf for x in low):
        raise ValueError(f"low must be finite, got {tuple(low)}")
    for size, cells in zip(voxel_size, shape):
        _checks.positive(size, "voxel_size")
        _checks.integer(cells, "shape", 1, 2**31 - 1)
    clouds = offsets.shape[0] - 1
    if math.prod(shape) * max(1, clouds) > MAX_CELLS:
        raise ValueError(
            f"{clouds} grids of {tuple(shape)} voxels have more than 2^62, more than can be numbered; use larger voxels"
        )
    nz, ny, nx = shape
    most = max(1, xyz.shape[0])
    max_points = most if max_points is None else max_points
    max_voxels = most if max_voxels is None else max_voxels
    _checks.integer(max_points, "max_points", 1)
    _checks.integer(max_voxels, "max_voxels", 1)
    numbers = [float(x) for x in (*low, *voxel_size)]
    return Voxels(
        *_library.call(
            _voxelize, xyz.detach().contiguous(), offsets.contiguous(), *numbers, nx, ny, nz, max_points, max_voxels
        )
    )


def _fake(xyz, offsets, low_x, low_y, low_z, size_x, size_y, size_z, nx, ny, nz, max_points, max_voxels):
    voxels = torch.library.get_ctx().new_dynamic_size()
    return (
        offsets.new_empty((voxels, 4), dtype=torch.int32),
        torch.empty_like(offsets),
        offsets.new_empty((xyz.shape[0],)),
        offsets.new_empty((voxels,)),
    )


_voxelize = _library.register("voxelize", fake=_fake)
