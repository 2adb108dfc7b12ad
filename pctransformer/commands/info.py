"""`pctransformer info`: what a model is made of and costs, and what a checkpoint holds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from pctransformer.commands.terminal import grouped, print_table
from pctransformer.errors import UserError


@dataclass(frozen=True)
class Config:
    what: Positional[Annotated[str, arg(metavar="MODEL|RUN|CHECKPOINT")]]
    """A name from `pctransformer models`, the folder of a run, or a checkpoint file."""
    num_points: int = 1024
    """Points of the cloud that multiply-adds are counted for."""
    json: bool = False
    """Print JSON instead of tables."""


def run(config: Config) -> int:
    """Print what is known."""
    if config.num_points < 1:
        raise UserError(f"--num-points must be at least 1, got {config.num_points}")
    facts = describe(config.what, config.num_points)
    if config.json:
        print(json.dumps(facts, indent=2))
    else:
        _print(facts)
    return 0


def describe(what: str, num_points: int = 1024) -> dict[str, Any]:
    """Facts about a model or a checkpoint, as plain JSON values.

    Args:
        what: name of a model, which comes first, or path of a run folder or a checkpoint.
        num_points: points of the cloud that multiply-adds are counted for.

    Raises:
        UserError: there is neither, or the checkpoint cannot be read.
    """
    from pctransformer.models import create_model, list_models, model_info
    from pctransformer.training import checkpoint
    from pctransformer.training.run_folder import RESULTS

    if what in list_models():
        return _describe_model(what, create_model(what), {}, num_points)
    if not Path(what).exists() and "/" not in what:
        try:
            model_info(what)
        except ValueError as error:
            raise UserError(str(error)) from None

    read = checkpoint.read(what)
    about = read.about
    facts = _describe_model(about["model"]["name"], read.build_model(), about["model"]["options"], num_points)
    facts = {"checkpoint": {"path": str(read.path), "bytes": read.path.stat().st_size, **about}, **facts}
    results = checkpoint.folder_of(read.path) / RESULTS
    if results.is_file() and (found := json.loads(results.read_text("utf-8"))).get("epoch") == about.get("epoch"):
        test = found.get("test", {})  # pretraining has none
        facts["test"] = {name: value for name, value in test.items() if isinstance(value, (int, float))}
    return facts


def _describe_model(name: str, model: Any, options: Mapping[str, Any], num_points: int) -> dict[str, Any]:
    import torch

    from pctransformer.models import model_info, model_options
    from pctransformer.models.cost import cost

    info = model_info(name)
    defaults = {option: parameter.default for option, parameter in model_options(name).items()}
    cloud = torch.rand(1, num_points, model.in_channels, generator=torch.Generator().manual_seed(0))
    if info.task == "detection":  # all over its range
        low, high = torch.tensor(model.grid.low), torch.tensor(model.grid.high)
        cloud[..., :3] = low + cloud[..., :3] * (high - low)
    category = (torch.zeros(1, dtype=torch.int64),) if getattr(model, "num_categories", 0) else ()
    whole, parts = cost(model, cloud, *category)
    return {
        "model": {
            "name": name,
            "summary": info.summary,
            "task": info.task,
            "paper": info.source,
            "file": f"pctransformer/models/{info.module}.py",
            "options": {**defaults, **options},
            "public_weights": info.public_weights,
        },
        "in_channels": model.in_channels,
        "num_classes": _num_classes(model),
        "num_points": num_points,
        **dataclasses.asdict(whole),
        "parts": {name: dataclasses.asdict(part) for name, part in parts.items()},
    }


def _num_classes(model: Any) -> int | None:
    """None for pretraining, which knows no classes."""
    from pctransformer.models.detector import Detector
    from pctransformer.models.pretraining import Pretraining

    if isinstance(model, Pretraining):
        return None
    return model.num_classes if isinstance(model, Detector) else model.head.classifier.out_features


# ---- as text ---------------------------------------------------------------------------------------------------------
def _print(facts: dict[str, Any]) -> None:
    from pctransformer.models.registry import pretrained_model

    model, task = facts["model"], facts["model"]["task"]
    if "checkpoint" in facts:
        _print_checkpoint(facts["checkpoint"], facts.get("test", {}))
        print()
    outputs = {
        "classification": f"(B, {facts['num_classes']}) logits",
        "segmentation": f"(N, {facts['num_classes']}) logits of points",
        "detection": f"boxes of {facts['num_classes']} classes: model.predict(model(points))",
        "pretraining": "points that were hidden, made up, beside the true ones: model.loss(model(points))",
    }
    channels = facts["in_channels"]
    more = "reflectance" if pretrained_model(model["name"]).task == "detection" else "normals"
    values = "x, y, z" if channels == 3 else f"x, y, z and {channels - 3} more of each point, {more} for instance"
    rows = [
        (model["name"], model["summary"]),
        ("paper", model["paper"]),
        ("code", model["file"]),
        ("input", f"{values}; clouds of any sizes: PointBatch, (B, N, {channels}) or list of (n, {channels})"),
        ("output", outputs[task]),
        ("options", ", ".join(f"{name}={value!r}" for name, value in model["options"].items())),
        ("in Python", _in_python(facts)),
    ]
    if model["public_weights"]:
        rows.append(("weights", f"create_model(..., pretrained=file) reads those of {model['public_weights']}"))
    print_table(("", ""), rows)
    print()
    parts = [(name, grouped(part["parameters"]), _millions(part)) for name, part in facts["parts"].items()]
    print_table(
        ("part", "parameters", "million multiply-adds"),
        [*parts, ("all", grouped(facts["parameters"]), _millions(facts))],
        right=(1, 2),
    )
    print(f"\nMultiply-adds as computed here, for one cloud of {facts['num_points']} points (--num-points).")


def _in_python(facts: Mapping[str, Any]) -> str:
    """How to make the model that the facts are about."""
    from pctransformer.models.registry import pretrained_model

    name, pretraining = facts["model"]["name"], facts["model"]["task"] == "pretraining"
    if "checkpoint" not in facts:
        classes = "" if pretraining else f", num_classes={facts['num_classes']}"
        return f'create_model("{name}"{classes}, ...)'
    path = facts["checkpoint"]["path"]
    if pretraining:
        return f'create_model("{pretrained_model(name).name}", pretrained="{path}")'
    return f'load("{path}").model'


def _millions(cost: Mapping[str, int]) -> str:
    return f"{cost['multiply_adds'] / 1e6:,.1f}".replace(",", " ")


def _print_checkpoint(about: Mapping[str, Any], test: Mapping[str, float]) -> None:
    rows = [("checkpoint", f"{about['path']}, {about['bytes'] / 1e6:.1f} MB")]
    rows += [(key, str(about[key])) for key in ("task", "epoch") if key in about]
    for title, key in (("classes", "class_names"), ("parts", "part_names")):
        if names := about.get(key):
            rows.append((title, f"{len(names)}: {', '.join(names)}"))
    told = {"metrics": about.get("metrics"), "test": test, "settings": about.get("settings")}
    rows += [(key, _flat(values)) for key, values in told.items() if values]
    if "version" in about:
        rows.append(("written by", f"pctransformer {about['version']}"))
    print_table(("", ""), rows)


def _flat(values: Mapping[str, Any]) -> str:
    """Names and values, one after the other; what is nested is told by its innermost name, as on the command line."""
    texts = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            texts += [_flat(value)] if value else []
        elif value is not None:
            texts.append(f"{name} {f'{value:.4g}' if isinstance(value, float) else value}")
    return ", ".join(texts)
