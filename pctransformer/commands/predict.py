"""`pctransformer predict`: classes of files, printed, drawn and written down."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from pctransformer.commands.terminal import print_table
from pctransformer.errors import UserError

if TYPE_CHECKING:
    from pctransformer.datasets import Sample
    from pctransformer.predict import Prediction, Predictor

RECORD = "predictions.json"


@dataclass(frozen=True)
class Config:
    files: Positional[Annotated[tuple[Path, ...], arg(metavar="FILE|FOLDER...", help_behavior_hint="(required)")]]
    """Point clouds (.ply .pcd .npy .npz .xyz .txt .csv) and meshes (.off .obj .stl .ply), or folders of them."""
    model: Annotated[Path, arg(metavar="RUN|CHECKPOINT")]
    """The folder of a run, of which the best checkpoint is taken, or a checkpoint file."""
    top: int = 5
    """How many classes of each file, the most probable first."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """New folder for predictions.json and pictures. By default `predictions` in the run's folder, numbered."""
    pictures: bool = True
    """Whether to draw each cloud beside its classes."""
    up: Literal["y", "z"] = "z"
    """The axis that stands upright in pictures."""
    not_finite: Literal["error", "drop"] = "error"
    """What to do with points that are NaN or infinite, as depth cameras write them."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` is a GPU where there is one."""
    json: bool = False
    """Print what is written to predictions.json instead of a table."""


def run(config: Config) -> int:
    """Predict all files; 1 where some of them cannot be used."""
    from pctransformer.predict import load
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
    samples, failed = _prepared(predictor, files, config.not_finite)
    predictions = predictor.classify(samples, config.top)

    names = _picture_names(predictions) if config.pictures else [None] * len(predictions)
    record = {
        "model": str(checkpoint),
        "predictions": [_plain(prediction, name) for prediction, name in zip(predictions, names)],
        "failed": failed,
    }
    if predictions:
        _write(folder, record)
    if config.json:
        print(json.dumps(record, indent=2), flush=True)
    elif predictions:
        _print(predictions)
    if failed and len(files) > 1:
        print(f"pctransformer: {len(failed)} of {len(files)} files could not be used:", file=sys.stderr)
    for fault in failed:
        print(f"pctransformer: {fault['reason']}", file=sys.stderr)
    if predictions:
        if config.pictures:
            _draw(predictions, [folder / str(name) for name in names], config.up)
        aside = sys.stderr if config.json else sys.stdout
        print(f"{RECORD}{' and pictures' if config.pictures else ''}: {folder}", file=aside)
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


# ---- telling ---------------------------------------------------------------------------------------------------------
def _print(predictions: Sequence[Prediction]) -> None:
    def percent(classes: Sequence[tuple[str, float]]) -> str:
        return ", ".join(f"{label} {probability:.1%}" for label, probability in classes)

    rows = [(p.name, str(len(p.xyz)), percent(p.classes[:1]), percent(p.classes[1:])) for p in predictions]
    print_table(("file", "points", "class", "then" if any(row[3] for row in rows) else ""), rows, right=(1,))


def _plain(prediction: Prediction, picture: str | None) -> dict[str, Any]:
    return {
        "file": prediction.name,
        "points": len(prediction.xyz),
        "classes": [{"label": label, "probability": probability} for label, probability in prediction.classes],
        "picture": picture,
    }


def _write(folder: Path, record: dict[str, Any]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); give another folder with --out") from None


def _picture_names(predictions: Sequence[Prediction]) -> list[str]:
    """A name for each picture: that of the file, with a number where several files share it."""
    names: dict[str, None] = {}
    for prediction in predictions:
        stem = name = Path(prediction.name).stem
        number = 1
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names[name] = None
    return [f"{name}.png" for name in names]


def _draw(predictions: Sequence[Prediction], paths: Sequence[Path], up: Literal["y", "z"]) -> None:
    from pctransformer.visualization.figures import prediction_figure

    for prediction, path in zip(predictions, paths):
        figure = prediction_figure(prediction.xyz, prediction.classes, Path(prediction.name).name, up=up)
        figure.savefig(path, dpi=150)
