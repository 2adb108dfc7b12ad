"""How `pctransformer predict` tells classes of files: lines, records, pictures. `predicted_parts` is its like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pctransformer.commands.terminal import print_table

if TYPE_CHECKING:
    from pctransformer.predict_classes import Prediction

FILES = ()
"""What is written besides records and pictures."""


def print_all(predictions: Sequence[Prediction]) -> None:
    """A row for each cloud."""

    def percent(classes: Sequence[tuple[str, float]]) -> str:
        return ", ".join(f"{label} {probability:.1%}" for label, probability in classes)

    rows = [(p.name, str(len(p.xyz)), percent(p.classes[:1]), percent(p.classes[1:])) for p in predictions]
    print_table(("file", "points", "class", "then" if any(row[3] for row in rows) else ""), rows, right=(1,))


def as_record(prediction: Prediction, stem: str, pictures: bool) -> dict[str, Any]:
    """What predictions.json says of a cloud whose files are called `stem`."""
    return {
        "file": prediction.name,
        "points": len(prediction.xyz),
        "classes": [{"label": label, "probability": probability} for label, probability in prediction.classes],
        "picture": f"{stem}.png" if pictures else None,
    }


def write(prediction: Prediction, path: Path, pictures: bool, up: Literal["y", "z"]) -> None:
    """The files of a cloud, which are called as the path, with their endings."""
    from pctransformer.visualization.figures import prediction_figure

    if pictures:
        figure = prediction_figure(prediction.xyz, prediction.classes, Path(prediction.name).name, up=up)
        figure.savefig(path.with_name(f"{path.name}.png"), dpi=150)
