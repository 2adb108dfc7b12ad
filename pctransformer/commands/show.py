"""`pctransformer show`: what a trained model looks at in a cloud or scan, as a picture, a page, points or numbers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from pctransformer.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import torch

    from pctransformer.predict_boxes import DetectorPredictor
    from pctransformer.predict_classes import ClassPredictor
    from pctransformer.predict_parts import PartPredictor
    from pctransformer.predict_scenes import ScenePredictor
    from pctransformer.visualization.maps_window import LookFrom
    from pctransformer.visualization.point_maps import PointMaps

_SOME = 16384  # points, of which a model tells which layers it has

Form = Literal["png", "html", "ply", "npz", "window"]


@dataclass(frozen=True)
class Config:
    file: Positional[Annotated[Path, arg(metavar="FILE")]]
    """A point cloud (.ply .pcd .npy .npz .xyz .txt .csv), a mesh (.off .obj .stl .ply), a room or a LiDAR scan (.bin
    too)."""
    model: Annotated[Path, arg(metavar="RUN|CHECKPOINT")]
    """The folder of a run, of which the best checkpoint is taken, or a checkpoint file."""
    method: Literal[
        "rollout", "last_layer", "layer", "class_token", "gradient_attention", "grad_cam", "saliency", "similarity",
        "features_pca",
    ] = "rollout"  # fmt: skip
    """rollout: attention, all layers together down to the points. last_layer, layer: attention of these alone.
    class_token: where it looks in the last layer. gradient_attention, grad_cam, saliency: what raises the score of the
    class. similarity: to the features at --query. features_pca: three main directions of features as colours."""
    layer: tuple[str, ...] = ()
    """Names of layers, or patterns of them like `encoder.*`: for --method layer of attention, each of which is shown;
    for grad_cam, similarity and features_pca one whose tokens are shown. By default all, or what the head gets."""
    head: tuple[int, ...] = ()
    """Numbers of heads for layer, last_layer and class_token, each shown by itself; by default their mean."""
    query: tuple[int, ...] = ()
    """From where to look: rows of points in the .ply written; for detectors numbers of boxes, the best is 0. Each gives
    maps of its own. By default the vector that is classified, box 0, or the surest point of the class in a room."""
    target: str | None = None
    """The class whose score is asked for; by default the one that is predicted, in a room that of most points."""
    category: str | None = None
    """What the file shows, for a model that tells the parts of objects: one of its classes."""
    score: float | None = None
    """Least score of the boxes that a detector gives; by default 0.1."""
    columns: int | None = None
    """Values per point of .bin files, which do not say it: 4 with reflectance, as KITTI has them, 5 for nuScenes, 6 for
    a room with colours."""
    to: tuple[Form, ...] = ("png", "html")
    """A picture, a page to turn in a browser, coloured points or numbers to write, or a window of Open3D to open."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """New folder for them. By default `maps` in the run's folder, numbered."""
    scaling: Literal["percentile", "sigmoid", "linear"] = "percentile"
    """Which colours values get: evenly but for the one in a hundred beyond the ends of the colour bar, by an S-shaped
    curve around their mean, or evenly from one end to the other."""
    up: Literal["y", "z"] = "z"
    """The axis that stands upright in the picture."""
    whole: bool = False
    """Let the picture of a scan show all of it, not only the boxes at --query and what they look at."""
    not_finite: Literal["error", "drop"] = "error"
    """What to do with points that are NaN or infinite, as depth cameras write them."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` is a GPU where there is one."""


