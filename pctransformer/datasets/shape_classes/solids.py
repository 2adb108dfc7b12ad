"""Closed solids as triangles: the vocabulary in which generated shapes are written.

Every function returns an array (T, 3, 3) of triangle corners, closed and with outward normals. Lengths are metres,
angles degrees. Solids that touch or overlap are simply stacked on each other with `join`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

Vector = Sequence[float] | np.ndarray

_CUBE_CORNERS = np.array([[x, y, z] for z in (-0.5, 0.5) for y in (-0.5, 0.5) for x in (-0.5, 0.5)])
_CUBE_QUADS = np.array([[0, 2, 3, 1], [4, 5, 7, 6], [0, 1, 5, 4], [2, 6, 7, 3], [0, 4, 6, 2], [1, 3, 7, 5]])
_CUBE = _CUBE_CORNERS[np.concatenate([_CUBE_QUADS[:, [0, 1, 2]], _CUBE_QUADS[:, [0, 2, 3]]])]


def join(*solids: np.ndarray) -> np.ndarray:
    return np.concatenate(solids)


def move(triangles: np.ndarray, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    return triangles + np.array([x, y, z])


def turn(triangles: np.ndarray, axis: str, deg: float, around: Vector = (0, 0, 0)) -> np.ndarray:
    """Rotate counter-clockwise about the x, y or z direction through the point `around`."""
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    cos, sin = np.cos(np.radians(deg)), np.sin(np.radians(deg))
    rotation = np.eye(3)
    rotation[i, i], rotation[i, j], rotation[j, i], rotation[j, j] = cos, -sin, sin, cos
    return (triangles - np.asarray(around)) @ rotation.T + np.asarray(around)


def mirror(triangles: np.ndarray, axis: str) -> np.ndarray:
    """The mirror image at the plane through the origin across `axis`; corners are reordered to keep normals outward."""
    flip = np.ones(3)
    flip["xyz".index(axis)] = -1
    return (triangles * flip)[:, ::-1]


def both(triangles: np.ndarray, axis: str = "x") -> np.ndarray:
    """A solid together with its mirror image."""
    return join(triangles, mirror(triangles, axis))


def signed_volume(triangles: np.ndarray) -> float:
    """Volume in cubic metres of a closed surface; negative where its normals point inward."""
    return float(np.linalg.det(triangles).sum() / 6)


def loft(rings: np.ndarray) -> np.ndarray:
    """Skin over a stack of closed rings, with both ends capped.

    Args:
        rings: (k, s, 3) corners, ring by ring, k >= 2. Neighbouring rings must run the same way round; the end rings
            must be seen whole from their centre.
    """
    count, segments, _ = rings.shape
    centres = rings[[0, -1]].mean(axis=1)
    triangles = np.concatenate([rings.reshape(-1, 3), centres])[_faces_of_loft(count, segments)]
    return triangles if signed_volume(triangles - triangles[0, 0]) >= 0 else triangles[:, ::-1]


@functools.cache
def _faces_of_loft(count: int, segments: int) -> np.ndarray:
    """(T, 3) triangles among the corners of the rings, ring by ring, then the centres of the first and the last."""
    corner = np.arange(count * segments).reshape(count, segments)
    following = np.roll(corner, -1, axis=1)
    lower_left, lower_right, upper_left, upper_right = corner[:-1], following[:-1], corner[1:], following[1:]
    first = np.stack([lower_left, lower_right, upper_right], axis=2).reshape(-1, 3)
    second = np.stack([lower_left, upper_right, upper_left], axis=2).reshape(-1, 3)
    ends = np.full((2, segments), [[corner.size], [corner.size + 1]])
    bottom = np.stack([following[0], corner[0], ends[0]], axis=1)
    top = np.stack([corner[-1], following[-1], ends[1]], axis=1)
    return np.concatenate([first, second, bottom, top])


def box(centre: Vector, size: Vector) -> np.ndarray:
    return _CUBE * np.asarray(size) + np.asarray(centre)


def circle(segments: int, roundness: float = 1.0) -> np.ndarray:
    """(s, 2) a unit circle; towards `roundness` 0 it swells into the square around it (superellipse)."""
    angle = (np.arange(segments) + 0.5) * (2 * np.pi / segments)
    cos, sin = np.cos(angle), np.sin(angle)
    power = max(roundness, 0.05)
    return np.stack([np.sign(cos) * np.abs(cos) ** power, np.sign(sin) * np.abs(sin) ** power], axis=1)


def lathe(profile: Sequence[Vector] | np.ndarray, segments: int = 20, roundness: float = 1.0) -> np.ndarray:
    """Turn a profile of (radius, z) about the z axis; it may double back, as the inside of a cup does."""
    radius, height = np.asarray(profile, np.float64).T
    outline = circle(segments, roundness)
    rings = np.empty((len(radius), segments, 3))
    rings[..., :2] = radius[:, None, None] * outline
    rings[..., 2] = height[:, None]
    return loft(rings)


def smooth(points: Sequence[Vector], steps: int = 16) -> np.ndarray:
    """(steps, d) points on a Catmull-Rom curve through the given points, spread evenly over its pieces."""
    knots = np.asarray(points, np.float64)
    padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    position = np.linspace(0, len(knots) - 1, steps)
    piece = np.minimum(position.astype(int), len(knots) - 2)
    t = (position - piece)[:, None]
    a, b, c, d = (padded[piece + i] for i in range(4))
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def tube(path: Sequence[Vector] | np.ndarray, radius: float | Vector, segments: int = 8) -> np.ndarray:
    """A round bar of constant or changing radius along a path (k, 3)."""
    points = np.asarray(path, np.float64)
    tangents = np.gradient(points, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    # Of the three axes, take the one least along the path as reference: the frame then never degenerates nor flips.
    reference = np.eye(3)[np.abs(tangents).max(axis=0).argmin()]
    side = np.cross(reference, tangents)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(tangents, side)
    outline = circle(segments)
    rings = outline[None, :, :1] * side[:, None] + outline[None, :, 1:] * up[:, None]
    return loft(points[:, None] + np.broadcast_to(radius, len(points))[:, None, None] * rings)


def bar(start: Vector, end: Vector, radius: float, end_radius: float | None = None, segments: int = 8) -> np.ndarray:
    """A straight round bar; with `end_radius` it tapers."""
    return tube([start, end], [radius, radius if end_radius is None else end_radius], segments)


def prism(outline: np.ndarray, height: float) -> np.ndarray:
    """An outline (s, 2) in the xy plane, seen whole from its centre, extruded from z = 0 to z = height."""
    rings = np.zeros((2, len(outline), 3))
    rings[:, :, :2] = outline
    rings[1, :, 2] = height
    return loft(rings)


def cushion(centre: Vector, size: Vector, roundness: float = 0.35, segments: int = 20) -> np.ndarray:
    """A rounded box inside the given size: 0 is sharp, 1 an ellipsoid."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 9)
    power = max(roundness, 0.05)
    radius = np.cos(angle).clip(0) ** power
    height = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power
    rounded = lathe(np.stack([radius, height], axis=1), segments, roundness)
    return rounded * (np.asarray(size) / 2) + np.asarray(centre)
