"""`pctransformer predict`: classes of files, of their parts or of scenes' points, printed, drawn and written down."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from pctransformer.errors import UserError

if TYPE_CHECKING:
    from pctransformer.datasets import Sample
    from pctransformer.predict import PartPrediction, Prediction, Predictor

RECORD = "predictions.json"


@dataclass(frozen=True)
class Config:
    files: Positional[Annotated[tuple[Path, ...], arg(metavar="FILE|FOLDER...", help_behavior_hint="(required)")]]
    """Point clouds (.ply .pcd .npy .npz .xyz .txt .csv) and meshes (.off .obj .stl .ply), or folders of them."""
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
    """Values per point of .bin files, which do not say it: 6 for x, y, z and a colour. For scenes only."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` is a GPU where there is one."""
    json: bool = False
    """Print what is written to predictions.json instead of a table."""


def run(config: Config) -> int:
    """Predict all files; 1 where some of them cannot be used."""
    from pctransformer.commands import predicted_classes, predicted_parts
    from pctransformer.predict import PartPredictor, load
    from pctransformer.predict_scenes import ScenePredictor
    from pctransformer.training.checkpoint import find_checkpoint, folder_of
    from pctransformer.training.run_folder import numbered

    if config.top < 1:
        raise UserError(f"--top must be at least 1, got {config.top}")
    files = _expanded(config.files)
    checkpoint = find_checkpoint(config.model)
    folder = config.out or numbered(folder_of(checkpoint) / "predictions")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} exists already and is not overwritten; give a new folder with --out")
    predictor = load(checkpoint, config.device)
    if isinstance(predictor, ScenePredictor):
        from pctransformer.commands import scenes

        return scenes.predict(config, predictor, checkpoint, files, folder)
    samples, failed = _prepared(predictor, files, config.not_finite)
    predictions: list[Any]
    if isinstance(predictor, PartPredictor):
        telling: ModuleType = predicted_parts
        try:
            predictions = predictor.segment(samples, config.category)
        except ValueError as error:
            raise UserError(f"--category: {error}") from None
    else:
        if config.category is not None:
            raise UserError(f"--category is for models that tell parts of objects; {checkpoint} tells classes")
        telling = predicted_classes
        predictions = predictor.classify(samples, config.top)

    stems = _stems(predictions)
    record = {
        "model": str(checkpoint),
        "predictions": [telling.as_record(p, stem, config.pictures) for p, stem in zip(predictions, stems)],
        "failed": failed,
    }
    if predictions:
        _write(folder, record)
    if config.json:
        print(json.dumps(record, indent=2), flush=True)
    elif predictions:
        telling.print_all(predictions)
    if failed and len(files) > 1:
        print(f"pctransformer: {len(failed)} of {len(files)} files could not be used:", file=sys.stderr)
    for fault in failed:
        print(f"pctransformer: {fault['reason']}", file=sys.stderr)
    if predictions:
        for prediction, stem in zip(predictions, stems):
            telling.write(prediction, folder / stem, config.pictures, config.up)
        written = [RECORD, *telling.FILES] + (["pictures"] if config.pictures else [])
        aside = sys.stderr if config.json else sys.stdout
        print(f"{', '.join(written[:-1])}{' and ' if len(written) > 1 else ''}{written[-1]}: {folder}", file=aside)
    return 1 if failed else 0


# ---- reading ---------------------------------------------------------------------------------------------------------
def _expanded(paths: Sequence[Path]) -> list[Path]:
    """The files; those of a folder in alphabetical order, with those in its folders, without hidden ones."""
    from pctransformer.datasets.folder import FILE_SUFFIXES

    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in FILE_SUFFIXES and file.is_file())
        inside = [file for file in inside if not any(p.startswith(".") for p in file.relative_to(path).parts)]
        if not inside:
            raise UserError(f"{path} holds no file that ends in one of {' '.join(FILE_SUFFIXES)}")
        files += inside
    if not files:
        raise UserError("predict what? give files or folders")
    return files


def _prepared(
    predictor: Predictor, files: Sequence[Path], not_finite: Literal["error", "drop"]
) -> tuple[list[Sample], list[dict[str, str]]]:
    """Samples of the files that can be used, and what is wrong with the others."""
    samples, failed = [], []
    for file in files:
        try:
            samples.append(predictor.prepare(file, not_finite=not_finite))
        except (UserError, ValueError, OSError) as error:
            reason = str(error) if str(file) in str(error) else f"{file}: {error}"
            failed.append({"file": str(file), "reason": reason.replace("not_finite='drop'", "--not-finite drop")})
    return samples, failed


# ---- writing ---------------------------------------------------------------------------------------------------------
def _write(folder: Path, record: dict[str, Any]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); give another folder with --out") from None


def _stems(predictions: Sequence[Prediction] | Sequence[PartPrediction]) -> list[str]:
    """What the files of each prediction are called: as its file, with a number where several files share it."""
    names: dict[str, None] = {}
    for prediction in predictions:
        stem = name = Path(prediction.name).stem
        number = 1
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names[name] = None
    return [*names]
