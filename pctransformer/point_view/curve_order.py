"""The order of points along a space-filling curve."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from pctransformer.ops import hilbert_code, morton_code, segment
from pctransformer.points import PointBatch

Curve = Literal["morton", "morton_transposed", "hilbert", "hilbert_transposed"]


def curve_code(cells: Tensor, curve: Curve, bits: int) -> Tensor:
    """Number cells along a curve: see `pctransformer.ops.morton_code` and `hilbert_code`.

    Args:
        cells: (N, 3) int64, 0 <= c < 2^bits.
        curve: "..._transposed" is the curve with x and y exchanged, which cuts space into patches otherwise.
        bits: bits per axis.

    Returns:
        code (N,) int64. Of two levels of a grid, the code of the coarser cell is `code >> 3` of the finer one.

    Raises:
        ValueError: there is no such curve, or as the operators.
    """
    name, _, transposed = curve.partition("_")
    if name not in ("morton", "hilbert") or transposed not in ("", "transposed"):
        raise ValueError(f'curve must be "morton" or "hilbert", with "_transposed" behind it or not, got {curve!r}')
    if transposed:
        cells = cells[:, [1, 0, 2]]
    return hilbert_code(cells, bits) if name == "hilbert" else morton_code(cells, bits)


def curve_order(batch: PointBatch, curve: Curve, *, bits: int = 10) -> Tensor:
    """Sort the points of each cloud along a curve through the cube around it.

    The cube has the side of the cloud's largest extent and 2^bits cells along each side; points of one cell stay in the
    order they have. Shifting a cloud or scaling it changes nothing but what falls on the borders of cells.

    Args:
        batch: clouds.
        curve: see `curve_code`.
        bits: cells per axis, as a power of two; 3 * bits and the bits of the number of clouds fit into 63.

    Returns:
        order (N,) int64, a permutation of the rows: `batch.xyz[order]` is each cloud along its curve, with the offsets
        that `batch` has.

    Source: serialization after Wu et al., Point Transformer V3, 2024; Morton order of patches after Chen et al.,
    PointGPT, 2023.
    """
    if bits < 1 or len(batch) > 2 ** (63 - 3 * bits):
        raise ValueError(f"{len(batch)} clouds and 3 * {bits} bits do not fit into 63; give fewer bits, at least one")
    xyz = batch.xyz.detach()
    cloud = batch.batch_index
    high, low = segment(xyz, batch.offsets, "max"), -segment(-xyz, batch.offsets, "max")  # (B, 3)
    extent = (high - low).amax(1, keepdim=True).clamp(min=1e-30)  # (B, 1)
    place = (xyz - low.index_select(0, cloud)) / extent.index_select(0, cloud)  # in [0, 1]
    cells = (place * 2**bits).long().clamp(0, 2**bits - 1)
    return (cloud << 3 * bits | curve_code(cells, curve, bits)).argsort(stable=True)
