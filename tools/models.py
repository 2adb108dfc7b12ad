"""Write docs/models.md: every model that there is, what it costs, and what differs from its paper.

    python tools/models.py

All of it comes from the registry, the models and the texts at the top of their files; a test holds the page to them.
"""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

import torch

from pctransformer.models import create_model, list_models, model_info

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "models.md"

_INTRODUCTION = """\
# Models

Written by `python tools/models.py` from the models themselves. `create_model("pct", num_classes=10)` makes one;
`pctransformer info pct` tells its options and its cost part by part; [results.md](results.md) has accuracies.

Parameters are those of the defaults, for ModelNet40's 40 classes, ShapeNet's 50 parts or KITTI's 3 kinds of boxes. All
models take clouds of any sizes, and in evaluation a cloud gives what it gives alone, whatever else is in its batch. The
order of points matters no further than that sampling starts at the first, and that crowded balls of PointNet++ keep
those that come first.

`torch.compile` takes every model, and gives what it gives otherwise. With default options, "whole": clouds of equal
sizes, in evaluation, are one graph (`fullgraph=True`), and `torch.export` takes all but pretraining, too, for clouds of
these sizes. "pieces": sizes depend on coordinates on the way, so the graph breaks there, and there is nothing to
export. Clouds that compiled models get are not checked for NaN when they come in, as they are otherwise on a CPU.

"""


def page() -> str:
    """The text of docs/models.md."""
    return _INTRODUCTION + _table() + "\n## What they are, and what differs from their papers\n" + "".join(_sections())


def _table() -> str:
    lines = ["| model | task | parameters | graph | what it is | paper |", "|---|---|--:|---|---|---|"]
    for name in list_models():
        info = model_info(name)
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in create_model(name).parameters())
        parameters = f"{count:,}".replace(",", " ")
        lines.append(f"| `{name}` | {info.task} | {parameters} | {info.graph} | {info.summary} | {info.source} |")
    return "\n".join(lines) + "\n"


def _sections() -> list[str]:
    """One for each file: its names, its flow of data, and the paragraphs that say what differs."""
    names: dict[str, list[str]] = {}
    for name in list_models():
        names.setdefault(model_info(name).module, []).append(name)
    sections = []
    for module, models in sorted(names.items()):
        path = f"pctransformer/models/{module}.py"
        title, *paragraphs = (ast.get_docstring(ast.parse((ROOT / path).read_text("utf-8"))) or "").split("\n\n")
        told = [paragraph for paragraph in paragraphs if "differs" in paragraph]
        sections.append(
            f"\n### {title.partition(':')[0].partition('. ')[0]}\n\n"
            f"{_filled(f'[{path}](../{path}): ' + ', '.join(f'`{model}`' for model in models))}\n\n"
            f"{_filled(_sentence(title))}\n\n"
            f"```\n{paragraphs[-1]}\n```\n\n" + "\n\n".join(map(_filled, told)) + "\n"
        )
    return sections


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _filled(text: str) -> str:
    return textwrap.fill(_sentence(text), 120, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    print(PAGE)
