"""The order of points along a space-filling curve."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from pctransformer.ops import hilbert_code, morton_code, segment
from pctransformer.points import PointBatch

Curve = Literal["morton", "hilbert"]


def curve_order(batch: PointBatch, curve: Curve, *, bits: int = 10) -> Tensor:
    """Sort the points of each cloud along a curve through the cube around it.

    The cube has the side of the cloud's largest extent and 2^bits cells along each side; points of one cell stay in the
    order they have. Shifting a cloud or scaling it changes nothing but what falls on the borders of cells.

    Args:
        batch: clouds.
        curve: "morton" or "hilbert", see `pctransformer.ops`.
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
    code = hilbert_code(cells, bits) if curve == "hilbert" else morton_code(cells, bits)
    return (cloud << 3 * bits | code).argsort(stable=True)
