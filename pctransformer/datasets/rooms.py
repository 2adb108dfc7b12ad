"""Generated indoor scenes with labelled points, for training without a download: flats, furnished and scanned.

One to four rooms with walls, doors and windows, and in them furniture where furniture stands, of the generated shapes
in metres and of some that only rooms need. A hand-held depth camera looks at it from a few places, so that backs of
things and what is below or behind others is missing. Classes are those of ScanNet's twenty that can be made here, and
the ceiling; all else is "other". Colour is a hint, not the answer: any wood may be any furniture's.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from pctransformer.datasets.buildings import Room, make_building
from pctransformer.datasets.depth_camera import take_depth_images
from pctransformer.datasets.furnishing import furnish
from pctransformer.datasets.samples import CloudDataset, Sample, Transform, generator_for
from pctransformer.datasets.shape_classes.draw import Draw

ROOM_CLASSES = (
    "wall", "floor", "ceiling", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "desk",
    "other",
)  # fmt: skip
"""What labels of points index."""

_SPLITS = ("train", "test")
_POINTS = 20_000, 60_000
_DENSITY = 900.0, 1700.0  # points per square metre of floor


def make_room(generator: torch.Generator, name: str = "") -> Sample:
    """Build a flat of one to four rooms, furnish it, scan it.

    Args:
        generator: source of every choice in it.
        name: of the sample.

    Returns:
        20 000 to 60 000 points: xyz in metres, z up, floor at 0; features red, green, blue in [0, 1]; labels that index
        `ROOM_CLASSES`.
    """
    draw = Draw(generator)
    building = make_building(draw)
    solids = list(building.solids)
    for room in building.rooms:
        solids += furnish(draw, room)
    area = sum(room.area for room in building.rooms)
    num_points = int(np.clip(area * draw.between(*_DENSITY), *_POINTS))
    triangles = np.concatenate([solid.triangles for solid in solids])
    seen = take_depth_images(triangles, _viewpoints(draw, building.rooms), num_points, generator)
    of_triangle = np.repeat([ROOM_CLASSES.index(s.name) for s in solids], [len(s.triangles) for s in solids])
    color = np.concatenate([solid.colors for solid in solids])[seen.triangle]
    color = _lit(draw, seen.xyz, seen.normals, color, generator)
    turn = _turn(draw.between(0, 2 * np.pi))
    return Sample(
        torch.from_numpy((seen.xyz @ turn).astype(np.float32)),
        features=torch.from_numpy(color.astype(np.float32)),
        point_labels=torch.from_numpy(of_triangle[seen.triangle]),
        label=0,
        name=name,
    )


def generated_rooms(
    split: Literal["train", "test"] = "train",
    *,
    num_rooms: int = 60,
    seed: int = 0,
    transform: Transform | None = None,
) -> CloudDataset:
    """Scenes in memory, a few a second; `part_names` are `ROOM_CLASSES`.

    Scene i of a split depends on (seed, split, i) alone, so a longer split starts with a shorter one, and no scene of
    one split comes back in the other.

    Args:
        split: "train" or "test".
        num_rooms: how many scenes.
        seed: of the scenes, and of the transform.
        transform: applied to each scene when it is fetched.

    Raises:
        ValueError: split is neither of the two.
    """
    if split not in _SPLITS:
        raise ValueError(f"split must be one of {', '.join(map(repr, _SPLITS))}, got {split!r}")
    samples = [
        make_room(generator_for(seed, _SPLITS.index(split), i), name=f"{split}_room_{i:03d}") for i in range(num_rooms)
    ]
    return CloudDataset(samples, [0] * num_rooms, ["scene"], transform=transform, seed=seed, part_names=ROOM_CLASSES)


def _turn(angle: float) -> np.ndarray:
    """(3, 3) that turns rows about z."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])


def _viewpoints(draw: Draw, rooms: list[Room]) -> np.ndarray:
    """Where somebody with the camera stood: in each room a few places, not in the furniture."""
    places = []
    for room in rooms:
        for _ in range(2 + min(int(room.area / 5), 3)):
            for _ in range(8):
                place = room.low + 0.3 + (room.high - room.low - 0.6) * [draw.unit(), draw.unit()]
                if room.is_free(place - 0.2, place + 0.2):
                    break
            places.append([*place, draw.between(1.1, min(1.8, room.height - 0.3))])
    return np.array(places)


def _lit(draw: Draw, xyz: np.ndarray, normals: np.ndarray, color: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """Colours (n, 3) as a camera gives them: light from above and one side, patches, tint of the lamps, noise."""
    sun = np.array([draw.between(-1, 1), draw.between(-1, 1), 1.0])
    light = 0.7 + 0.45 * np.clip(normals @ (sun / np.linalg.norm(sun)), -0.5, 1)
    waves = np.array([[draw.between(-4, 4) for _ in range(3)] for _ in range(3)])
    patches = 1 + 0.07 * np.sin(xyz @ waves.T + 7 * draw.unit()).sum(1)
    tint = draw.between(0.7, 1.35) * np.array([1.05, draw.between(0.93, 1.0), draw.between(0.72, 1.0)])
    color = color ** draw.between(0.9, 1.6)  # how strongly the camera tells dark from bright
    noise = torch.randn(len(xyz), 4, generator=generator, dtype=torch.float64).numpy() * [0.02, 0.02, 0.02, 0.05]
    return np.clip(color * (light * patches)[:, None] * tint + noise[:, :3] + noise[:, 3:], 0, 1)
