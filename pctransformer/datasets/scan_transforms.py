"""Changes to a scan in which points and boxes move together, made of small parts as `transforms` is for single shapes.

A transform is called with a scan and a `torch.Generator` and gives a new scan; its input is never written into. Points
that lie in a box lie in it afterwards, too. Metres and radians.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Generator

from pctransformer.datasets.scans import Scan, ScanTransform, boxes_collide, points_in_boxes


def _uniform(generator: Generator, low: float, high: float, *shape: int) -> np.ndarray:
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64).numpy()


def _turned(xy: np.ndarray, angle: float | np.ndarray) -> np.ndarray:
    """(n, 2) turned counter-clockwise about the origin."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = xy[..., 0], xy[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)


def _wrapped(angle: np.ndarray) -> np.ndarray:
    """Into [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


@dataclasses.dataclass(frozen=True)
class ComposeScans:
    """One transform after the other."""

    transforms: tuple[ScanTransform, ...]

    def __call__(self, scan: Scan, generator: Generator) -> Scan:
        for transform in self.transforms:
            scan = transform(scan, generator)
        return scan


# ---- the whole scan --------------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class RandomFlip:
    """Mirror left and right, y to -y, in this share of the scans."""

    probability: float = 0.5

    def __call__(self, scan: Scan, generator: Generator) -> Scan:
        if torch.rand((), generator=generator) >= self.probability:
            return scan
        points, boxes = scan.points.copy(), scan.boxes.copy()
        points[:, 1] *= -1
        boxes[:, 1] *= -1
        boxes[:, 6] = _wrapped(-boxes[:, 6])
        ground = None if scan.ground is None else scan.ground * [1, -1, 1, 1]
        return dataclasses.replace(scan, points=points, boxes=boxes, ground=ground)


@dataclasses.dataclass(frozen=True)
class RandomTurn:
    """Turn about the upright axis through the sensor by an angle uniform in [-limit, limit]."""

    limit: float = math.pi / 4

    def __call__(self, scan: Scan, generator: Generator) -> Scan:
        angle = float(_uniform(generator, -self.limit, self.limit, 1)[0])
        points, boxes = scan.points.copy(), scan.boxes.copy()
        points[:, :2] = _turned(points[:, :2], angle)
        boxes[:, :2] = _turned(boxes[:, :2], angle)
        boxes[:, 6] = _wrapped(boxes[:, 6] + angle)
        ground = scan.ground
        if ground is not None:
            ground = np.concatenate([_turned(ground[:2], angle), ground[2:]])
        return dataclasses.replace(scan, points=points, boxes=boxes, ground=ground)


@dataclasses.dataclass(frozen=True)
class RandomScale:
    """Multiply all lengths by one factor, uniform in [low, high]."""

    low: float = 0.95
    high: float = 1.05

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < math.inf:
            raise ValueError(f"a scale must have 0 < low <= high, got {self.low} and {self.high}")

    def __call__(self, scan: Scan, generator: Generator) -> Scan:
        factor = float(_uniform(generator, self.low, self.high, 1)[0])
        points, boxes = scan.points.copy(), scan.boxes.copy()
        points[:, :3] *= factor
        boxes[:, :6] *= factor
        ground = None if scan.ground is None else scan.ground * [1, 1, 1, factor]
        return dataclasses.replace(scan, points=points, boxes=boxes, ground=ground)


@dataclasses.dataclass(frozen=True)
class CropToRange:
    """Keep points inside a range, and boxes whose centre is inside.

    Attributes:
        range: x, y, z of the lowest corner, which belongs to it, then of the highest, which does not.
    """

    range: tuple[float, float, float, float, float, float]

    def __call__(self, scan: Scan, generator: Generator | None = None) -> Scan:
        low, high = np.array(self.range[:3], np.float32), np.array(self.range[3:], np.float32)

        points, centres = scan.points[:, :3], scan.boxes[:, :3]
        inside = np.flatnonzero(((centres >= low) & (centres < high)).all(axis=1))
        kept = dataclasses.replace(scan, points=scan.points[((points >= low) & (points < high)).all(axis=1)])
        return kept.take_boxes(inside)


@dataclasses.dataclass(frozen=True)
class ShufflePoints:
    """Put the points in random order, so that limits of points per voxel cut off none by its place in the file."""

    def __call__(self, scan: Scan, generator: Generator) -> Scan:
        order = torch.randperm(len(scan.points), generator=generator).numpy()
        return dataclasses.replace(scan, points=scan.points[order])


# ---- single objects --------------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class ObjectNoise:
    """Move and turn each object a little, with its points: the per-object noise of VoxelNet and SECOND.

    An object takes the first of `tries` random places at which it collides with no other one, and stays where it is if
    there is none. Points at its new place that were not its own stay.

    Source: Zhou and Tuzel, VoxelNet, 2018, section 3.2; limits of SECOND, Yan et al., 2018.

    Attributes:
        deviation: of the normal shifts along x, y, z.
        limit: the turn about the object's own upright axis is uniform in [-limit, limit].
        tries: random places for each object.
    """

    deviation: tuple[float, float, float] = (1.0, 1.0, 0.5)
    limit: float = math.pi / 4
    tries: int = 100

    def __call__(self, scan: Scan, generator: Generator) -> Scan:
        count = len(scan.boxes)
        shift = torch.randn(count, self.tries, 3, generator=generator, dtype=torch.float64).numpy() * self.deviation
        angle = _uniform(generator, -self.limit, self.limit, count, self.tries)
        owner = points_in_boxes(scan.points, scan.boxes)
        points, boxes = scan.points.copy(), scan.boxes.copy()
        for i in range(count):
            places = np.repeat(boxes[i : i + 1].astype(np.float64), self.tries, axis=0)
            places[:, :3] += shift[i]
            places[:, 6] = _wrapped(places[:, 6] + angle[i])
            free = ~boxes_collide(places, np.delete(boxes, i, axis=0)).any(axis=1)
            if not free.any():
                continue
            chosen = int(free.argmax())
            own = owner == i
            local = points[own, :3] - boxes[i, :3].astype(np.float64)
            local[:, :2] = _turned(local[:, :2], angle[i, chosen])
            points[own, :3] = local + places[chosen, :3]
            boxes[i] = places[chosen]
        return dataclasses.replace(scan, points=points, boxes=boxes)
