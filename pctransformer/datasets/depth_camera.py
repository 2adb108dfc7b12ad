"""What a hand-held depth camera keeps of a surface: points that some viewpoint sees, denser near it, with its noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import minimum_filter

from pctransformer.datasets.surface import sample_triangles

_PIXEL = np.deg2rad(1.8)  # of the depth image: several of the points drawn fall into each at two metres
_LOWEST, _HIGHEST = np.deg2rad(-80), np.deg2rad(35)  # people point a camera ahead and down, seldom up
_NEAREST, _FARTHEST = 0.3, 6.0  # metres, range of the camera
_CANDIDATES = 3  # points drawn on the surface for each that is wanted; most others are hidden


@dataclass(frozen=True, eq=False)
class SeenPoints:
    """Points that a camera has seen.

    Attributes:
        xyz: (n, 3) float64, metres, with noise.
        normals: (n, 3) float64, of the surface without noise.
        triangle: (n,) int64: point i lies on triangles[triangle[i]].
    """

    xyz: np.ndarray
    normals: np.ndarray
    triangle: np.ndarray


def take_depth_images(
    triangles: np.ndarray,
    viewpoints: np.ndarray,
    num_points: int,
    generator: torch.Generator | None = None,
    *,
    noise: float = 0.5,
) -> SeenPoints:
    """Look at closed surfaces from some places, in all directions round about, and keep what is seen.

    A point is seen where its surface faces the camera and nothing in the depth image of that viewpoint lies in front.
    How many points a surface gets falls with the square of its distance and with the slant under which it is seen, up
    to a limit, as where many frames are fused. A point is off along its ray, by what grows with the distance.

    Args:
        triangles: (T, 3, 3) corners, counter-clockwise seen from outside, metres.
        viewpoints: (V, 3) where the camera is.
        num_points: how many points; fewer, where too little is seen.
        generator: source of randomness; None: a fixed one.
        noise: share of a single frame's noise that is left after frames are fused.

    Raises:
        ValueError: there are no viewpoints.

    Source: noise after Nguyen, Izadi and Lovell, Modeling Kinect Sensor Noise, 2012, equation for axial noise.
    """
    viewpoints = np.asarray(viewpoints, np.float64).reshape(-1, 3)
    if not len(viewpoints):
        raise ValueError("a scan needs at least one viewpoint")
    generator = generator or torch.Generator().manual_seed(0)
    kept = np.flatnonzero(_may_be_seen(triangles, viewpoints))
    if not len(kept):
        return SeenPoints(np.empty((0, 3)), np.empty((0, 3)), np.empty(0, np.int64))
    points, normals, triangle = sample_triangles(triangles[kept], _CANDIDATES * num_points, generator)
    exposure = np.zeros(len(points))
    nearest_view = np.zeros((len(points), 3))
    most = np.zeros(len(points))
    for viewpoint in viewpoints:
        rows, share = _seen(points, normals, viewpoint)
        exposure[rows] += share
        better = share > most[rows]
        most[rows[better]] = share[better]
        nearest_view[rows[better]] = viewpoint
    chance = 1 - np.exp(-2 * exposure)  # frames of a well-seen surface are fused, not added
    seen = np.flatnonzero(chance > 1e-6)
    # the first arrivals of clocks that run at these rates are a draw without repetition by these weights
    uniform = torch.rand(len(points), generator=generator, dtype=torch.float64).numpy()
    arrival = -np.log1p(-uniform[seen]) / chance[seen]
    rows = seen[np.argsort(arrival, kind="stable")[:num_points]]
    ray = points[rows] - nearest_view[rows]
    distance = np.linalg.norm(ray, axis=1, keepdims=True)
    deviation = noise * (0.0012 + 0.0019 * (distance - 0.4) ** 2)  # metres, both constants and the distance
    off = torch.randn(len(rows), 1, generator=generator, dtype=torch.float64).numpy() * deviation
    return SeenPoints(points[rows] + ray / distance * off, normals[rows], kept[triangle[rows]])


def _may_be_seen(triangles: np.ndarray, viewpoints: np.ndarray) -> np.ndarray:
    """(T,) bool: the triangle faces at least one viewpoint. Outsides of walls are not worth a point."""
    first = triangles[:, 0]
    normal = np.cross(triangles[:, 1] - first, triangles[:, 2] - first)
    height = viewpoints @ normal.T - (normal * first).sum(1)  # (V, T), times the length of the normal
    return height.max(0) > 0


def _seen(points: np.ndarray, normals: np.ndarray, viewpoint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the points that are seen from a place, and how much of the image each square metre there takes."""
    ray = points - viewpoint
    distance = np.sqrt((ray * ray).sum(1))
    facing = -(ray * normals).sum(1) / np.maximum(distance, 1e-9)  # cosine of the slant
    rows = np.flatnonzero((facing > 0.08) & (distance > _NEAREST) & (distance < _FARTHEST))
    ray, distance, facing = ray[rows], distance[rows], facing[rows]
    elevation, azimuth = np.arcsin(ray[:, 2] / distance), np.arctan2(ray[:, 1], ray[:, 0])
    shape = int(np.ceil(np.pi / _PIXEL)) + 1, int(np.ceil(2 * np.pi / _PIXEL)) + 1
    pixel = ((elevation + np.pi / 2) / _PIXEL).astype(np.int64) * shape[1] + ((azimuth + np.pi) / _PIXEL).astype(int)
    depth = np.full(shape[0] * shape[1], np.inf)
    np.minimum.at(depth, pixel, distance)
    # near surfaces have few points in a pixel, and none in some: their neighbours close the gaps
    near = np.where(depth < 1.5, depth, np.inf).reshape(shape)
    depth = np.minimum(depth, minimum_filter(near, 3, mode="nearest").ravel())
    # a slanting surface has points of many distances in one pixel
    tolerance = 0.03 + np.minimum(1.5 * _PIXEL * distance / facing, 0.3)
    seen = (distance <= depth[pixel] + tolerance) & (elevation > _LOWEST) & (elevation < _HIGHEST)
    return rows[seen], facing[seen] / distance[seen] ** 2