def run(config: Config) -> int:
    """Look, and write FILE.png, FILE.html, or what else is asked for."""
    from pctransformer.commands.trained import check_free, make_folder
    from pctransformer.predict import load
    from pctransformer.predict_boxes import DetectorPredictor
    from pctransformer.predict_classes import ClassPredictor
    from pctransformer.predict_parts import PartPredictor
    from pctransformer.training.checkpoint import find_checkpoint
    from pctransformer.visualization.output import write

    check_free(config.out)
    if config.file.is_dir():
        raise UserError(f"{config.file} is a folder; show looks at one file")
    if not config.to:
        raise UserError("--to: name at least one of png, html, ply, npz, window")
    checkpoint = find_checkpoint(config.model)
    predictor = load(checkpoint, config.device)
    try:
        if isinstance(predictor, ClassPredictor):
            said, maps, look_from = _of_classifier(config, predictor)
        elif isinstance(predictor, PartPredictor):
            said, maps, look_from = _of_segmenter(config, predictor)
        elif isinstance(predictor, DetectorPredictor):
            said, maps, look_from = _of_detector(config, predictor)
        else:
            said, maps, look_from = _of_scene(config, predictor)
    except ValueError as error:
        raise UserError(_in_options(str(error))) from None
    print(said)
    forms = [form for form in dict.fromkeys(config.to) if form != "window"]
    folder = make_folder(config.out, checkpoint, "maps") if forms else None
    files = [] if folder is None else [folder / f"{config.file.stem}.{form}" for form in forms]
    for file in files:
        for remark in write(maps, file, scaling=config.scaling, whole=config.whole):
            print(remark)
    if config.method in ("rollout", "last_layer", "layer", "class_token", "gradient_attention"):
        from pctransformer.visualization.rollout import half_of_weight

        for one in maps.maps:
            share = half_of_weight(one.values)
            print(f"{one.name}: {f'half of it on {100 * share:.2g}%' if share else 'nothing'} of {len(maps)} points")
    if config.method == "rollout" and (others := _passed_over(predictor.model, maps, predictor.device)):
        print(f"not in it, since tokens mix there without weights of pairs: {', '.join(others)}")
    if folder is not None:
        print(f"{', '.join(file.name for file in files)}: {folder}")
    if "window" in config.to:
        from pctransformer.visualization.maps_window import show_window

        show_window(maps, scaling=config.scaling, whole=config.whole, look_from=look_from)
    return 0


def _of_classifier(config: Config, predictor: ClassPredictor) -> tuple[str, PointMaps, LookFrom]:
    from pctransformer.datasets import collate

    _refuse(config, "a classifier", "category", "score", "columns")
    _refuse_target(config)
    sample = predictor.prepare(config.file, not_finite=config.not_finite)
    (prediction,) = predictor.classify([sample], top=1)
    said = f"{config.file}: {prediction.label} {prediction.probability:.1%}"
    points = _rows(collate([sample])[0], predictor.device)
    target = _index(config.target, predictor.class_names, "--target")
    title = f"{config.file.name}: {prediction.label} {prediction.probability:.1%}"
    look = functools.partial(_look, config, predictor.model, points, target=target, title=title)
    return said, _from_points(config, look), _in_window(look)


def _of_segmenter(config: Config, predictor: PartPredictor) -> tuple[str, PointMaps, LookFrom]:
    """The parts of a category alone are asked for; a point's own part is the score."""
    import torch

    from pctransformer.datasets import collate
    from pctransformer.training.data import evaluation_transform

    _refuse(config, "a model that tells parts", "score", "columns")
    _refuse_target(config)
    sample = predictor.prepare(config.file, not_finite=config.not_finite)
    sample = evaluation_transform(predictor.settings.data)(sample, torch.Generator())
    names = predictor.class_names
    label = 0 if len(names) == 1 else _index(config.category, names, "--category")
    if label is None:
        raise UserError(f"--category: what does the file show? The parts are those of one of {', '.join(names)}")
    told = label if getattr(predictor.model, "num_categories", 0) else None
    points = _rows(collate([sample])[0], predictor.device)
    target = _index(config.target, predictor.part_names, "--target")
    said = f"{config.file}: {names[label]}"
    title = f"{config.file.name}: {names[label]}"
    look = functools.partial(_look, config, predictor.model, points, target=target, category=told, title=title)
    return said, _from_points(config, look), _in_window(look)


