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


def grid_shape(voxel_size: Sequence[float], point_range: Sequence[float]) -> tuple[int, int, int]:
    """Cells (nx, ny, nz) of a grid.

    Args:
        voxel_size: metres along x, y and z.
        point_range: x, y, z of the lower corner, then of the upper one, metres.

    Raises:
        ValueError: not three sizes above 0 and a range of three lower and three higher numbers; the range is not a
            whole number of voxels.
    """
    if len(voxel_size) != 3 or not all(0 < size < math.inf for size in voxel_size):
        raise ValueError(f"voxel_size must be three lengths above 0 along x, y, z, got {tuple(voxel_size)}")
    if len(point_range) != 6 or not all(
        -math.inf < low < high < math.inf for low, high in zip(point_range[:3], point_range[3:])
    ):
        raise ValueError(
            "point_range must be x, y, z of the lower corner, then of a corner that is higher along each axis, got"
            f" {tuple(point_range)}"
        )
    shape = []
    for axis, size, low, high in zip("xyz", voxel_size, point_range[:3], point_range[3:]):
        cells = (high - low) / size
        if abs(cells - round(cells)) > 1e-3 or round(cells) < 1:
            raise ValueError(
                f"the range along {axis}, {low} to {high}, is {cells:.4g} voxels of {size}; make it a whole number,"
                f" for instance up to {low + max(1, round(cells)) * size:.6g}"
            )
        shape.append(round(cells))
    return shape[0], shape[1], shape[2]


def voxelize(
    xyz: Tensor,
    offsets: Tensor,
    voxel_size: Sequence[float],
    point_range: Sequence[float],
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

    Features of voxels come from `scatter(features, point_voxel, len(coordinates), "mean")`.

    Args:
        xyz: clouds, packed (N, 3) float32, metres; N < 2^31.
        offsets: (B + 1,) int64, cloud b is rows offsets[b]:offsets[b + 1].
        voxel_size: metres along x, y and z.
        point_range: x, y, z of the lower corner of the grid, then of its upper corner, metres; whole voxels.
        max_points: most points of a voxel; None: no limit.
        max_voxels: most voxels of each cloud; None: no limit.

    Returns:
        coordinates (M, 4) int32: cloud, z, y, x of each voxel, ascending in this order.
        offsets (B + 1,) int64: the voxels of cloud b are rows offsets[b]:offsets[b + 1].
        point_voxel (N,) int64: point_voxel[n] = m means that point n is in voxel m; -1 where it is in none.
        counts (M,) int64: points of each voxel, 1 <= counts <= max_points.

    Raises:
        ValueError: sizes and range do not make a grid (see `grid_shape`), the grids of the batch have more than 2^62
            cells, a limit is below 1; on CPU: NaN or infinite coordinates, offsets that decrease. On CUDA a NaN point
            is in no voxel.
        TypeError: xyz is not float32, offsets are not int64.

    Source: Zhou and Tuzel, VoxelNet, 2018 (limits); dynamic voxels: Zhou et al., Multi-view fusion, 2020.
    """
    _checks.xyz(xyz)
    _checks.offsets(offsets, xyz)
    if xyz.shape[0] > MAX_POINTS:
        raise ValueError(f"xyz must hold at most {MAX_POINTS} points, got {xyz.shape[0]}; split the batch")
    nx, ny, nz = grid_shape(voxel_size, point_range)
    clouds = offsets.shape[0] - 1
    if max(nx, ny, nz) >= 2**31 or nx * ny * nz * max(1, clouds) > MAX_CELLS:
        raise ValueError(
            f"a batch of {clouds} grids of {nx} x {ny} x {nz} voxels is more than can be numbered (2^62 in all, 2^31"
            " along an axis); use larger voxels or a smaller range"
        )
    most = max(1, xyz.shape[0])
    max_points = most if max_points is None else max_points
    max_voxels = most if max_voxels is None else max_voxels
    _checks.integer(max_points, "max_points", 1)
    _checks.integer(max_voxels, "max_voxels", 1)
    low, size = [float(x) for x in point_range[:3]], [float(x) for x in voxel_size]
    return Voxels(
        *_library.call(
            _voxelize, xyz.detach().contiguous(), offsets.contiguous(), *low, *size, nx, ny, nz, max_points, max_voxels
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
