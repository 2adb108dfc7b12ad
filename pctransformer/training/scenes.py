"""From settings to scenes: what a model is shown in training, on the held-out part and in the test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pctransformer.datasets import CloudDataset
from pctransformer.datasets.crops import training_crop
from pctransformer.datasets.rooms import generated_rooms
from pctransformer.datasets.scenes import scene_files, scene_folder
from pctransformer.datasets.source import GENERATED
from pctransformer.datasets.transforms import OnlyCoordinates
from pctransformer.errors import UserError
from pctransformer.training.report import autocast_type
from pctransformer.training.settings import SceneData, SemanticSegmentationTraining


@dataclass(frozen=True)
class TrainingScenes:
    """Scenes to train on, pieces of them as a model is shown them, and whole scenes to choose the epoch by."""

    train: CloudDataset
    pieces: CloudDataset
    held_out: CloudDataset


def training_scenes(settings: SceneData, seed: int) -> TrainingScenes:
    """Read or generate the training scenes, and hold out some.

    Raises:
        UserError: a file is missing or broken, there are too few scenes, or a setting is out of range.
    """
    for option, value in (("--num-points", settings.num_points), ("--tile-points", settings.tile_points),
                          ("--crops", settings.crops), ("--num-rooms", settings.num_rooms)):  # fmt: skip
        if value < 1:
            raise UserError(f"{option} must be at least 1, got {value}")
    if not settings.cell_size > 0:
        raise UserError(f"--cell-size must be positive, got {settings.cell_size}")
    if not 0 < settings.validation < 1:
        raise UserError(f"--validation must lie between 0 and 1, got {settings.validation}")
    train, held_out = open_scenes(settings, "train").hold_out(settings.validation)
    if not len(train) or not len(held_out):
        raise UserError(f"{settings.data} has too few scenes to train on and hold some out; two are needed")
    pieces = train.subset(np.tile(np.arange(len(train)), settings.crops))
    crop = training_crop(settings.cell_size, settings.num_points)
    return TrainingScenes(train, pieces.with_transform(crop, seed=seed), held_out)


def open_scenes(settings: SceneData, split: Literal["train", "test"]) -> CloudDataset:
    """Whole scenes of one part, in memory.

    Raises:
        UserError: a file is missing or broken.
    """
    if settings.data == GENERATED:
        count = settings.num_rooms if split == "train" else max(settings.num_rooms // 4, 1)
        scenes = generated_rooms(split, num_rooms=count)
    else:
        scenes = scene_folder(settings.data, split, colors=settings.colors)
    if not settings.colors:
        scenes = scenes.with_transform(OnlyCoordinates())
    samples = [scenes[i] for i in range(len(scenes))]
    return CloudDataset(samples, scenes.labels, scenes.class_names, part_names=scenes.part_names)


def check_testing_scenes(settings: SceneData) -> None:
    """Whether there are scenes to test on, by their names alone: said before a training, not after it.

    Raises:
        UserError: there are none.
    """
    root = Path(settings.data)
    if settings.data != GENERATED and root.is_dir():  # that a folder is missing is said where it is opened
        scene_files(root, "test")


def tiling(settings: SemanticSegmentationTraining, device: torch.device) -> dict[str, Any]:
    """The arguments with which `segment_scene` and `evaluate_scenes` treat a model as its training does."""
    return {
        "cell_size": settings.data.cell_size,
        "tile_points": settings.data.tile_points,
        "device": device,
        "dtype": autocast_type(settings.optimization.precision),
    }
