"""Many straight bars at once: limbs, frames, wheels and trunks are made of them, and there are hundreds in a street."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from pctransformer.datasets.shape_classes.solids import Vector, circle


def rods(
    begin: Sequence[Vector] | np.ndarray,
    end: Sequence[Vector] | np.ndarray,
    radius: float | Vector,
    end_radius: float | Vector | None = None,
    segments: int = 6,
) -> np.ndarray:
    """Round bars, closed, normals outward: the same as `bar` joined, in one go.

    Args:
        begin, end: (n, 3) of each bar.
        radius, end_radius: of all, or (n,) of each; without the latter they do not taper.

    Returns:
        (n * 4 * segments, 3, 3) triangles.
    """
    ends = np.stack([np.asarray(begin, np.float64), np.asarray(end, np.float64)], axis=1)  # (n, 2, 3)
    radii = np.empty((len(ends), 2))
    radii[:, 0] = radius
    radii[:, 1] = radius if end_radius is None else end_radius
    along = ends[:, 1] - ends[:, 0]
    along /= np.sqrt((along * along).sum(axis=1, keepdims=True))
    # across each bar: its smallest component cannot be 1, so that the axis of that is not along the bar
    reference = np.eye(3)[np.abs(along).argmin(axis=1)]
    side = _cross(reference, along)
    side /= np.sqrt((side * side).sum(axis=1, keepdims=True))
    up = _cross(along, side)
    outline = circle(segments)
    around = outline[:, :1] * side[:, None] + outline[:, 1:] * up[:, None]  # (n, s, 3)
    rings = ends[:, :, None] + radii[:, :, None, None] * around[:, None]  # (n, 2, s, 3)
    corners = np.concatenate([rings.reshape(len(ends), 2 * segments, 3), ends], axis=1)
    return corners[:, _faces(segments)].reshape(-1, 3, 3)


@functools.cache
def _faces(segments: int) -> np.ndarray:
    """(4 * segments, 3) triangles among a bar's corners: lower ring, upper ring, middle of the bottom, of the top."""
    low = np.arange(segments)
    next_low, high = (low + 1) % segments, low + segments
    next_high = next_low + segments
    bottom, top = np.full(segments, 2 * segments), np.full(segments, 2 * segments + 1)
    faces = [(low, next_low, next_high), (low, next_high, high), (next_low, low, bottom), (high, next_high, top)]
    return np.concatenate([np.stack(face, axis=1) for face in faces])


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """As `numpy.cross`, which spends most of its time on its arguments."""
    (ax, ay, az), (bx, by, bz) = a.T, b.T
    return np.column_stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])
