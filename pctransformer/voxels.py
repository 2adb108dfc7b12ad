"""Grid, VoxelBatch, BevMap: space cut into cells, the occupied ones as rows, and a dense map seen from above."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pctransformer.ops import _checks, gather, scatter, voxelize
from pctransformer.points import PointBatch

_MOST_CELLS = 2**48  # so that the cells of thousands of grids can be numbered in int64
_WHOLE = 1e-3  # a range may miss a whole number of cells by this share of a cell: 0.1 has no exact float


@dataclasses.dataclass(frozen=True)
class Grid:
    """A box of space cut into equal cells.

    Lengths run x, y, z as coordinates of points do; counts of cells, and the coordinates of cells, run z, y, x as the
    axes of a dense map and of convolution kernels do. Cell (z, y, x) reaches from `low + voxel_size * (x, y, z)` over
    one voxel size; its lower faces belong to it, its upper ones to the next.

    Attributes:
        low: (x, y, z) of the lowest corner, metres.
        voxel_size: (x, y, z) edges of a cell, metres.
        shape: (nz, ny, nx) cells.

    Example:
        >>> Grid.from_range((0, -40, -3, 70.4, 40, 1), voxel_size=(0.05, 0.05, 0.1)).shape
        (40, 1600, 1408)
    """

    low: tuple[float, float, float]
    voxel_size: tuple[float, float, float]
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        for name in ("low", "voxel_size", "shape"):
            value = getattr(self, name)
            if len(value) != 3:
                raise ValueError(f"{name} must be three numbers, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        for size in self.voxel_size:
            _checks.positive(size, "voxel_size")
        for count in self.shape:
            _checks.integer(count, "shape", 1, 2**31 - 1)  # coordinates are int32
        if math.prod(self.shape) > _MOST_CELLS:
            raise ValueError(f"a grid may have 2^48 cells, {self.shape} are more; make cells larger")

    @classmethod
    def from_range(cls, limits: Sequence[float], voxel_size: Sequence[float]) -> Grid:
        """The grid that fills a range.

        Args:
            limits: (x, y, z) of the lowest corner, then of the highest, metres: six numbers, as detectors write them.
            voxel_size: (x, y, z) edges of a cell, metres, a whole number of which fill the range.

        Raises:
            ValueError: there are not six and three numbers, the range is empty, or cells do not fill it.
        """
        if len(limits) != 6 or len(voxel_size) != 3:
            raise ValueError(f"a range is six numbers and a voxel size three, got {limits!r} and {voxel_size!r}")
        counts = []
        for axis, low, high, size in zip("xyz", limits[:3], limits[3:], voxel_size, strict=True):
            _checks.positive(size, "voxel_size")
            count = (high - low) / size
            if not round(count) >= 1 or abs(count - round(count)) > _WHOLE:
                raise ValueError(
                    f"the range along {axis}, {low} to {high}, is {count:.4g} cells of {size}; it must be a whole"
                    f" number of them: end it at {low + max(math.ceil(count), 1) * size:g}"
                )
            counts.append(round(count))
        x, y, z = counts
        return cls(tuple(limits[:3]), tuple(voxel_size), (z, y, x))  # type: ignore[arg-type]

    @property
    def high(self) -> tuple[float, float, float]:
        """(x, y, z) of the highest corner, metres."""
        x, y, z = (
            low + size * count for low, size, count in zip(self.low, self.voxel_size, self.shape[::-1], strict=True)
        )
        return x, y, z

    def flattened(self) -> Grid:
        """The same columns, each of one cell over the whole height."""
        x, y, z = self.voxel_size
        return Grid(self.low, (x, y, z * self.shape[0]), (1, *self.shape[1:]))

    def cells(self, xyz: Tensor) -> tuple[Tensor, Tensor]:
        """The cell of each point.

        Args:
            xyz: (N, 3), metres.

        Returns:
            cells (N, 3) int64: z, y, x; zeros for a point outside.
            inside (N,) bool: whether the point is in the grid. NaN is not.
        """
        count = torch.tensor(self.shape[::-1], device=xyz.device)
        place = ((xyz - xyz.new_tensor(self.low)) / xyz.new_tensor(self.voxel_size)).floor()
        inside = ((place >= 0) & (place < count)).all(1)
        return torch.where(inside[:, None], place, 0).long().flip(1), inside

    def centers(self, cells: Tensor) -> Tensor:
        """(M, 3) float32 x, y, z of the centres of cells (M, 3) z, y, x, metres."""
        place = cells.flip(1).double() + 0.5  # so that a centre is the same float32 wherever the grid begins
        return (place * place.new_tensor(self.voxel_size) + place.new_tensor(self.low)).float()

    def convolved(self, kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Grid:
        """The grid that a convolution makes of this one: each new cell is centred on what its kernel sees.

        Args:
            kernel_size: cells along z, y, x, as the other two.
            stride: cells from one new cell to the next.
            padding: cells added on each side.

        Raises:
            ValueError: the kernel is larger than the padded grid.
        """
        counts = [
            (n + 2 * pad - kernel) // step + 1
            for n, kernel, step, pad in zip(self.shape, kernel_size, stride, padding, strict=True)
        ]
        if min(counts) < 1:
            raise ValueError(
                f"a kernel of {tuple(kernel_size)} cells does not fit into a grid of {self.shape} with"
                f" {tuple(padding)} cells of padding; pad more, or keep the grid finer"
            )
        lows, sizes = [], []
        for low, size, kernel, step, pad in zip(
            self.low, self.voxel_size, kernel_size[::-1], stride[::-1], padding[::-1], strict=True
        ):
            lows.append(low + size * ((kernel - step) / 2 - pad))
            sizes.append(size * step)
        return Grid(tuple(lows), tuple(sizes), tuple(counts))  # type: ignore[arg-type]


class OccupiedCells(NamedTuple):
    """Cells that hold points, and where the points went.

    Attributes:
        coordinates: (M, 4) int32 batch, z, y, x, in the order of `VoxelBatch`.
        offsets: (B + 1,) int64: cloud b has the cells offsets[b]:offsets[b + 1].
        cell_of_point: (N,) int64 row of each point's cell, -1 for a point outside of the grid.
    """

    coordinates: Tensor
    offsets: Tensor
    cell_of_point: Tensor


def occupied_cells(points: PointBatch, grid: Grid) -> OccupiedCells:
    """Which cells of a grid hold points. On CUDA this waits for the device, which knows how many there are."""
    voxels = voxelize(points.xyz, points.offsets, grid.low, grid.voxel_size, grid.shape)
    return OccupiedCells(voxels.coordinates, voxels.offsets, voxels.point_voxel)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class VoxelBatch:
    """The occupied cells of a batch of clouds, row after row.

    Rows are sorted by cloud, then z, y, x, and no cell comes twice. Cloud b is rows `offsets[b]:offsets[b + 1]`. Never
    written into: `replace` makes a changed copy. Make one with `from_points` or `from_coordinates`.

    Attributes:
        coordinates: (M, 4) int32 batch, z, y, x of each cell, contiguous.
        features: (M, C) of each cell.
        offsets: (B + 1,) int64 row offsets with a leading 0.
        grid: of which these are cells.
    """

    coordinates: Tensor
    features: Tensor
    offsets: Tensor
    grid: Grid

    def __post_init__(self) -> None:
        _check_cells(self.coordinates, self.features)
        if self.coordinates.dtype != torch.int32:
            raise TypeError(f"coordinates must be int32, got {self.coordinates.dtype}; from_coordinates takes others")
        _checks.offsets(self.offsets, self.coordinates, like_name="coordinates")

    # ---- from what people have ---------------------------------------------------------------------------------------
    @classmethod
    def from_points(cls, points: PointBatch, grid: Grid) -> VoxelBatch:
        """The mean of the points in each cell: coordinates, then features if there are any. Points outside are left
        out. On CUDA this waits for the device."""
        coordinates, offsets, cell_of_point = occupied_cells(points, grid)
        channels = points.xyz if points.features is None else torch.cat([points.xyz, points.features], 1)
        return cls(coordinates, scatter(channels, cell_of_point, len(coordinates), "mean"), offsets, grid)

    @classmethod
    def from_coordinates(cls, coordinates: Tensor, features: Tensor, grid: Grid, batch_size: int) -> VoxelBatch:
        """From cells in any order, as spconv's `indices` and `features`; rows come out sorted.

        Args:
            coordinates: (M, 4) integers: batch, z, y, x.
            features: (M, C).
            grid: of which these are cells.
            batch_size: clouds, empty ones included.

        Raises:
            ValueError: shapes do not fit; on CPU: a cell is outside of the grid or comes twice.
        """
        _check_cells(coordinates, features)
        key = cell_key(coordinates.long(), grid.shape)
        if coordinates.device.type == "cpu" and key.numel():
            limit = torch.tensor([batch_size, *grid.shape])
            outside = ((coordinates < 0) | (coordinates >= limit)).any(1)
            if outside.any():
                raise ValueError(
                    f"cell {coordinates[outside][0].tolist()} (batch, z, y, x) is not one of {batch_size} grids of"
                    f" {grid.shape}; check the order of axes"
                )
        key, order = key.sort(stable=True)
        if key.device.type == "cpu" and (key.diff() == 0).any():
            twice = coordinates[order[1:][key.diff() == 0][0]].tolist()
            raise ValueError(f"cell {twice} (batch, z, y, x) comes twice; join its features first")
        ordered = coordinates.index_select(0, order).int().contiguous()
        return cls(ordered, gather(features, order), offsets_of_key(key, batch_size, grid.shape), grid)

    # ---- what it holds -----------------------------------------------------------------------------------------------
    def __len__(self) -> int:
        return self.offsets.shape[0] - 1

    def __repr__(self) -> str:
        return (
            f"VoxelBatch({len(self)} clouds, {self.coordinates.shape[0]} cells of {self.grid.shape},"
            f" features {tuple(self.features.shape)}, {self.device})"
        )

    @property
    def device(self) -> torch.device:
        return self.coordinates.device

    @property
    def lengths(self) -> Tensor:
        """(B,) int64 occupied cells of each cloud."""
        return self.offsets.diff()

    @property
    def batch_index(self) -> Tensor:
        """(M,) int64 the cloud of each cell."""
        return self.coordinates[:, 0].long()

    @property
    def centers(self) -> Tensor:
        """(M, 3) float32 x, y, z of the centre of each cell, metres."""
        return self.grid.centers(self.coordinates[:, 1:])

    # ---- changed copies ----------------------------------------------------------------------------------------------
    def replace(self, **changes: Any) -> VoxelBatch:
        """A copy with some attributes changed; the others are shared."""
        return dataclasses.replace(self, **changes)

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> VoxelBatch:
        """The batch on another device."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return VoxelBatch(moved(self.coordinates), moved(self.features), moved(self.offsets), self.grid)

    def to_points(self) -> PointBatch:
        """Cells as tokens: points at their centres, with their features."""
        return PointBatch(self.centers, self.offsets, self.features)