def _of_scene(config: Config, predictor: ScenePredictor) -> tuple[str, PointMaps, LookFrom]:
    """From points; by default the one that is most surely of the class that most points have, or of `--target`."""
    from pctransformer.datasets.scenes import read_scene
    from pctransformer.evaluation.tiles import ShownScene, segment_scene
    from pctransformer.training.scenes import tiling
    from pctransformer.visualization.looking_at_scenes import look_at_scene

    _refuse(config, "a model of scenes", "category", "score")
    if config.up != "z":
        raise UserError("--up y: scenes must stand upright along z, as in training; turn them first")
    sample = read_scene(
        config.file, labels=False, colors=predictor.settings.data.colors, columns=config.columns,
        not_finite=config.not_finite,
    )  # fmt: skip
    names, how = predictor.class_names, tiling(predictor.settings, predictor.device)
    scene = ShownScene.of(sample.xyz, sample.features, cell_size=how["cell_size"])
    segmented = segment_scene(predictor.model, sample.xyz, sample.features, **how)
    probability = segmented.logits.softmax(1)  # (m, C) of the points of `scene`
    asked = _index(config.target, names, "--target")
    said = f"{config.file}: {len(sample)} points, of which the model is shown {len(scene)}"
    if config.method == "features_pca":
        queries: tuple[int | None, ...] = config.query or (None,)
    else:
        most = int(segmented.labels.bincount().argmax())
        queries = config.query or (int(probability[:, most if asked is None else asked].argmax()),)

    def look(query: int | None) -> PointMaps:
        """By the class that the point is taken for where none is asked for."""
        known = query is not None and 0 <= query < len(scene)
        return look_at_scene(
            predictor.model, scene, tile_points=how["tile_points"], method=config.method,
            layers=config.layer or None, heads=config.head or "mean", query=query,
            target=int(probability[query].argmax()) if known and asked is None else asked,
        )  # fmt: skip

    each = [look(query) for query in queries]
    named = []
    for query in queries:
        if query is not None:
            label = int(probability[query].argmax())
            named.append(f"point {query}, {names[label]} {probability[query, label]:.1%}")
    if named:
        said += f", looking from {'; '.join(named)}"
    if len(scene) > how["tile_points"] and config.method not in ("similarity", "features_pca"):
        said += f"\nfrom a point the model sees the {how['tile_points']} that are nearest, and none of the others"
    title = said.splitlines()[0].replace(str(config.file), config.file.name)
    return said, dataclasses.replace(_joined(each), title=title), look


def _of_detector(config: Config, predictor: DetectorPredictor) -> tuple[str, PointMaps, LookFrom]:
    """From boxes, among those that are labelled; similarities are to what is at their middle."""
    import numpy as np
    import torch

    from pctransformer.commands.detections import labels_to_draw, say_whole
    from pctransformer.visualization.point_maps import BoxView

    _refuse(config, "a detector", "category", "target")
    found = predictor.predict(
        config.file, columns=config.columns, score_threshold=config.score, not_finite=config.not_finite
    )
    say_whole([found.name] if found.beyond_camera else [])
    numbers = config.query or (0,)
    points = torch.from_numpy(found.points).to(predictor.device)
    true, true_labels = labels_to_draw(found) or (np.zeros((0, 7), np.float32), np.zeros(0, np.int64))
    seen = BoxView(found.boxes, found.labels, found.scores, true, true_labels, found.class_names)
    said = f"{config.file}: {len(found)} boxes in {len(points)} points"
    look = functools.partial(_look, config, predictor.model, points, boxes=seen)
    if config.method == "features_pca":
        if config.query:
            raise UserError("--query: features_pca is from no box")
        return said, look(title=said.replace(str(config.file), config.file.name)), _in_window(look)
    wrong = [number for number in numbers if not 0 <= number < len(found)]
    if wrong:
        boxes = f"boxes 0 to {len(found) - 1}" if len(found) else "nothing; try a lower --score"
        raise UserError(f"--query {wrong[0]}: in {config.file} the model found {boxes}")
    named = [f"box {i}, {found.class_names[int(found.labels[i])]} {found.scores[i]:.1%}" for i in numbers]
    said += f", looking from {'; '.join(named)}"
    each = []
    for number in numbers:
        middle = torch.from_numpy(found.boxes[number, :3]).to(points)
        nearest = int((points[:, :3] - middle).square().sum(1).argmin())
        where: dict[str, Any] = (
            {"query": nearest} if config.method == "similarity" else {"box": found.boxes[number].tolist()}
        )
        title = said.replace(str(config.file), config.file.name)
        maps = look(title=title, **where)
        from_box = tuple(dataclasses.replace(one, box=number) for one in maps.maps)
        each.append(dataclasses.replace(maps, maps=from_box))
    return said, _joined(each), _in_window(look)


