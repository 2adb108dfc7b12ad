"""Orders of cells along space-filling curves: Morton and Hilbert codes.

Sorting by such a code puts cells that are near in space near in the sequence, which is how clouds become sequences that
can be cut into patches. Hilbert keeps neighbours together better, Morton is cheaper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pctransformer.ops import _checks, _library

MAX_BITS = 21
"""Three axes of 21 bits fill an int64 and leave its sign alone."""


def morton_code(coordinates: Tensor, bits: int = 16) -> Tensor:
    """Number cells along the Morton curve (z-order): the bits of their coordinates in turn.

    The code holds three bits per level, the highest level first, and in each triple x is the most significant bit
    (x << 2 | y << 1 | z), as in Point Transformer V3. What that paper calls a transposed order is the code of
    `coordinates[:, [1, 0, 2]]`. Cells of several clouds get one sort key by putting the cloud above the code,
    `cloud << 3 * bits | code`, for fewer than 2^(63 - 3 * bits) clouds. Prefer `hilbert_code` where consecutive cells
    must be neighbours.

    Args:
        coordinates: cells (N, 3) int32 or int64, x y z, 0 <= c < 2^bits.
        bits: bits per axis, 1 <= bits <= 21.

    Returns:
        code (N,) int64, 0 <= code < 2^(3 * bits); different cells have different codes. Not differentiable.

    Raises:
        ValueError: coordinates are not (N, 3), bits is outside its range, on CPU: a coordinate is outside its range. On
            CUDA only the lowest `bits` bits of a coordinate count.
        TypeError: coordinates are not integers.

    Source: Morton 1966.
    """
    return _code(_morton_code, coordinates, bits)


def hilbert_code(coordinates: Tensor, bits: int = 16) -> Tensor:
    """Number cells along the Hilbert curve: cells with consecutive numbers share a face.

    Of the many Hilbert curves in three dimensions this is Skilling's, from (0, 0, 0) to (2^bits - 1, 0, 0), which Point
    Transformer V3 uses too. What that paper calls a transposed order is the code of `coordinates[:, [1, 0, 2]]`. Codes
    of different `bits` belong to different curves. Cells of several clouds get one sort key by putting the cloud above
    the code, `cloud << 3 * bits | code`, for fewer than 2^(63 - 3 * bits) clouds. `morton_code` is cheaper, and jumps.

    Args:
        coordinates: cells (N, 3) int32 or int64, x y z, 0 <= c < 2^bits.
        bits: bits per axis, 1 <= bits <= 21.

    Returns:
        code (N,) int64, 0 <= code < 2^(3 * bits); different cells have different codes. Not differentiable.

    Raises:
        ValueError: coordinates are not (N, 3), bits is outside its range, on CPU: a coordinate is outside its range. On
            CUDA only the lowest `bits` bits of a coordinate count.
        TypeError: coordinates are not integers.

    Source: Skilling, Programming the Hilbert curve, AIP Conference Proceedings 707, 2004; serialization of points after
    Wu et al., Point Transformer V3, 2024, arXiv:2312.10035.
    """
    return _code(_hilbert_code, coordinates, bits)


def _code(op, coordinates: Tensor, bits: int) -> Tensor:
    _checks.tensor(coordinates, "coordinates")
    if coordinates.dim() != 2 or coordinates.shape[1] != 3:
        raise ValueError(f"coordinates must be cells (N, 3), got shape {tuple(coordinates.shape)}; drop a batch column")
    if coordinates.dtype not in (torch.int32, torch.int64):
        raise TypeError(
            f"coordinates must be int32 or int64 cells, got {coordinates.dtype}; divide metres by a cell size and take"
            " .floor().int() of what is left after subtracting the minimum"
        )
    _checks.integer(bits, "bits", 1, MAX_BITS)
    return _library.call(op, coordinates.contiguous(), bits)


def _fake(coordinates, bits):
    return coordinates.new_empty((coordinates.shape[0],), dtype=torch.int64)


_morton_code = _library.register("morton_code", fake=_fake, autocast=False)
_hilbert_code = _library.register("hilbert_code", fake=_fake, autocast=False)
