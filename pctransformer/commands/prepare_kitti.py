"""`pctransformer prepare kitti`: infos and the database of objects, computed once from KITTI's standard folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from pctransformer.commands.terminal import console, print_table
from pctransformer.errors import UserError


@dataclass(frozen=True)
class Config:
    folder: Positional[Annotated[Path, arg(metavar="FOLDER")]]
    """KITTI's folder, with `training` and `ImageSets`."""
    splits: tuple[str, ...] = ("train", "val")
    """Lists in `ImageSets` to write infos of; the database of objects is made of the first."""
    out: Annotated[Path | None, arg(metavar="PATH")] = None
    """Folder for the results. By default FOLDER/prepared; trainings look for them nowhere else."""


def run(config: Config) -> int:
    """Read everything once, write, check."""
    from rich.console import Console
    from rich.progress import track

    from pctransformer.datasets.kitti.frames import FRAMES_OF_SPLIT, read_split, write_infos
    from pctransformer.datasets.kitti.prepare import check_counts, labelled_objects
    from pctransformer.datasets.object_database import build_database

    if not (config.folder / "training").is_dir():
        raise UserError(f"{config.folder}: there is no folder training in it; data/README.md has KITTI's folders")
    if not config.splits:
        raise UserError("--splits needs at least one name of a list in ImageSets, like train")
    folder = config.out or config.folder / "prepared"
    folder.mkdir(parents=True, exist_ok=True)
    out = console()
    frames = {split: read_split(config.folder, split) for split in config.splits}
    for split, of_split in frames.items():
        path = folder / f"{split}.json"
        write_infos(path, of_split, config.folder)
        out.print(f"{path}: {len(of_split)} frames, {sum(len(frame.boxes) for frame in of_split)} objects")

    first = frames[config.splits[0]]
    shown = Console(stderr=True)
    watched = track(first, "objects", console=shown, transient=True, disable=not shown.is_terminal)
    objects = [one for frame in watched for one in labelled_objects([frame])]
    if not objects:
        raise UserError(f"the frames of {config.splits[0]} have no labelled objects to make a database of")
    database = build_database(objects)
    path = folder / f"database_{config.splits[0]}.npz"
    database.save(path)
    out.print(f"{path}: {len(database)} objects, {len(database.points)} points\n")
    rows = [[name, *map(str, numbers)] for name, numbers in database.counts().items()]
    print_table(["class", "objects", "with 5 points", "of them not too hard"], rows, right=(1, 2, 3))
    complete = config.splits[0] == "train" and check_counts(database, len(first))
    out.print(
        "\nthese are the known numbers of KITTI"
        if complete
        else f"\nnothing to compare with: numbers are known of all {FRAMES_OF_SPLIT['train']} frames of train"
    )
    return 0