def _from_points(config: Config, look: Callable[..., PointMaps]) -> PointMaps:
    """From each point that is asked for; from none of them where none is."""
    return _joined([look(query=query) for query in config.query or (None,)])


def _in_window(look: Callable[..., PointMaps]) -> LookFrom:
    """From a point that is clicked."""
    return lambda row: look(query=row)


def _joined(each: Sequence[PointMaps]) -> PointMaps:
    return dataclasses.replace(each[0], maps=tuple(one for maps in each for one in maps.maps))


def _look(config: Config, model: torch.nn.Module, points: torch.Tensor, **options: Any) -> PointMaps:
    from pctransformer.visualization.looking import look

    return look(
        model, points, method=config.method, layers=config.layer or None, heads=config.head or "mean", up=config.up,
        **options,
    )  # fmt: skip


def _rows(batch: Any, device: torch.device) -> torch.Tensor:
    """(N, 3 + C) points of a batch of one cloud."""
    import torch

    channels = batch.xyz if batch.features is None else torch.cat([batch.xyz, batch.features], 1)
    return channels.to(device)


def _passed_over(model: Any, maps: PointMaps, device: torch.device) -> list[str]:
    """Token mixers of which a rollout knows nothing."""
    import torch

    from pctransformer.layers.grid_mixers.grid_mixer import GridMixer
    from pctransformer.layers.mixers.mixer import Mixer
    from pctransformer.layers.recording import record_attention
    from pctransformer.visualization.rollout import passed_over

    if not any(isinstance(layer, (Mixer, GridMixer)) for layer in model.modules()):
        return []
    points = torch.from_numpy(maps.xyz[:_SOME]).to(device)
    points = torch.nn.functional.pad(points, (0, model.in_channels - 3))
    with torch.no_grad(), record_attention(model, heads="mean", top_k=1) as found:
        model([points])
    return passed_over(model, found)


def _index(name: str | None, names: tuple[str, ...], option: str) -> int | None:
    if name is None:
        return None
    if name not in names:
        raise UserError(f"{option}: there is no {name!r}; {did_you_mean(name, names)}")
    return names.index(name)


def _refuse(config: Config, what: str, *options: str) -> None:
    for option in options:
        if getattr(config, option) is not None:
            raise UserError(f"--{option} is not for {what}")


def _refuse_target(config: Config) -> None:
    """Where a class says from where to look, as in rooms, all methods take it."""
    of_scores = ("gradient_attention", "grad_cam", "saliency")
    if config.target is not None and config.method not in of_scores:
        raise UserError(
            f"--target: {config.method} asks for no score; those that do are --method {', '.join(of_scores)}"
        )


def _in_options(text: str) -> str:
    """What a function says, in the words of the command line."""
    for words, options in (
        ("not_finite='drop'", "--not-finite drop"),
        ("query must", "--query must"),
        ("takes no layers; those that do are", "takes no --layer; those that do are --method"),
        ("takes no heads; those that do are", "takes no --head; those that do are --method"),
        ("leave query out", "leave --query out"),
        ("give its row", "give its row by --query"),
    ):
        text = text.replace(words, options)
    return text
