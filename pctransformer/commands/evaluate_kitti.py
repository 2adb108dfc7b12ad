"""`pctransformer evaluate-kitti`: detections in KITTI's text form against its labels, by its official rules."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from pctransformer.commands.terminal import console
from pctransformer.errors import UserError

if TYPE_CHECKING:
    from pctransformer.datasets.kitti.objects import KittiObjects


@dataclass(frozen=True)
class Config:
    labels: Positional[Annotated[Path, arg(metavar="LABELS")]]
    """Folder of labels, one text file of 15 columns for each frame: `training/label_2`."""
    detections: Positional[Annotated[Path, arg(metavar="DETECTIONS")]]
    """Folder of detections, files of the same names with 16 columns; a frame without a file has no detections."""
    frames: Annotated[Path | None, arg(metavar="PATH")] = None
    """Evaluate the frames that are named in this file, one a line, as in `ImageSets/val.txt`. By default all labels."""
    json: Annotated[Path | None, arg(metavar="PATH")] = None
    """Write all figures there: averages, curves, thresholds, counts."""
    picture: Annotated[Path | None, arg(metavar="PATH")] = None
    """Draw precision over recall of boxes in space there, as PNG, PDF or SVG."""


def run(config: Config) -> int:
    """Read, evaluate, print, write."""
    from pctransformer.atomic import replace_file
    from pctransformer.evaluation.kitti import evaluate_kitti

    for path in (config.json, config.picture):
        if path is not None and not path.parent.is_dir():
            raise UserError(f"{path} cannot be written: there is no folder {path.parent}")
    if config.picture is not None and config.picture.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--picture must end in .png, .pdf or .svg, got {config.picture}")
    names = _frame_names(config)
    labels, detections, missing = _read(config, names)
    score = evaluate_kitti(labels, detections)
    out = console()
    out.print(score.table())
    out.print(f"\n{score.num_frames} frames, {score.num_detections} detections")
    if missing:
        out.print(
            f"{missing} of the frames have no file in {config.detections} and count as frames without detections;"
            " --frames FILE names the frames of a split"
        )
    if config.json is not None:
        replace_file(config.json, (json.dumps({"missing": missing, **score.as_dict()}, indent=1) + "\n").encode())
        out.print(f"all figures: {config.json}")
    if config.picture is not None:
        from pctransformer.visualization.detection import precision_recall_figure

        precision_recall_figure(score).savefig(config.picture, dpi=150)
        out.print(f"precision over recall: {config.picture}")
    return 0


def _files(folder: Path, what: str) -> set[str]:
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; {what} are text files in a folder, one for each frame")
    names = {path.stem for path in folder.glob("*.txt")}
    if not names:
        raise UserError(f"{folder}: there are no .txt files in it; {what} are text files like 000134.txt")
    return names


def _frame_names(config: Config) -> list[str]:
    """The frames to evaluate, sorted, each of which has labels."""
    from pctransformer.datasets.kitti.frames import read_names

    labelled = _files(config.labels, "labels")
    detected = _files(config.detections, "detections")
    if config.frames is None:
        strange = sorted(detected - labelled)
        if strange:
            raise UserError(
                f"{config.detections / strange[0]}.txt has no labels in {config.labels}, nor have"
                f" {len(strange) - 1} others; are these the labels of the same frames?"
            )
        return sorted(labelled)
    names = sorted(set(read_names(config.frames)))
    absent = [name for name in names if name not in labelled]
    if absent:
        raise UserError(f"{config.frames} names frame {absent[0]!r}, which has no labels in {config.labels}")
    return names


def _read(config: Config, names: list[str]) -> tuple[list[KittiObjects], list[KittiObjects], int]:
    """Labels and detections of the frames, and how many have no file of detections."""
    from pctransformer.datasets.kitti.objects import KittiObjects, read_objects

    labels = [read_objects(config.labels / f"{name}.txt", scores=False) for name in names]
    files = [config.detections / f"{name}.txt" for name in names]
    there = [file.is_file() for file in files]
    detections = [
        read_objects(file, scores=True) if exists else KittiObjects.empty(scores=True)
        for file, exists in zip(files, there)
    ]
    return labels, detections, len(names) - sum(there)