@dataclasses.dataclass(frozen=True, eq=False)
class BevMap:
    """A dense map of the scene from above, one for each cloud.

    Attributes:
        features: (B, C, ny, nx): row y and column x of the grid.
        grid: whose columns of cells these are.
    """

    features: Tensor
    grid: Grid

    def __post_init__(self) -> None:
        _checks.tensor(self.features, "features")
        if self.features.dim() != 4 or self.features.shape[2:] != self.grid.shape[1:]:
            raise ValueError(
                f"features must be (B, C, ny, nx) with ny, nx = {self.grid.shape[1:]}, got {tuple(self.features.shape)}"
            )

    @classmethod
    def from_voxels(cls, voxels: VoxelBatch) -> BevMap:
        """Heights become channels: (B, C * nz, ny, nx), channel c of height z at c * nz + z; zeros where no cell is.
        In memory channels come last.

        Source: Yan et al., SECOND, 2018, section 3.1.3.
        """
        key = cell_key(voxels.coordinates.long(), voxels.grid.shape)
        dense = _dense(voxels.features, key, (len(voxels), *voxels.grid.shape))  # (B, nz, ny, nx, C)
        return cls(dense.permute(0, 2, 3, 4, 1).flatten(3).permute(0, 3, 1, 2), voxels.grid)

    @classmethod
    def from_tokens(cls, tokens: PointBatch, grid: Grid, reduce: Literal["max", "mean"] = "max") -> BevMap:
        """Any tokens with positions, put into their columns; those outside of the grid are left out.

        Args:
            tokens: with features.
            grid: whose columns to use; heights do not matter within its range.
            reduce: what becomes of several tokens in one column.

        Returns:
            (B, C, ny, nx), zeros where no token is. In memory channels come last.
        """
        if tokens.features is None:
            raise ValueError("tokens must have features to put on a map, got a batch of bare points")
        flat = grid.flattened()
        coordinates, _, column = occupied_cells(tokens, flat)
        features = scatter(tokens.features, column, len(coordinates), reduce)
        dense = _dense(features, cell_key(coordinates.long(), flat.shape), (len(tokens), *grid.shape[1:]))
        return cls(dense.permute(0, 3, 1, 2), grid)

    def __len__(self) -> int:
        return self.features.shape[0]

    @property
    def device(self) -> torch.device:
        return self.features.device

    def replace(self, **changes: Any) -> BevMap:
        """A copy with some attributes changed."""
        return dataclasses.replace(self, **changes)

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> BevMap:
        """The map on another device."""
        return self.replace(features=self.features.to(device, non_blocking=non_blocking))


