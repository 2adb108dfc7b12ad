"""Points on the surface of a mesh."""

from __future__ import annotations

import numpy as np
import torch


def sample_triangles(
    triangles: np.ndarray, num_points: int, generator: torch.Generator | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw points evenly by area from the triangles of a surface.

    Points are independent of each other. Triangles without area are never hit.

    Args:
        triangles: (T, 3, 3) corners, metres, T >= 1.
        num_points: how many points, n.
        generator: source of randomness; None: a fixed one, so that the same triangles always give the same points.

    Returns:
        points (n, 3) float64: metres.
        normals (n, 3) float64: unit normal of the triangle, by the right-hand rule on its corners.
        triangle (n,) int64: triangle[i] = t means that points[i] lies on triangles[t].

    Raises:
        ValueError: the triangles have no area, so nothing can be drawn.

    Source: square-root parametrisation after Osada et al., Shape Distributions, 2002, section 4.1.
    """
    first, second, third = np.moveaxis(np.asarray(triangles, np.float64), 1, 0)
    crossed = np.cross(second - first, third - first)
    doubled_areas = np.linalg.norm(crossed, axis=1)
    total = doubled_areas.sum()
    if not np.isfinite(total) or total <= 0:
        raise ValueError(f"a surface must have an area to be sampled, {len(triangles)} triangles have {total / 2}")
    generator = generator or torch.Generator().manual_seed(0)
    uniform = torch.rand(num_points, 3, generator=generator, dtype=torch.float64).numpy()
    cumulative = np.cumsum(doubled_areas)
    # side="right" steps over triangles without area; the last triangle that has one catches rounding at the very end
    triangle = np.searchsorted(cumulative, uniform[:, 0] * cumulative[-1], side="right")
    triangle = np.minimum(triangle, np.flatnonzero(doubled_areas)[-1])
    root = np.sqrt(uniform[:, 1:2])
    along = uniform[:, 2:3]
    points = (1 - root) * first[triangle] + root * (1 - along) * second[triangle] + root * along * third[triangle]
    normals = crossed[triangle] / doubled_areas[triangle, None]
    return points, normals, triangle
