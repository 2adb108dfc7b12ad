"""Clouds as sequences: points sorted along space-filling curves, cut into patches, and thinned by coarser cells.

Source of the whole file: Wu et al., Point Transformer V3, 2024, arXiv:2312.10035, sections 4.1 and 4.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from pctransformer.ops import segment
from pctransformer.point_view.cell_convolution import LevelCells, occupy
from pctransformer.point_view.curve_order import Curve, curve_code
from pctransformer.points import PointBatch


@dataclasses.dataclass(frozen=True, eq=False)
class SerializedPoints:
    """Points with their places along several curves. Rows stay as they are: an order says how to read them.

    Attributes:
        points: the points.
        codes: (curves, N) int64 number of each point's cell along each curve, its cloud above that.
        orders: (curves, N) int64 rows along each curve, cloud by cloud: `codes[c, orders[c]]` ascends.
        cells: (N, 3) int64 x, y, z of each point's cell, counted from the lowest of its cloud.
        bits: bits per axis in the codes, for this level of the grid.
        occupied: those cells as rows, for convolutions; None as long as nobody asked `with_occupied`.
    """

    points: PointBatch
    codes: Tensor
    orders: Tensor
    cells: Tensor
    bits: int
    occupied: LevelCells | None = None

    def replace(self, features: Tensor) -> SerializedPoints:
        """The same points with other features."""
        return dataclasses.replace(self, points=self.points.replace(features=features))

    def with_occupied(self) -> SerializedPoints:
        """The same points, and their cells as rows. On CUDA this waits for the device."""
        if self.occupied is not None:
            return self
        return dataclasses.replace(self, occupied=occupy(self.points, self.cells))


def serialize(batch: PointBatch, cell_size: float, curves: Sequence[Curve], *, bits: int = 16) -> SerializedPoints:
    """Sort points by the cells of a grid along curves.

    Cells begin at multiples of the cell size, and are counted from the lowest of each cloud. Points of one cell stay in
    the order that they have. A cloud's order does not depend on the clouds beside it.

    Args:
        batch: clouds.
        cell_size: metres, or whatever unit the clouds have.
        curves: see `curve_code`.
        bits: bits per axis: a cloud may extend over 2^bits cells. 3 * bits and the bits of the number of clouds fit
            into 63.

    Raises:
        ValueError: the cell size is not positive, or, on CPU, a cloud has too many cells along an axis.
    """
    if not cell_size > 0:
        raise ValueError(f"cell_size must be positive, got {cell_size}")
    if len(batch) > 2 ** (63 - 3 * bits):
        raise ValueError(f"{len(batch)} clouds and 3 * {bits} bits do not fit into 63; give fewer bits")
    cloud = batch.batch_index
    cells = (batch.xyz.detach() / cell_size).floor()
    lowest = -segment(-cells, batch.offsets, "max")  # (B, 3)
    cells = (cells - lowest.index_select(0, cloud)).long()
    if cells.device.type == "cpu" and (cells >= 2**bits).any():
        raise ValueError(
            f"a cloud extends over {int(cells.max()) + 1} cells of size {cell_size}, but {bits} bits can tell only"
            f" {2**bits} apart; make cells larger, or normalise the cloud"
        )
    codes = torch.stack([cloud << 3 * bits | curve_code(cells, curve, bits) for curve in curves])
    return SerializedPoints(batch, codes, codes.argsort(dim=1, stable=True), cells, bits)


@dataclasses.dataclass(frozen=True, eq=False)
class Coarsening:
    """Which points share a cell that is twice as large.

    Attributes:
        coarse: one point for each such cell that is occupied: the mean of the coordinates, no features.
        parent: (N,) int64 row of `coarse` for each point.
        members: (N,) int64 rows of the points, cell by cell.
        offsets: (M + 1,) int64: cell m has the points members[offsets[m]:offsets[m + 1]].
    """

    coarse: SerializedPoints
    parent: Tensor
    members: Tensor
    offsets: Tensor


def coarsen(level: SerializedPoints) -> Coarsening:
    """Join the points of cells twice as large; on CUDA this waits for the device, which knows how many there are.

    Raises:
        ValueError: the cells are as large as can be.
    """
    if level.bits < 2:
        raise ValueError("cells cannot be made larger: the whole grid is one cell")
    members = level.orders[0]
    _, of_sorted, counts = torch.unique_consecutive(
        level.codes[0].index_select(0, members) >> 3, return_inverse=True, return_counts=True
    )
    parent = torch.empty_like(members).scatter(0, members, of_sorted)
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    points, bits = level.points, level.bits - 1
    first = members.index_select(0, offsets[:-1])
    codes = level.codes.index_select(1, first) >> 3
    clouds = torch.arange(len(points) + 1, device=members.device)
    coarse = PointBatch(
        xyz=segment(points.xyz.index_select(0, members), offsets, "mean"),
        offsets=torch.searchsorted(codes[0] >> 3 * bits, clouds),
        origin=points.origin,
    )
    cells = level.cells.index_select(0, first) >> 1
    return Coarsening(
        SerializedPoints(coarse, codes, codes.argsort(dim=1, stable=True), cells, bits), parent, members, offsets
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Patches:
    """A packed sequence of N points cut into P patches.

    Attributes:
        offsets: (P + 1,) int64: the points of patch p are places offsets[p]:offsets[p + 1] of the sequence.
        key_places: (K,) int64 places of the points that each patch sees, patch by patch.
        key_offsets: (P + 1,) int64: patch p sees key_places[key_offsets[p]:key_offsets[p + 1]].
    """

    offsets: Tensor
    key_places: Tensor
    key_offsets: Tensor


def cut(offsets: Tensor, patch_size: int) -> Patches:
    """Cut each sequence into patches of equal size.

    The last patch of a sequence sees the last `patch_size` points, as many as the others, and so shares some of them
    with the patch before; a sequence that is shorter than a patch sees itself. The cut depends on nothing else: not on
    the other sequences of a batch, nor on the kernel that computes attention. On CUDA this waits for the device.

    Args:
        offsets: (B + 1,) int64, sequence b is places offsets[b]:offsets[b + 1].
        patch_size: points of a patch.
    """
    counts = (offsets.diff() + patch_size - 1) // patch_size  # (B,) patches
    sequence = torch.arange(len(counts), device=offsets.device).repeat_interleave(counts)  # (P,)
    number = torch.arange(len(sequence), device=offsets.device) - (counts.cumsum(0) - counts)[sequence]
    start, stop = offsets[:-1][sequence], offsets[1:][sequence]
    begin = start + number * patch_size
    end = torch.minimum(begin + patch_size, stop)
    key_begin = torch.maximum(end - patch_size, start)
    key_offsets = torch.nn.functional.pad((end - key_begin).cumsum(0), (1, 0))
    shift = (key_begin - key_offsets[:-1]).repeat_interleave(end - key_begin)
    key_places = torch.arange(len(shift), device=offsets.device) + shift
    return Patches(torch.cat([begin, offsets[-1:]]), key_places, key_offsets)
