"""`pctransformer explain`: what a trained classifier looks at in a cloud, as a picture and as coloured points."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from pctransformer.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from pctransformer.layers.recording import AttentionMap
    from pctransformer.visualization.sources import Source


@dataclass(frozen=True)
class Config:
    file: Positional[Annotated[Path, arg(metavar="FILE")]]
    """A point cloud (.ply .pcd .npy .npz .xyz .txt .csv) or a mesh (.off .obj .stl .ply)."""
    model: Annotated[Path, arg(metavar="RUN|CHECKPOINT")]
    """The folder of a run, of which the best checkpoint is taken, or a checkpoint file."""
    source: Annotated[str, arg(metavar="pooled|class_token|ROW")] = "pooled"
    """From where to look: the vector that is classified, the class token, or a point: its row in the .ply written."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """New folder for the picture and the points. By default `attention` in the run's folder, numbered."""
    up: Literal["y", "z"] = "z"
    """The axis that stands upright in the picture."""
    not_finite: Literal["error", "drop"] = "error"
    """What to do with points that are NaN or infinite, as depth cameras write them."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` is a GPU where there is one."""


def run(config: Config) -> int:
    """Classify the cloud with its attention recorded, and write FILE.png and FILE.ply."""
    from pctransformer.commands.trained import check_free, make_folder
    from pctransformer.datasets import write_ply
    from pctransformer.layers.recording import record_attention
    from pctransformer.predict import ClassPredictor, load
    from pctransformer.training.checkpoint import find_checkpoint
    from pctransformer.visualization.attention import attention_figure, half_of_weight
    from pctransformer.visualization.color_scale import color_scale
    from pctransformer.visualization.rollout import attention_rollout, layer_attention, passed_over
    from pctransformer.visualization.sources import attention_layers

    check_free(config.out)
    checkpoint = find_checkpoint(config.model)
    predictor = load(checkpoint, config.device)
    if not isinstance(predictor, ClassPredictor):
        raise UserError(f"{checkpoint} tells parts of objects; explain wants a classifier")
    try:
        sample = predictor.prepare(config.file, not_finite=config.not_finite)
    except ValueError as error:
        raise UserError(str(error).replace("not_finite='drop'", "--not-finite drop")) from None
    with record_attention(predictor.model) as maps:
        (prediction,) = predictor.classify([sample], top=1)
    source = _source(config.source, maps, sample.xyz)
    try:
        rolled_out = attention_rollout(maps, source, len(sample)).cpu()
    except ValueError as error:
        raise UserError(f"--source {config.source}: {error}") from None
    layers = {i: layer_attention(maps, i, source, len(sample)).cpu() for i in attention_layers(maps[: source.height])}

    folder, name = make_folder(config.out, checkpoint, "attention"), config.file.stem
    words = {"pooled": "the vector that is classified", "class_token": "the class token"}
    row = None if config.source in words else int(config.source)
    figure = attention_figure(
        sample.xyz, rolled_out, {maps[i].layer: weights for i, weights in layers.items()},
        f"{config.file.name}: {prediction.label} {prediction.probability:.1%}",
        f"what {words.get(config.source, f'point {row}')} takes from the points; darker is more",
        ringed=row, up=config.up,
    )  # fmt: skip
    figure.savefig(folder / f"{name}.png", dpi=150)
    colors = color_scale(rolled_out.numpy()).colors(rolled_out.numpy())
    columns = {f"layer_{number}": weights.numpy() for number, weights in enumerate(layers.values())}
    write_ply(
        folder / f"{name}.ply", sample.xyz.numpy(), colors=colors,
        features={"rolled_out": rolled_out.numpy(), **columns},
    )  # fmt: skip
    print(f"{config.file}: {prediction.label} {prediction.probability:.1%}")
    print(f"half of the attention is on {half_of_weight(rolled_out):.0%} of {len(sample)} points")
    if others := passed_over(predictor.model, maps):
        print(f"not in it, since tokens mix there without weights of pairs: {', '.join(others)}")
    print(f"{name}.png and {name}.ply: {folder}")
    return 0


def _source(word: str, maps: list[AttentionMap], xyz: Tensor) -> Source:
    """From where to look, as the user says it."""
    from pctransformer.visualization.sources import class_token, point, pooled_vector

    if word not in ("pooled", "class_token") and not word.isdecimal():
        raise UserError(f"--source must be pooled, class_token, or the row of a point, got {word!r}")
    try:
        if word == "pooled":
            return pooled_vector(maps)
        return class_token(maps) if word == "class_token" else point(maps, int(word), xyz)
    except ValueError as error:
        raise UserError(f"--source {word}: {error}") from None
