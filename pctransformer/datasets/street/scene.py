"""A street as triangles around the scanner, to cast rays into."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from pctransformer.datasets.shape_classes.draw import Draw
from pctransformer.datasets.street import people, scenery, vehicles
from pctransformer.datasets.street.ground import Ground, ground_parts
from pctransformer.datasets.street.layout import Street, Thing
from pctransformer.datasets.street.materials import Parts
from pctransformer.datasets.street.scanner import CAMERA_HALF_ANGLE
from pctransformer.datasets.street.vehicles import Size

if TYPE_CHECKING:
    import open3d

SENSOR_HEIGHT = 1.73
"""Metres above the road, on KITTI's car."""
SENSOR_RISE = -0.0075
"""Of the scanner's own axis ahead against the road: in 33 frames of KITTI roads rise by that much ahead of it."""
_MAKERS: dict[str, Callable[[Draw, Size], Parts]] = {
    "Car": vehicles.car,
    "Van": vehicles.van,
    "Truck": vehicles.truck,
    "Pedestrian": people.pedestrian,
    "Cyclist": people.cyclist,
    "bicycle": people.parked_bicycle,
    "house": scenery.house,
    "tree": scenery.tree,
    "bush": scenery.bush,
    "hedge": scenery.hedge,
    "wall": scenery.wall,
    "fence": scenery.fence,
    "pole": scenery.pole,
    "sign": scenery.sign,
    "furniture": scenery.furniture,
}
_STOREY = 200.0
"""Metres, more than a ray rises on its way through a scene."""
_OVERHANG = {"tree": 5.0}
"""Metres by which things reach beyond their place; others by less than two."""


class Pose(NamedTuple):
    """Of the scanner: it is at `origin`, and the columns of `axes` are its forward, left and up."""

    origin: np.ndarray
    axes: np.ndarray

    def points(self, xyz: np.ndarray) -> np.ndarray:
        """(..., 3) of the street in the scanner's frame."""
        return (xyz - self.origin) @ self.axes

    def boxes(self, things: list[Thing], ground: Ground) -> np.ndarray:
        """(n, 7) boxes of things in the scanner's frame, upright there."""
        rows = np.array([thing.box for thing in things]).reshape(-1, 7)
        x, y, bottom, length, width, height, heading = rows.T
        foot = self.points(np.column_stack([x, y, bottom + ground.height(x, y)]))
        forward = np.column_stack([np.cos(heading), np.sin(heading), np.zeros(len(rows))]) @ self.axes
        heading = np.arctan2(forward[:, 1], forward[:, 0])
        return np.column_stack([foot[:, :2], foot[:, 2] + height / 2, length, width, height, heading])


def scanner_pose(draw: Draw, street: Street) -> Pose:
    """On the roof of a car that stands as its road slopes, nose down, and nods and rolls by less than a degree."""
    ground, t, yaw = street.ground, street.own_t, street.own_heading
    forward, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    rises = []
    for direction, half, mounted in ((forward, 1.4, SENSOR_RISE), (left, 0.8, 0.0)):
        (x0, y0), (x1, y1) = (np.array([0, t]) + side * half * direction for side in (-1, 1))
        slope = (ground.height(x1, y1) - ground.height(x0, y0)) / (2 * half)
        rises.append(slope + mounted + np.deg2rad(0.35) * draw.normal())
    ahead = np.array([*forward, rises[0]]) / np.hypot(1, rises[0])
    aside = np.array([*left, rises[1]])
    aside -= ahead * (aside @ ahead)
    aside /= np.linalg.norm(aside)
    origin = np.array([0, t, ground.height(np.float64(0), np.float64(t)) + SENSOR_HEIGHT + 0.02 * draw.normal()])
    return Pose(origin, np.column_stack([ahead, aside, np.cross(ahead, aside)]))


