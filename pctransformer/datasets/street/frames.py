"""Generated streets as KITTI frames in memory: `street_frames`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from pctransformer.datasets.kitti import Calibration, KittiFrame, lidar_boxes
from pctransformer.datasets.kitti.calibration import USUAL_IMAGE_SIZE
from pctransformer.datasets.samples import generator_for
from pctransformer.datasets.shape_classes.draw import Draw
from pctransformer.datasets.street.ground import Ground
from pctransformer.datasets.street.labels import label_things
from pctransformer.datasets.street.layout import LABELLED, lay_out
from pctransformer.datasets.street.scanner import scan
from pctransformer.datasets.street.scene import Pose, Scene, scanner_pose
from pctransformer.errors import UserError

CALIBRATION = Calibration(
    projection=np.array([[721.5, 0.0, 609.5, 44.9], [0.0, 721.5, 172.9, 0.0], [0.0, 0.0, 1.0, 0.0]]),
    rectification=np.eye(3),
    from_lidar=np.array([[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, -0.08], [1.0, 0.0, 0.0, -0.27]]),
)
"""Of every generated frame: KITTI's, but for rotations of less than a degree."""
_FLATNESS = 0.12
"""Metres by which a road may leave its plane up to 40 metres ahead."""


class StreetFrame(NamedTuple):
    """A generated frame and what only its maker knows.

    Attributes:
        frame: with its points.
        owner: (n,) of each point, row of the object in `frame.objects` that it is on, -1 for none.
    """

    frame: KittiFrame
    owner: np.ndarray


def frame_name(index: int) -> str:
    """As KITTI's frames are named."""
    return f"{index:06d}"


def make_street_frame(seed: int, index: int, *, camera_view: bool = True) -> StreetFrame:
    """Frame `index` of the streets of `seed`, see `street_frames`."""
    generator = generator_for(seed, index)
    draw = Draw(generator)
    street = lay_out(draw)
    pose = scanner_pose(draw, street)
    scene = Scene(street, pose, camera_view=camera_view)
    returns = scan(scene, generator, camera_view=camera_view)
    points, owner = returns.points, returns.owner
    visible = CALIBRATION.in_view(points[:, :3], USUAL_IMAGE_SIZE)
    if camera_view:
        points, owner = points[visible], owner[visible]
        visible = visible[visible]
    things = np.array([i for i, thing in enumerate(street.things) if thing.kind in LABELLED], np.int64)
    counts = np.bincount(owner[visible & (owner >= 0)], minlength=len(street.things))
    objects, regions, rows = label_things(
        [street.things[i].kind for i in things],
        pose.boxes([street.things[i] for i in things], street.ground),
        counts[things],
        scene,
        things,
        calibration=CALIBRATION,
        image_size=USUAL_IMAGE_SIZE,
    )
    object_of = np.full(len(street.things) + 1, -1)  # the last is what owner -1 finds
    object_of[things[rows]] = np.arange(len(rows))
    frame = KittiFrame(
        name=frame_name(index),
        points_file=None,
        calibration=CALIBRATION,
        image_size=USUAL_IMAGE_SIZE,
        objects=objects,
        boxes=lidar_boxes(objects, CALIBRATION),
        plane=_road_plane(street.ground, pose),
        regions=regions,
        points=points,
    )
    return StreetFrame(frame, object_of[owner])


def iterate_street_frames(
    start: int, stop: int, *, seed: int = 0, camera_view: bool = True, workers: int = 0
) -> Iterator[StreetFrame]:
    """Frames `start` to `stop` - 1 in order, made here, or ahead of their use in `workers` processes.

    Raises:
        UserError: Open3D is not installed.
    """
    if importlib.util.find_spec("open3d") is None:
        raise UserError("generated streets are scanned with Open3D, which is not installed; pip install open3d")
    make = _Making(start, stop, seed, camera_view)
    yield from torch.utils.data.DataLoader(make, batch_size=None, num_workers=workers, collate_fn=_as_it_is)


def street_frames(
    num_frames: int, *, seed: int = 0, camera_view: bool = True, start: int = 0, workers: int = 0
) -> list[KittiFrame]:
    """Generate streets as a 64-laser scanner on a car's roof sees them, labelled as KITTI is.

    Roads with traffic, parked cars, people on foot and on bicycles, houses, trees and what else stands there; no two
    alike. Frame i depends on (seed, i) alone, not on how many are made, by whom, or in what order. Needs Open3D.

    Args:
        num_frames: how many.
        seed: of the streets.
        camera_view: keep only points that the camera sees, for a third of the time; False gives whole sweeps, of which
            the same points are in the camera's view.
        start: index of the first frame, so that two sets of one seed need not share any.
        workers: processes that make them; 0 makes them in this one. The frames are the same.

    Returns:
        Frames with their points in memory, for `kitti_scans`; a camera view takes 0.3 MB.

    Raises:
        ValueError: num_frames or start is negative.
        UserError: Open3D is not installed.
    """
    if num_frames < 0 or start < 0:
        raise ValueError(f"num_frames and start must not be negative, got {num_frames} and {start}")
    made = iterate_street_frames(start, start + num_frames, seed=seed, camera_view=camera_view, workers=workers)
    return [one.frame for one in made]


class _Making(torch.utils.data.Dataset[StreetFrame]):
    def __init__(self, start: int, stop: int, seed: int, camera_view: bool) -> None:
        self.start, self.stop, self.seed, self.camera_view = start, stop, seed, camera_view

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> StreetFrame:
        return make_street_frame(self.seed, self.start + index, camera_view=self.camera_view)


def _as_it_is(frame: Any) -> Any:
    return frame


def _road_plane(ground: Ground, pose: Pose) -> np.ndarray | None:
    """(4,) of the road ahead in the scanner's frame, or None where it bends away from any plane."""
    s, t = np.meshgrid(np.arange(2, 41, 2.0), np.linspace(-ground.half, ground.half, 7))
    x, y, _ = ground.place(s.ravel(), t.ravel())
    road = pose.points(np.column_stack([x, y, ground.height(x, y)]))
    centre = road.mean(axis=0)
    normal = np.linalg.svd(road - centre)[2][2]
    normal = normal if normal[2] > 0 else -normal
    off = (road - centre) @ normal
    return np.append(normal, -normal @ centre) if np.abs(off).max() < _FLATNESS else None
