"""`pctransformer predict`: classes of files, of their parts or of scenes' points; boxes of what is in LiDAR scans."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from pctransformer.errors import UserError


@dataclass(frozen=True)
class Config:
    files: Positional[Annotated[tuple[Path, ...], arg(metavar="FILE|FOLDER...", help_behavior_hint="(required)")]]
    """Point clouds (.ply .pcd .npy .npz .xyz .txt .csv .bin) and meshes (.off .obj .stl .ply), or folders of them."""
    model: Annotated[Path, arg(metavar="RUN|CHECKPOINT")]
    """The folder of a run, of which the best checkpoint is taken, or a checkpoint file."""
    category: str | None = None
    """What the files show, for a model that tells the parts of objects: one of its classes."""
    top: int = 5
    """How many classes of each file, the most probable first; of a scene those that most points have."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """New folder for predictions.json, pictures, and points with their parts. By default `predictions` in the run's
    folder, numbered."""
    pictures: bool = True
    """Whether to draw each cloud beside its classes or parts."""
    up: Literal["y", "z"] = "z"
    """The axis that stands upright in pictures."""
    not_finite: Literal["error", "drop"] = "error"
    """What to do with points that are NaN or infinite, as depth cameras write them."""
    columns: int | None = None
    """Values per point of .bin files, which do not say it: of scenes 6 for x, y, z and a colour; of LiDAR scans 4 with
    reflectance, as KITTI has them, 5 with ring, as nuScenes."""
    score: float | None = None
    """Least score of the boxes that a detector gives; by default 0.1."""
    around: bool = False
    """Let a detector that knows only what is ahead look in all directions of a sweep, one after the other."""
    lift: float = 0.0
    """Metres by which the LiDAR stands higher than that of a detector's training, KITTI's 1.73 m over the ground."""
    reflectance: float | None = None
    """Of all points of LiDAR scans that have none, from 0 to 1, for a detector that wants it."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` is a GPU where there is one."""
    json: bool = False
    """Print what is written to predictions.json instead of a table."""


def run(config: Config) -> int:
    """Predict all files; 1 where some of them cannot be used."""
    from pctransformer.commands import predicted_classes, predicted_parts
    from pctransformer.commands.predictions import RECORD, Stems, conclude, each_file, writing
    from pctransformer.datasets.folder import FILE_SUFFIXES
    from pctransformer.predict import load
    from pctransformer.predict_boxes import DetectorPredictor
    from pctransformer.predict_parts import PartPredictor
    from pctransformer.predict_scenes import ScenePredictor
    from pctransformer.training.checkpoint import find_checkpoint, folder_of
    from pctransformer.training.run_folder import numbered

    if config.top < 1:
        raise UserError(f"--top must be at least 1, got {config.top}")
    checkpoint = find_checkpoint(config.model)
    folder = config.out or numbered(folder_of(checkpoint) / "predictions")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} exists already and is not overwritten; give a new folder with --out")
    predictor = load(checkpoint, config.device)
    raw = isinstance(predictor, (ScenePredictor, DetectorPredictor))
    files = _expanded(config.files, (*FILE_SUFFIXES, ".bin") if raw else FILE_SUFFIXES)
    _check_task(config, predictor, checkpoint)
    if isinstance(predictor, ScenePredictor):
        from pctransformer.commands import scenes

        return scenes.predict(config, predictor, checkpoint, files, folder)
    if isinstance(predictor, DetectorPredictor):
        from pctransformer.commands import detections

        return detections.predict(config, predictor, checkpoint, files, folder)
    failed: list[dict[str, str]] = []
    prepare = functools.partial(predictor.prepare, not_finite=config.not_finite)
    samples = list(each_file(files, prepare, failed))
    predictions: list[Any]
    if isinstance(predictor, PartPredictor):
        telling: ModuleType = predicted_parts
        try:
            predictions = predictor.segment(samples, config.category)
        except ValueError as error:
            raise UserError(f"--category: {error}") from None
    else:
        telling = predicted_classes
        predictions = predictor.classify(samples, config.top)

    stems = [*map(Stems(), (prediction.name for prediction in predictions))]
    record = {
        "model": str(checkpoint),
        "predictions": [telling.as_record(p, stem, config.pictures) for p, stem in zip(predictions, stems)],
        "failed": failed,
    }
    for prediction, stem in zip(predictions, stems):
        with writing(folder):
            telling.write(prediction, folder / stem, config.pictures, config.up)
    written = [RECORD, *telling.FILES] + (["pictures"] if config.pictures else [])
    return conclude(
        record, folder, len(files), as_json=config.json, table=lambda: telling.print_all(predictions),
        written=f"{', '.join(written[:-1])}{' and ' if len(written) > 1 else ''}{written[-1]}",
    )  # fmt: skip


def _check_task(config: Config, predictor: object, checkpoint: Path) -> None:
    """Whether no option was given that the model has no use for."""
    from pctransformer.predict_boxes import DetectorPredictor
    from pctransformer.predict_parts import PartPredictor

    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    for kind, whose, options in (
        (PartPredictor, "models that tell parts of objects", ("category",)),
        (DetectorPredictor, "detectors", ("score", "around", "lift", "reflectance")),
    ):
        for option in options:
            if not isinstance(predictor, kind) and getattr(config, option) != defaults[option]:
                raise UserError(f"--{option} is for {whose}, and {checkpoint} is none of them")


# ---- reading ---------------------------------------------------------------------------------------------------------
def _expanded(paths: Sequence[Path], suffixes: Sequence[str]) -> list[Path]:
    """The files; those of a folder in alphabetical order, with those in its folders, without hidden ones."""
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
        inside = [file for file in inside if not any(p.startswith(".") for p in file.relative_to(path).parts)]
        if not inside:
            raise UserError(f"{path} holds no file that ends in one of {' '.join(suffixes)}")
        files += inside
    if not files:
        raise UserError("predict what? give files or folders")
    return files
