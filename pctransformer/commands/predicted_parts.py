"""How `pctransformer predict` tells parts of points: lines, records, pictures, coloured points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pctransformer.commands.terminal import print_table

if TYPE_CHECKING:
    from pctransformer.predict_parts import PartPrediction

FILES = ("points",)
"""What is written besides records and pictures."""


def print_all(predictions: Sequence[PartPrediction]) -> None:
    """A row for each cloud: what it is, and the share of each part."""

    def shares(prediction: PartPrediction) -> str:
        return ", ".join(f"{name} {count / len(prediction.xyz):.1%}" for name, count in prediction.counts.items())

    rows = [(p.name, str(len(p.xyz)), p.category, shares(p)) for p in predictions]
    print_table(("file", "points", "category", "parts"), rows, right=(1,))


def as_record(prediction: PartPrediction, stem: str, pictures: bool) -> dict[str, Any]:
    """What predictions.json says of a cloud whose files are called `stem`."""
    return {
        "file": prediction.name,
        "points": len(prediction.xyz),
        "category": prediction.category,
        "parts": prediction.counts,
        "ply": f"{stem}.ply",
        "npz": f"{stem}.npz",
        "picture": f"{stem}.png" if pictures else None,
    }


def write(prediction: PartPrediction, path: Path, pictures: bool, up: Literal["y", "z"]) -> None:
    """The files of a cloud, which are called as the path, with their endings.

    .ply has the points, coloured by part, with the columns part and probability; .npz the same as arrays: xyz (n, 3),
    part (n,), probability (n,), category, and part_names, which part indexes.
    """
    import numpy as np

    from pctransformer.datasets import write_ply
    from pctransformer.visualization.segmentation import part_colors, part_figure

    xyz, part, own, names = prediction.xyz, prediction.parts, prediction.own, prediction.part_names
    colors, columns = part_colors(part, own), {"part": part, "probability": prediction.probability}
    write_ply(path.with_name(f"{path.name}.ply"), xyz, colors=colors, features=columns)
    np.savez(
        path.with_name(f"{path.name}.npz"), xyz=xyz, part=part, probability=prediction.probability,
        category=np.array(prediction.category), part_names=np.array(names),
    )  # fmt: skip
    if pictures:
        title = f"{Path(prediction.name).name}: {prediction.category}"
        part_figure(xyz, part, own, names, title, up=up).savefig(path.with_name(f"{path.name}.png"), dpi=150)
