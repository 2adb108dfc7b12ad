"""From settings to data sets: what a model sees in training, on the held-out part, in the test, and in prediction."""

from __future__ import annotations

from dataclasses import dataclass

from pctransformer.datasets import CloudDataset, open_dataset
from pctransformer.datasets.transforms import (
    RECIPES,
    Compose,
    EvenSubset,
    Normalize,
    OnlyCoordinates,
    RandomSubset,
)
from pctransformer.errors import UserError
from pctransformer.training.settings import DataSettings


def evaluation_transform(settings: DataSettings) -> Compose:
    """What a cloud goes through before a model sees it, with nothing random: the same in prediction."""
    return Compose((OnlyCoordinates(settings.normals), Normalize(), EvenSubset(settings.eval_points)))


def training_transform(settings: DataSettings) -> Compose:
    """The same with other points in every epoch, and the recipe's random changes."""
    recipe = () if settings.augmentation == "none" else (RECIPES[settings.augmentation](),)
    return Compose((OnlyCoordinates(settings.normals), Normalize(), RandomSubset(settings.num_points), *recipe))


@dataclass(frozen=True)
class TrainingData:
    """A training set, and the part of it that is held out to choose the epoch by."""

    train: CloudDataset
    held_out: CloudDataset


def training_data(settings: DataSettings, seed: int) -> TrainingData:
    """Read the training set and hold out a part of each class.

    Raises:
        UserError: a file is missing or broken, or there are too few shapes.
    """
    data = open_split(settings, "train")
    if not 0 < settings.validation < 1:
        raise UserError(f"--validation must lie between 0 and 1, got {settings.validation}: the epoch is chosen by it")
    rest, held_out = data.hold_out(settings.validation)
    if not len(held_out) or not len(rest):
        raise UserError(
            f"{settings.data} has {len(data)} training shapes of {len(data.class_names)} classes: too few to hold some"
            " out; every class needs two"
        )
    return TrainingData(
        rest.with_transform(training_transform(settings), seed=seed),
        held_out.with_transform(evaluation_transform(settings)),
    )


def testing_data(settings: DataSettings) -> CloudDataset:
    """The test set as evaluation sees it."""
    return open_split(settings, "test").with_transform(evaluation_transform(settings))


def open_split(settings: DataSettings, split: str) -> CloudDataset:
    """One part of the data, in memory.

    Raises:
        UserError: it is missing or broken, or has no normals where they are asked for.
    """
    if settings.num_points < 1 or settings.eval_points < 1:
        raise UserError(f"--num-points and --eval-points must be at least 1, got {settings.num_points} and"
                        f" {settings.eval_points}")  # fmt: skip
    data = open_dataset(
        settings.data,
        split,  # type: ignore[arg-type]
        num_points=max(settings.num_points, settings.eval_points),
        normals=settings.normals,
        num_shapes=settings.num_shapes,
    ).in_memory()
    if not len(data):
        raise UserError(f"{settings.data} has no shapes to {split} on")
    if settings.normals and data.samples[0].normals is None:
        raise UserError(f"--normals: the shapes in {settings.data} have none; leave it out")
    return data
