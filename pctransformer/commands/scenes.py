"""What `evaluate` and `predict` do where a model tells what each point of a scene is."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pctransformer.commands.predictions import Stems, conclude, each_file, writing
from pctransformer.commands.terminal import console, print_table
from pctransformer.commands.trained import check_free, make_folder
from pctransformer.errors import UserError
from pctransformer.evaluation.semantic import evaluate_scenes
from pctransformer.predict_scenes import ScenePredictor
from pctransformer.training.checkpoint import Checkpoint
from pctransformer.training.distributed import choose_device
from pctransformer.training.report import SceneFigures
from pctransformer.training.scenes import open_scenes, tiling
from pctransformer.training.settings import SemanticSegmentationTraining

if TYPE_CHECKING:
    from pctransformer.commands.evaluate import Config as Evaluate
    from pctransformer.commands.predict import Config as Predict


def evaluate(config: Evaluate, trained: Checkpoint) -> int:
    """Segment all scenes of a run's test set, or of other data, print, write."""
    if config.votes or config.eval_points is not None:
        raise UserError("--votes and --eval-points are for models of single shapes; scenes are segmented whole")
    if config.split == "trainval":
        raise UserError("--split trainval is for detectors")
    check_free(config.out)
    settings = trained.settings(SemanticSegmentationTraining)
    if config.data is not None:
        settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, data=config.data))
    scenes = open_scenes(settings.data, config.split)
    if list(scenes.part_names) != trained.about["class_names"]:
        raise UserError(
            f"{trained.path} knows the classes {', '.join(trained.about['class_names'])}, and the points of"
            f" {settings.data.data} have {', '.join(scenes.part_names)}; evaluation needs the same in the same order"
        )
    device = choose_device(config.device)
    model = trained.build_model().to(device)
    folder = make_folder(config.out, trained.path, "evaluation")
    figures = SceneFigures(folder, scenes.part_names)
    found = evaluate_scenes(model, scenes, **tiling(settings, device), seen=figures.add)
    figures.finish(found.score)
    result = {
        "checkpoint": str(trained.path),
        "epoch": trained.about["epoch"],
        "data": settings.data.data,
        "split": config.split,
        "scenes": len(scenes),
        "result": found.as_dict(),
    }
    text = json.dumps(result, indent=1) + "\n"
    (folder / "results.json").write_text(text)
    if config.json:
        print(text, end="")
        return 0
    out = console()
    out.print(found.score.table())
    out.print(
        f"\nmIoU {found.score.mean_iou:.4f}  OA {found.score.overall_accuracy:.4f}"
        f"  ({len(scenes)} scenes, {config.split})\nresults and figures: {folder}"
    )
    return 0


def predict(config: Predict, predictor: ScenePredictor, trained: Path, files: list[Path], folder: Path) -> int:
    """Segment all files; 1 where some of them cannot be used."""
    if config.up != "z":
        raise UserError("--up y: scenes must stand upright along z, as in training; turn them first")
    failed: list[dict[str, str]] = []
    predictions, rows, stem_of = [], [], Stems()
    found_in = functools.partial(predictor.predict, columns=config.columns, not_finite=config.not_finite)
    for found in each_file(files, found_in, failed):
        stem = stem_of(found.name)
        with writing(folder):
            found.write(folder, stem)
            if config.pictures:
                from pctransformer.visualization.scenes import scene_figure

                name = Path(found.name).name
                figure = scene_figure(found.xyz, found.labels, found.class_names, name, colors=found.colors)
                figure.savefig(folder / f"{stem}.png", dpi=110)
        shares = found.shares
        predictions.append(
            {
                "file": found.name, "points": len(found.labels), "tiles": found.tiles, "shares": shares,
                "cloud": f"{stem}.ply", "labels": f"{stem}.npz", "picture": f"{stem}.png" if config.pictures else None,
            }
        )  # fmt: skip
        most = ", ".join(f"{name} {share:.1%}" for name, share in list(shares.items())[: config.top])
        rows.append((found.name, str(len(found.labels)), str(found.tiles), most))
    record = {
        "model": str(trained),
        "class_names": list(predictor.class_names),
        "predictions": predictions,
        "failed": failed,
    }
    return conclude(
        record, folder, len(files), as_json=config.json,
        table=lambda: print_table(("file", "points", "tiles", "classes"), rows, right=(1, 2)),
        written=f"coloured points, labels{' and pictures' if config.pictures else ''}",
    )  # fmt: skip
