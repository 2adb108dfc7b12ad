"""What `evaluate` and `predict` do where a model finds objects in LiDAR scans."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pctransformer.commands.predictions import Stems, conclude, each_file, writing
from pctransformer.commands.terminal import console, print_table
from pctransformer.commands.trained import check_free, make_folder
from pctransformer.datasets.files import FileFormatError
from pctransformer.datasets.kitti import labels_beside
from pctransformer.errors import UserError
from pctransformer.evaluation.scans import detect_in_scans
from pctransformer.predict_boxes import DetectionPrediction, DetectorPredictor
from pctransformer.training.checkpoint import Checkpoint
from pctransformer.training.detection_report import judge, report
from pctransformer.training.distributed import choose_device
from pctransformer.training.report import as_trained
from pctransformer.training.scans import testing_scans
from pctransformer.training.settings import DetectionTraining

if TYPE_CHECKING:
    import numpy as np

    from pctransformer.commands.evaluate import Config as Evaluate
    from pctransformer.commands.predict import Config as Predict


def evaluate(config: Evaluate, trained: Checkpoint) -> int:
    """Find the objects in all scans of a run's test set, or of other data, judge, print, write."""
    if config.votes or config.eval_points is not None:
        raise UserError("--votes and --eval-points are for models of single shapes; scans are looked at whole")
    check_free(config.out)
    settings = trained.settings(DetectionTraining)
    data = settings.data
    if config.data is not None:
        data = dataclasses.replace(data, data=(config.data,))
    part = testing_scans(data, config.split)
    device = choose_device(config.device)
    model = trained.build_model().to(device)
    thresholds: dict[str, Any] = {} if config.nms is None else {"nms_threshold": config.nms}
    found = detect_in_scans(model, part.scans, **as_trained(settings.optimization, device), **thresholds)
    judged = judge(found, part)
    boxes = sum(len(one.boxes.boxes) for one in found)
    folder = make_folder(config.out, trained.path, "evaluation")
    report(judged, folder, folder)
    result = {
        "checkpoint": str(trained.path),
        "epoch": trained.about["epoch"],
        "data": data.data[-1],
        "split": config.split,
        "scans": len(part),
        "nms": config.nms,
        "boxes": boxes,
        "result": judged.as_dict(),
    }
    text = json.dumps(result, indent=1) + "\n"
    (folder / "results.json").write_text(text)
    if config.json:
        print(text, end="")
        return 0
    out = console()
    out.print(judged.table())
    how = "" if config.nms is None else f", none overlapping another by more than {config.nms:g}"
    out.print(f"\n{judged.line()}  ({len(part)} scans, {config.split})")
    out.print(f"{boxes} boxes{how}\nresults and figures: {folder}")
    return 0


def predict(config: Predict, predictor: DetectorPredictor, trained: Path, files: list[Path], folder: Path) -> int:
    """Find the objects in all files; 1 where some of them cannot be used."""
    failed: list[dict[str, str]] = []
    predictions, rows, stem_of = [], [], Stems()
    find = functools.partial(
        predictor.predict,
        columns=config.columns,
        reflectance=config.reflectance,
        not_finite=config.not_finite,
        around=config.around,
        lift=config.lift,
        score_threshold=config.score,
    )
    whole = []
    for found in each_file(files, find, failed):
        whole += [found.name] if found.beyond_camera else []
        stem = stem_of(found.name)
        with writing(folder):
            found.write(folder, stem)
            pictures = _pictures(found, folder, stem) if config.pictures else {"picture": None, "camera_picture": None}
        predictions.append(
            {
                "file": found.name, "points": len(found.points), "boxes": found.to_json(), "text": f"{stem}.txt",
                "kitti": None if found.calibration is None else f"kitti/{stem}.txt",
                **pictures,
            }
        )  # fmt: skip
        counts = ", ".join(f"{count} {name}" for name, count in found.counts.items())
        rows.append((found.name, str(len(found.points)), str(len(found)), counts or "nothing"))
    say_whole(whole)
    record = {
        "model": str(trained),
        "class_names": list(predictor.class_names),
        "predictions": predictions,
        "failed": failed,
    }
    camera = ", of cameras too" if any(one["camera_picture"] for one in predictions) else ""
    kitti = ", kitti/" if any(one["kitti"] for one in predictions) else ""
    return conclude(
        record, folder, len(files), as_json=config.json,
        table=lambda: print_table(("file", "points seen", "boxes", "of which"), rows, right=(1, 2)),
        written=f"predictions.json, boxes as text{kitti}{' and pictures' if config.pictures else ''}{camera}",
    )  # fmt: skip


def _pictures(found: DetectionPrediction, folder: Path, stem: str) -> dict[str, str | None]:
    """STEM.png from above, and STEM_camera.png over the image of the camera where it lies beside the scan.

    Labels that lie beside it are drawn as well. A broken image is said, and left out.
    """
    labelled = labels_to_draw(found)
    found.figure(labelled=labelled).savefig(folder / f"{stem}.png", dpi=110)
    camera = None
    if found.image_file is not None:
        try:
            figure = found.camera_figure(labelled=labelled)
        except FileFormatError as error:
            print(f"pctransformer: {error}; there is no picture of the camera", file=sys.stderr)
        else:
            camera = f"{stem}_camera.png"
            figure.savefig(folder / camera, dpi=110)
    return {"picture": f"{stem}.png", "camera_picture": camera}


def say_whole(names: Sequence[str]) -> None:
    """Say of which scans a detector that knows only what a camera sees was shown more, and how to mend it."""
    if names:
        others = f" (so for {len(names)} files)" if len(names) > 1 else ""
        print(
            f"pctransformer: {names[0]}: no calibration lies beside it, so that all points in the model's range were"
            " looked at, while it was trained on what the camera sees; lay files as KITTI does, velodyne/000008.bin"
            f" and calib/000008.txt{others}",
            file=sys.stderr,
        )


def labels_to_draw(found: DetectionPrediction) -> tuple[np.ndarray, np.ndarray] | None:
    """Boxes and labels that lie beside the scan, see `labels_beside`; broken ones are said, and left out."""
    try:
        return labels_beside(found.name, found.class_names)
    except FileFormatError as error:
        print(f"pctransformer: {error}; no labels are drawn", file=sys.stderr)
        return None
