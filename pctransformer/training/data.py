"""From settings to data sets: what a model sees in training, on the held-out part, in the test, and in prediction."""

from __future__ import annotations

from dataclasses import dataclass

from pctransformer.datasets import CloudDataset, joined, open_dataset
from pctransformer.datasets.source import GENERATED
from pctransformer.datasets.transforms import (
    RECIPES,
    Compose,
    EvenSubset,
    Normalize,
    OnlyCoordinates,
    RandomSubset,
)
from pctransformer.errors import UserError
from pctransformer.training.settings import Augmentation, DataSettings, PartData, UnlabelledData


def evaluation_transform(settings: DataSettings) -> Compose:
    """What a cloud goes through before a model sees it, with nothing random: the same in prediction."""
    return Compose((normalisation(settings), EvenSubset(settings.eval_points)))


def normalisation(settings: DataSettings) -> Compose:
    """The part of `evaluation_transform` that leaves all points where they are in their order."""
    return Compose((OnlyCoordinates(settings.normals), Normalize()))


def training_transform(settings: DataSettings) -> Compose:
    """The same with other points in every epoch, and the recipe's random changes."""
    points = (normalisation(settings), RandomSubset(settings.num_points))
    return Compose((*points, *_recipe(settings.augmentation)))


def _recipe(augmentation: Augmentation) -> tuple[Compose, ...]:
    return () if augmentation == "none" else (RECIPES[augmentation](),)


@dataclass(frozen=True)
class TrainingData:
    """A training set, and the part of it that is held out to choose the epoch by."""

    train: CloudDataset
    held_out: CloudDataset


def training_data(settings: DataSettings, seed: int) -> TrainingData:
    """Read the training set, keep of each class what is labelled, and hold out a part of that.

    Raises:
        UserError: a file is missing or broken, or there are too few shapes.
    """
    data = open_split(settings, "train")
    _check_share("--validation", settings.validation)
    if not 0 < settings.label_fraction <= 1:
        raise UserError(f"--label-fraction must be above 0 and at most 1, got {settings.label_fraction}")
    if settings.label_fraction < 1:
        data = data.hold_out(settings.label_fraction, seed=seed)[1]
    rest, held_out = data.hold_out(settings.validation)
    if not len(held_out) or not len(rest):
        raise UserError(
            f"{settings.data} has {len(data)} labelled training shapes of {len(data.class_names)} classes: too few to"
            " hold some out; every class needs two"
        )
    return TrainingData(
        rest.with_transform(training_transform(settings), seed=seed),
        held_out.with_transform(evaluation_transform(settings)),
    )


def unlabelled_data(settings: UnlabelledData, seed: int) -> TrainingData:
    """Read all sources and hold out the same part of each.

    Raises:
        UserError: a file is missing or broken, or there are too few shapes.
    """
    _check_share("--validation", settings.validation)
    if not settings.data:
        raise UserError("--data: name at least one source")
    if settings.num_points < 1:
        raise UserError(f"--num-points must be at least 1, got {settings.num_points}")
    rest: list[CloudDataset] = []
    held_out: list[CloudDataset] = []
    for source in settings.data:
        data = open_dataset(
            source, "train", labelled=False,
            num_points=2 * settings.num_points,  # so that epochs can draw different ones
            num_shapes=settings.num_shapes,
        ).in_memory()  # fmt: skip
        for part, share in zip((rest, held_out), data.hold_out(settings.validation)):
            part.append(share)
    sets = joined(rest), joined(held_out)
    if not all(map(len, sets)):
        raise UserError(f"{', '.join(settings.data)}: too few shapes to hold some out; two are needed")
    plain = (OnlyCoordinates(), Normalize())
    augmentation = "point_mae" if settings.augmentation == "auto" else settings.augmentation
    changed = Compose((*plain, RandomSubset(settings.num_points), *_recipe(augmentation)))
    kept = Compose((*plain, EvenSubset(settings.num_points)))
    return TrainingData(sets[0].with_transform(changed, seed=seed), sets[1].with_transform(kept))


def check_testing_data(settings: DataSettings) -> None:
    """Whether there are shapes to test on, of which no more is read than their reader has to: said before a training.

    Raises:
        UserError: there are none.
    """
    if settings.data != GENERATED:
        _open(settings, "test")


def testing_data(settings: DataSettings) -> CloudDataset:
    """The test set as evaluation sees it."""
    return open_split(settings, "test").with_transform(evaluation_transform(settings))


def open_split(settings: DataSettings, split: str) -> CloudDataset:
    """One part of the data, in memory.

    Raises:
        UserError: it is missing or broken, or has no normals, or labels of parts, where they are asked for.
    """
    data = _open(settings, split).in_memory()
    if settings.normals and data.samples[0].normals is None:
        raise UserError(f"--normals: the shapes in {settings.data} have none; leave it out")
    if isinstance(settings, PartData) and not data.part_names:
        raise UserError(
            f"the points in {settings.data} have no labels of parts; give `generated`, or a folder of ShapeNet parts"
        )
    return data


def _open(settings: DataSettings, split: str) -> CloudDataset:
    """One part of the data, as its reader gives it."""
    if settings.num_points < 1 or settings.eval_points < 1:
        raise UserError(f"--num-points and --eval-points must be at least 1, got {settings.num_points} and"
                        f" {settings.eval_points}")  # fmt: skip
    data = open_dataset(
        settings.data,
        split,  # type: ignore[arg-type]
        num_points=settings.drawn_points,
        normals=settings.normals,
        num_shapes=settings.num_shapes,
    )
    if not len(data):
        raise UserError(f"{settings.data} has no shapes to {split} on")
    return data


def _check_share(option: str, share: float) -> None:
    if not 0 < share < 1:
        raise UserError(f"{option} must lie between 0 and 1, got {share}: the epoch is chosen by what is held out")