# ---- keys: cells of a batch numbered in their order ------------------------------------------------------------------
def cell_key(coordinates: Tensor, shape: Sequence[int]) -> Tensor:
    """(M,) int64 from (M, 4) int64 batch, z, y, x."""
    batch, z, y, x = coordinates.unbind(1)
    return ((batch * shape[0] + z) * shape[1] + y) * shape[2] + x


def cells_of_key(key: Tensor, shape: Sequence[int]) -> Tensor:
    """(M, 4) int32, what `cell_key` numbered."""
    zy, x = key // shape[2], key % shape[2]
    bz, y = zy // shape[1], zy % shape[1]
    return torch.stack([bz // shape[0], bz % shape[0], y, x], 1).int()


def offsets_of_key(key: Tensor, batch_size: int, shape: Sequence[int]) -> Tensor:
    """(B + 1,) int64 from sorted keys."""
    return torch.searchsorted(key, torch.arange(batch_size + 1, device=key.device) * math.prod(shape))


def _dense(features: Tensor, key: Tensor, shape: Sequence[int]) -> Tensor:
    """(*shape, C): features (M, C) at the places that keys (M,) number, zeros elsewhere."""
    rows = torch.full((math.prod(shape),), -1, device=key.device)
    return gather(features, rows.index_copy(0, key, torch.arange(len(key), device=key.device)).view(*shape))


def _check_cells(coordinates: Tensor, features: Tensor) -> None:
    _checks.tensor(coordinates, "coordinates")
    if coordinates.dim() != 2 or coordinates.shape[1] != 4:
        raise ValueError(f"coordinates must be (M, 4): batch, z, y, x; got {tuple(coordinates.shape)}")
    if coordinates.is_floating_point() or coordinates.dtype == torch.bool:
        raise TypeError(f"coordinates must be whole numbers of cells, got {coordinates.dtype}")
    _checks.tensor(features, "features")
    if features.dim() != 2 or features.shape[0] != coordinates.shape[0]:
        raise ValueError(
            f"features must be (M, C) with one row for each of {coordinates.shape[0]} cells,"
            f" got {tuple(features.shape)}"
        )
    _checks.same_device(features, "features", coordinates, "coordinates")
