"""`pctransformer prepare street`: generated streets in KITTI's folders, for whatever reads KITTI."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from pctransformer.commands.terminal import console
from pctransformer.errors import UserError


@dataclass(frozen=True)
class Config:
    folder: Positional[Annotated[Path, arg(metavar="FOLDER")]]
    """Must not exist, or be empty; it appears when all is written."""
    frames: Annotated[int, arg(metavar="N")] = 1000
    """Frames to train with."""
    val_frames: Annotated[int, arg(metavar="M")] = 200
    """Frames to validate with."""
    seed: int = 0
    """Of the streets."""
    camera_view: bool = False
    """Write only points that the camera sees, as detectors of KITTI are trained on them: 0.3 MB a frame where a whole
    sweep has 2 MB, and made in half the time."""
    workers: int = 2
    """Processes that make them; the frames are the same for any number."""


def run(config: Config) -> int:
    """Write, and say what was written."""
    from rich.console import Console
    from rich.progress import track

    from pctransformer.datasets.kitti import read_split
    from pctransformer.datasets.street import write_street

    for name, value, least in (("frames", config.frames, 1), ("val-frames", config.val_frames, 0),
                               ("workers", config.workers, 0), ("seed", config.seed, 0)):  # fmt: skip
        if value < least:
            raise UserError(f"--{name} must be {least} or more, got {value}")
    shown = Console(stderr=True)
    total = config.frames + config.val_frames
    write_street(
        config.folder,
        config.frames,
        config.val_frames,
        seed=config.seed,
        camera_view=config.camera_view,
        workers=config.workers,
        watch=lambda made: track(
            made, "frames", total=total, console=shown, transient=True, disable=not shown.is_terminal
        ),
    )
    out = console()
    for split in ("train", "val") if config.val_frames else ("train",):
        frames = read_split(config.folder, split)
        kinds = [str(kind) for frame in frames for kind in frame.objects.types]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        out.print(f"{config.folder}: {split}, {len(frames)} frames, {counts}")
    out.print(f"\n`pctransformer prepare kitti {config.folder}` computes what training on KITTI needs")
    return 0
