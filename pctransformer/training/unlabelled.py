"""What a model is pretrained on: shapes, or LiDAR scans, by what it is pretrained to become."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pctransformer.datasets import CloudDataset, collate
from pctransformer.datasets.scan_transforms import ComposeScans, RandomFlip, RandomScale, RandomTurn, ShufflePoints
from pctransformer.datasets.scans import ScanDataset, collate_scans, joined_scans
from pctransformer.datasets.source import GENERATED
from pctransformer.datasets.unlabelled_scans import unlabelled_scans
from pctransformer.errors import UserError
from pctransformer.training.data import unlabelled_data
from pctransformer.training.engine import Batch
from pctransformer.training.report import draw_reconstruction, draw_scans_made_up
from pctransformer.training.scans import ScanPart, open_scans
from pctransformer.training.settings import ScanData, UnlabelledData


@dataclasses.dataclass(frozen=True)
class Unlabelled:
    """What to train on, and what is held out to choose the epoch by.

    Attributes:
        kind: "shapes" or "scans".
        train: with random changes.
        held_out: without.
        parts: both without random changes, as `describe_run` wants them.
        channels: values of a point, 3 + C.
        collate: makes a batch of samples, whose first part are the points.
        draw: samples, what was made up of them, and a folder for the figure.
        shown: samples in the figure.
    """

    kind: str
    train: CloudDataset | ScanDataset
    held_out: CloudDataset | ScanDataset
    parts: tuple[CloudDataset, CloudDataset] | tuple[ScanPart, ScanPart]
    channels: int
    collate: Callable[[Sequence[Any]], Batch]
    draw: Callable[[Sequence[Any], Any, Path], None]
    shown: int


def shapes(settings: UnlabelledData, seed: int) -> Unlabelled:
    """Clouds around the origin, see `unlabelled_data`.

    Raises:
        UserError: a file is missing or broken, or there are too few shapes.
    """
    sets = unlabelled_data(settings, seed)
    return Unlabelled(
        "shapes", sets.train, sets.held_out, (sets.train, sets.held_out), 3, collate, draw_reconstruction, shown=6
    )


def scans(settings: UnlabelledData, seed: int) -> Unlabelled:
    """LiDAR scans, the same part of each source held out; the others mirrored, turned and scaled as detectors are
    trained on, without pasting.

    Raises:
        UserError: a file is missing or broken, there are too few scans, or a setting is not for scans.
    """
    if not settings.data:
        raise UserError("--data: name at least one source")
    if not 0 < settings.validation < 1:
        raise UserError(
            f"--validation must lie between 0 and 1, got {settings.validation}: the epoch is chosen by what is held out"
        )
    if settings.augmentation not in ("auto", "none"):
        raise UserError(f"--augmentation {settings.augmentation} is for shapes; for scans there are auto and none")
    parts = [_open(source, settings).hold_out(settings.validation) for source in settings.data]
    train, held_out = (ScanPart(joined_scans([pair[i].scans for pair in parts])) for i in range(2))
    if not len(train) or not len(held_out):
        raise UserError(f"{', '.join(settings.data)}: too few scans to hold some out; two are needed")
    changes = ComposeScans((RandomFlip(), RandomTurn(), RandomScale(), ShufflePoints()))
    return Unlabelled(
        kind="scans",
        train=train.scans.with_transform(None if settings.augmentation == "none" else changes, seed=seed),
        held_out=held_out.scans,
        parts=(train, held_out),
        channels=held_out.scans[0].points.shape[1],
        collate=collate_scans,
        draw=draw_scans_made_up,
        shown=2,
    )


def _open(source: str, settings: UnlabelledData) -> ScanPart:
    if source != GENERATED:
        return ScanPart(unlabelled_scans(source, camera_view=settings.camera_view))
    streets = ScanData(classes=("Car",), camera_view=settings.camera_view, num_scans=settings.num_scans)
    found = open_scans(GENERATED, streets, "train").scans
    return ScanPart(ScanDataset(found.names, found.__getitem__, ()))