class Scene:
    """Triangles with materials and owners.

    Attributes:
        materials: (k, 3) reflectance, gloss, lost, see `Material`.
        material: (T,) of each triangle.
        owner: (T,) index of the thing that each triangle is of, -1 for the ground.
    """

    def __init__(self, street: Street, pose: Pose, *, camera_view: bool) -> None:
        boxes = pose.boxes(street.things, street.ground)
        shown = _in_front(street.things, boxes) if camera_view else np.ones(len(boxes), bool)
        pieces, owners, materials = [], [], []
        for material, triangles in ground_parts(street.ground):
            materials.append(material)
            pieces.append(triangles)
            owners.append(-1)
        for i in np.flatnonzero(shown).tolist():
            thing = street.things[i]
            x, y, bottom, *size, heading = thing.box
            cos, sin = np.cos(heading), np.sin(heading)
            turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
            draw = Draw(torch.Generator().manual_seed(thing.seed))
            for material, triangles in _MAKERS[thing.kind](draw, (size[0], size[1], size[2])):
                materials.append(material)
                pieces.append(triangles @ turn + np.array([x, y, bottom]))
                owners.append(i)
        counts = [len(piece) for piece in pieces]
        corners = np.concatenate(pieces)
        corners[..., 2] += street.ground.height(corners[..., 0], corners[..., 1])
        self.materials = np.array(materials)
        self.material = np.repeat(np.arange(len(pieces)), counts)
        self.owner = np.repeat(owners, counts)
        self._triangles = pose.points(corners)
        self._caster = _caster(self._triangles)

    def cast(self, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What each ray (n, 6) meets first.

        Returns:
            distance (n,): in lengths of the ray's direction; infinite where it meets nothing.
            triangle (n,): undefined there.
            cosine (n,): of the angle between the ray and the surface's normal, in [0, 1].
        """
        found = _cast(self._caster, rays)
        cosine = np.abs((found["primitive_normals"] * rays[:, 3:]).sum(1)).clip(0, 1)
        return found["t_hit"], found["primitive_ids"].astype(np.int64), cosine

    def look_for(self, rays: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether each ray (n, 6) would meet the thing `wanted` (n,) if that stood alone, and whether it does."""
        # all of them stand alone at once: each is lifted to a storey of its own, and so are its rays
        storey = np.full(self.owner.max() + 2, -1)  # the last is what owner -1 finds
        things = np.unique(wanted)
        storey[things] = np.arange(len(things))
        own = np.flatnonzero(storey[self.owner] >= 0)
        if not len(own):  # neither things nor rays, or things of which nothing is in the scene
            return np.zeros(len(rays), bool), np.zeros(len(rays), bool)
        lifted = self._triangles[own]
        lifted[..., 2] += (_STOREY * storey[self.owner[own]])[:, None]
        lifted_rays = rays.copy()
        lifted_rays[:, 2] += _STOREY * storey[wanted]
        alone = np.isfinite(_cast(_caster(lifted), lifted_rays)["t_hit"])
        distance, triangle, _ = self.cast(rays)
        met = np.isfinite(distance)
        seen = met & (self.owner[np.where(met, triangle, 0)] == wanted)
        return alone | seen, seen


def _in_front(things: list[Thing], boxes: np.ndarray) -> np.ndarray:
    """Of which things something may be in the camera's view."""
    reach = np.hypot(boxes[:, 3], boxes[:, 4]) / 2 + [_OVERHANG.get(thing.kind, 2.0) for thing in things]
    cos, sin = np.cos(CAMERA_HALF_ANGLE), np.sin(CAMERA_HALF_ANGLE)
    return boxes[:, 0] * sin - np.abs(boxes[:, 1]) * cos > -reach


def _caster(triangles: np.ndarray) -> open3d.t.geometry.RaycastingScene:
    import open3d

    corners = np.ascontiguousarray(triangles.reshape(-1, 3), np.float32)
    scene = open3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(
        open3d.core.Tensor.from_numpy(corners),
        open3d.core.Tensor.from_numpy(np.arange(len(corners), dtype=np.uint32).reshape(-1, 3)),
    )
    return scene


def _cast(caster: open3d.t.geometry.RaycastingScene, rays: np.ndarray) -> dict[str, np.ndarray]:
    import open3d

    found = caster.cast_rays(open3d.core.Tensor.from_numpy(np.ascontiguousarray(rays)), nthreads=1)
    return {name: found[name].numpy() for name in ("t_hit", "primitive_ids", "primitive_normals")}
