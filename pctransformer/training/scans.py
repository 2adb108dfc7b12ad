"""From settings to LiDAR scans: what a detector is shown in training, on the held-out part and in the test."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pctransformer.datasets.kitti import KittiFrame, kitti_scans, read_infos, read_split, write_infos
from pctransformer.datasets.kitti.frames import frame_names
from pctransformer.datasets.kitti.prepare import labelled_objects
from pctransformer.datasets.kitti.writing import write_frames
from pctransformer.datasets.object_database import (
    ObjectDatabase,
    build_database,
    joined_databases,
    objects_of_scans,
)
from pctransformer.datasets.scan_recipes import Range, training_recipe
from pctransformer.datasets.scan_transforms import CropToRange
from pctransformer.datasets.scans import ScanDataset, joined_scans
from pctransformer.datasets.source import GENERATED
from pctransformer.errors import UserError
from pctransformer.training.settings import ScanData

Split = Literal["train", "test", "trainval"]
_PREPARED = "prepared"  # where `pctransformer prepare kitti` writes by default
_MOST_WORKERS, _WORTH_WORKERS = 8, 32  # processes that simulate, and scans from which on they are started
_TEST_START = 1_000_000  # simulated streets from there on are tested on


@dataclasses.dataclass(frozen=True, eq=False)
class ScanPart:
    """Scans, and what is known of them besides.

    Attributes:
        scans: as they are, without random changes.
        frames: of KITTI, one for each scan, by which detections are judged officially; none where a camera is missing.
        database: the file of the scans' objects, where one was prepared.
    """

    scans: ScanDataset
    frames: tuple[KittiFrame, ...] = ()
    database: Path | None = None

    def __len__(self) -> int:
        return len(self.scans)

    def facts(self) -> Iterator[list[Any]]:
        """What is known of each scan without its points: a digest of it tells whether data has changed."""
        for row, name in enumerate(self.scans.names):
            yield [name, *(self.frames[row].boxes.round(3).tolist() if self.frames else ())]

    def take(self, rows: Sequence[int]) -> ScanPart:
        """Some of the scans."""
        frames = tuple(self.frames[row] for row in rows) if self.frames else ()
        return dataclasses.replace(self, scans=self.scans.subset(rows), frames=frames)

    def hold_out(self, share: float, *, seed: int = 0) -> tuple[ScanPart, ScanPart]:
        """The part without a share of its scans, and these; see `ScanDataset.held_out_rows`."""
        rest, held_out = (rows.tolist() for rows in self.scans.held_out_rows(share, seed=seed))
        return self.take(rest), self.take(held_out)

    def objects(self) -> ObjectDatabase | None:
        """The objects of these scans alone; None where there are none."""
        if self.database is not None:
            known = ObjectDatabase.load(self.database)
            own = np.isin(known.frames, self.scans.names)
            return known.take(own) if own.any() else None
        objects = labelled_objects(self.frames) if self.frames else objects_of_scans(self.scans)
        rows = [one for one in objects if len(one.points)]
        return build_database(rows) if rows else None


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingScans:
    """Scans to train on, of each source by itself, and those by which the epoch is chosen."""

    sources: tuple[ScanPart, ...]
    held_out: ScanPart

    @property
    def train(self) -> ScanPart:
        return joined_parts(self.sources)

    def samples(self, settings: ScanData, range: Range, seed: int, epochs: int) -> ScanDataset:
        """What a detector is shown, with random changes.

        Args:
            range: of the detector, see `CropToRange`.
            epochs: of the training.
        """
        repeat = settings.repeat or (1,) * len(self.sources)
        rows = [np.tile(np.arange(len(part)), times) for part, times in zip(self.sources, repeat, strict=True)]
        scans = joined_scans([part.scans.subset(chosen.tolist()) for part, chosen in zip(self.sources, rows)])
        names = settings.classes
        if settings.augmentation == "none":
            return scans.with_transform(CropToRange(range), seed=seed, only_with_boxes=True)
        databases = [part.objects() for part in self.sources] if settings.paste else []
        found = [database for database in databases if database is not None]
        recipe, unpasted = (
            training_recipe(settings.augmentation, database, class_names=names, range=range)
            for database in (joined_databases(found) if found else None, None)
        )
        later = (epochs - settings.unpasted_epochs, unpasted)
        return scans.with_transform(recipe, seed=seed, only_with_boxes=True, later=later)


def training_scans(settings: ScanData, seed: int) -> TrainingScans:
    """Read or simulate the training scans, keep of each source what is labelled, and hold out some of that.

    Args:
        seed: of the choice of what is labelled.

    Raises:
        UserError: a file is missing or broken, there are too few scans, or a setting is out of range.
    """
    if not 0 <= settings.validation < 1:
        raise UserError(f"--validation must be from 0 to below 1, got {settings.validation}")
    if settings.repeat and (len(settings.repeat) != len(settings.data) or min(settings.repeat) < 1):
        raise UserError(
            f"--repeat wants a number from 1 up for each of {len(settings.data)} sources, got"
            f" {' '.join(map(str, settings.repeat))}"
        )
    if not 0 < settings.label_fraction <= 1:
        raise UserError(f"--label-fraction must be above 0 and at most 1, got {settings.label_fraction}")
    sources = [open_scans(source, settings, "train") for source in _sources(settings)]
    if settings.label_fraction < 1:
        sources = [part.hold_out(settings.label_fraction, seed=seed)[1] for part in sources]
    parts = [part.hold_out(settings.validation) for part in sources]
    train, held_out = [part[0] for part in parts], joined_parts([part[1] for part in parts])
    if not all(map(len, train)) or (settings.validation and not len(held_out)):
        raise UserError(f"{' and '.join(settings.data)}: too few labelled scans to hold some out; give --validation 0")
    return TrainingScans(tuple(train), held_out)


def open_scans(source: str, settings: ScanData, split: Split) -> ScanPart:
    """One part of one source.

    Args:
        source: `generated` or a folder.
        settings: how to read it.
        split: "test" is KITTI's val, whose labels are known, and that of your own scans where they have no test;
            "trainval" is both.

    Raises:
        UserError: a file is missing or broken, or there are no classes to look for.
    """
    _check(settings)
    if source == GENERATED:
        from pctransformer.datasets.street import street_frames

        begin, count = (0, settings.num_scans) if split == "train" else (_TEST_START, max(settings.num_scans // 4, 1))
        processes = len(os.sched_getaffinity(0))
        workers = min(processes, _MOST_WORKERS) if processes > 1 and count >= _WORTH_WORKERS else 0
        frames = street_frames(count, start=begin, camera_view=settings.camera_view, workers=workers)
        return _of_frames(frames, settings)
    folder = Path(source)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; --data wants `generated` or a folder of scans")
    if (folder / "training" / "velodyne").is_dir():
        name = "val" if split == "test" else split
        prepared = folder / _PREPARED
        infos, database = prepared / f"{name}.json", prepared / f"database_{name}.npz"
        frames = read_infos(infos, folder) if infos.is_file() else read_split(folder, name)
        return _of_frames(frames, settings, database if database.is_file() else None)
    from pctransformer.datasets.lidar_folder import lidar_folder

    parts: list[Split] = ["train", "test"] if split == "trainval" else [split]
    names = [_own_test(folder) if part == "test" else part for part in parts]
    read = partial(lidar_folder, folder, class_names=settings.classes, reflectance=settings.reflectance)
    return ScanPart(joined_scans([read(name) for name in names]))


def testing_scans(settings: ScanData, split: Split) -> ScanPart:
    """What is tested on: a part of the last source."""
    return open_scans(_sources(settings)[-1], settings, split)


def check_testing_scans(settings: ScanData) -> None:
    """Whether what is tested on is there, by its names alone: said before a training, not after it.

    Raises:
        UserError: it is not.
    """
    source = _sources(settings)[-1]
    folder = Path(source)
    if source == GENERATED or not folder.is_dir() or (folder / _PREPARED / "val.json").is_file():
        return  # that a folder is missing is said where it is opened
    if (folder / "training" / "velodyne").is_dir():
        frame_names(folder, "val")
        return
    from pctransformer.datasets.lidar_folder import lidar_files

    lidar_files(folder, _own_test(folder))


def write_generated(settings: ScanData, folder: Path) -> ScanData:
    """Have simulated streets made once for many trainings: the same scans, read from files.

    Args:
        settings: with the streets among its sources, or without, which are given back as they are.
        folder: of what is written, in KITTI's folders with its infos and objects; what is there already is kept.

    Returns:
        settings with the folder in the place of the streets.

    Raises:
        UserError: the streets cannot be made.
    """
    if GENERATED not in settings.data:
        return settings
    if not folder.exists():
        splits = {"train": open_scans(GENERATED, settings, "train").frames}
        splits["val"] = open_scans(GENERATED, settings, "test").frames
        splits["trainval"] = splits["train"] + splits["val"]
        names = {split: [frame.name for frame in frames] for split, frames in splits.items()}
        write_frames(folder, splits["trainval"], names)
    prepared = folder / _PREPARED
    database = prepared / "database_train.npz"
    if not database.exists():  # it is the last
        prepared.mkdir(exist_ok=True)
        train, val = read_split(folder, "train"), read_split(folder, "val")
        write_infos(prepared / "train.json", train, folder)
        write_infos(prepared / "val.json", val, folder)
        build_database(list(labelled_objects(train))).save(database)
    return dataclasses.replace(
        settings, data=tuple(str(folder) if source == GENERATED else source for source in settings.data)
    )


def joined_parts(parts: Sequence[ScanPart]) -> ScanPart:
    """Parts, one behind the other; with frames if all have them."""
    frames = tuple(frame for part in parts for frame in part.frames)
    together = joined_scans([part.scans for part in parts])
    return ScanPart(together, frames if len(frames) == len(together) else ())


def _of_frames(frames: Sequence[KittiFrame], settings: ScanData, database: Path | None = None) -> ScanPart:
    scans = kitti_scans(frames, class_names=settings.classes, camera_view=settings.camera_view)
    return ScanPart(scans, tuple(frames), database)


def _own_test(folder: Path) -> str:
    """The split of your own scans that is tested on: val, as OpenPCDet calls it, where there is no test."""
    from pctransformer.datasets.lidar_folder import lidar_splits

    there = lidar_splits(folder)
    return "val" if "val" in there and "test" not in there else "test"


def _sources(settings: ScanData) -> tuple[str, ...]:
    if not settings.data:
        raise UserError("--data: name at least one source")
    return settings.data


def _check(settings: ScanData) -> None:
    if not settings.classes or len(set(settings.classes)) < len(settings.classes):
        raise UserError(f"--classes wants names, each once; got {' '.join(settings.classes) or 'none'}")
    if settings.reflectance is not None and not 0 <= settings.reflectance <= 1:
        raise UserError(f"--reflectance must be from 0 to 1, got {settings.reflectance}")
    if settings.unpasted_epochs < 0:
        raise UserError(f"--unpasted-epochs must be at least 0, got {settings.unpasted_epochs}")
    if settings.num_scans < 1:
        raise UserError(f"--num-scans must be at least 1, got {settings.num_scans}")
