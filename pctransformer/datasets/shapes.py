"""Generated shapes: 19 classes of parametric objects with parts, for training without a download.

Proportions vary widely inside a class, and related classes share theirs (table, desk, stool; bottle, vase, cup, lamp),
so that bounding boxes and distance statistics do not give the class away: a nearest neighbour on them stays below 0.75,
which a test holds. z is up and fronts look to -y, as in ModelNet's OFF files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from pctransformer.datasets.samples import CloudDataset, Sample, Transform, generator_for
from pctransformer.datasets.shape_classes import furniture, machines, vessels
from pctransformer.datasets.shape_classes.draw import Draw
from pctransformer.datasets.surface import sample_triangles

SHAPES: dict[str, tuple[Callable[[Draw], furniture.Parts], tuple[str, ...]]] = {
    "airplane": (machines.airplane, ("fuselage", "wing", "tail", "engine", "gear")),
    "bathtub": (vessels.bathtub, ("basin", "rim", "apron", "foot", "tap")),
    "bed": (furniture.bed, ("frame", "mattress", "headboard", "leg", "pillow")),
    "bench": (furniture.bench, ("seat", "back", "leg", "arm")),
    "bookshelf": (furniture.bookshelf, ("frame", "shelf", "book", "leg")),
    "bottle": (vessels.bottle, ("body", "neck", "cap")),
    "car": (machines.car, ("body", "cabin", "wheel", "mirror")),
    "chair": (furniture.chair, ("seat", "back", "leg", "arm")),
    "cup": (vessels.cup, ("body", "handle", "saucer")),
    "desk": (furniture.desk, ("top", "drawer", "handle", "leg", "panel", "hutch")),
    "dresser": (furniture.dresser, ("frame", "drawer", "handle", "leg", "mirror")),
    "guitar": (machines.guitar, ("body", "neck", "head", "bridge", "string")),
    "lamp": (vessels.lamp, ("foot", "stem", "shade")),
    "monitor": (machines.monitor, ("screen", "frame", "case", "foot")),
    "sofa": (furniture.sofa, ("seat", "back", "arm", "leg")),
    "stool": (furniture.stool, ("seat", "leg", "rung")),
    "table": (furniture.table, ("top", "leg", "apron")),
    "toilet": (vessels.toilet, ("bowl", "seat", "lid", "tank")),
    "vase": (vessels.vase, ("body", "foot", "handle")),
}
"""Class name -> its function and the names of its parts."""

CLASS_NAMES: tuple[str, ...] = tuple(SHAPES)

PART_NAMES: tuple[str, ...] = tuple(f"{name}/{part}" for name, (_, parts) in SHAPES.items() for part in parts)
"""What point labels index: "chair/leg" and so on; every class has parts of its own."""

_SPLITS = ("train", "test")


def make_shape(name: str, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Build one shape as a surface.

    Args:
        name: one of `CLASS_NAMES`.
        generator: source of every choice in it.

    Returns:
        triangles (T, 3, 3) float64: corners, metres before a last stretch of each axis by 0.62 to 1.62.
        part (T,) int64: part[t] = p means that triangle t belongs to PART_NAMES[p].

    Raises:
        ValueError: there is no class of that name.
    """
    if name not in SHAPES:
        raise ValueError(f"there is no class {name!r}; the classes are {', '.join(CLASS_NAMES)}")
    draw = Draw(generator)
    pieces = SHAPES[name][0](draw)
    triangles = np.concatenate([solid for _, solid in pieces])
    part = np.repeat([PART_NAMES.index(f"{name}/{part}") for part, _ in pieces], [len(solid) for _, solid in pieces])
    stretch = [2 ** draw.between(-0.7, 0.7) for _ in range(3)]
    return triangles * stretch, part


def make_sample(name: str, num_points: int, generator: torch.Generator) -> Sample:
    """Build one shape and sample its surface by area.

    Returns:
        a sample with normals and point labels (indices into `PART_NAMES`), centred on its bounding box and scaled to a
        largest distance of 1 from the centre.
    """
    triangles, part = make_shape(name, generator)
    corners = triangles.reshape(-1, 3)
    centre = (corners.min(axis=0) + corners.max(axis=0)) / 2
    radius = np.linalg.norm(corners - centre, axis=1).max()
    points, normals, triangle = sample_triangles((triangles - centre) / radius, num_points, generator)
    return Sample(
        xyz=torch.from_numpy(points.astype(np.float32)),
        normals=torch.from_numpy(normals.astype(np.float32)),
        point_labels=torch.from_numpy(part[triangle]),
        label=CLASS_NAMES.index(name),
        name=name,
    )


def generated_shapes(
    split: Literal["train", "test"] = "train",
    *,
    num_shapes: int = 2000,
    num_points: int = 1024,
    seed: int = 0,
    transform: Transform | None = None,
) -> CloudDataset:
    """A balanced split of generated shapes, made in memory: about 2 ms a shape.

    Shape i of a split depends on (seed, split, i) alone, so a longer split starts with a shorter one, and no shape of
    one split comes back in the other.

    Args:
        split: "train" or "test".
        num_shapes: how many; classes take turns.
        num_points: points of each shape.
        seed: of the shapes, and of the transform.
        transform: applied to each sample when it is fetched.

    Raises:
        ValueError: split is neither of the two.
    """
    if split not in _SPLITS:
        raise ValueError(f"split must be one of {', '.join(map(repr, _SPLITS))}, got {split!r}")
    labels = np.arange(num_shapes) % len(CLASS_NAMES)
    samples = []
    for i, label in enumerate(labels.tolist()):
        sample = make_sample(CLASS_NAMES[label], num_points, generator_for(seed, _SPLITS.index(split), i))
        samples.append(dataclasses.replace(sample, name=f"{split}_{i:04d}"))
    return CloudDataset(samples, labels, CLASS_NAMES, transform=transform, seed=seed, part_names=PART_NAMES)
