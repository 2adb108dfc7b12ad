"""From settings to a model."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import nn

from pctransformer.errors import UserError
from pctransformer.models import create_model, list_models, model_info, model_options
from pctransformer.models.registry import Task, load_pretrained
from pctransformer.models.tensor_file import read_tensors
from pctransformer.training.checkpoint import find_checkpoint


def make_model(
    name: str,
    options: Mapping[str, Any],
    *,
    task: Task,
    in_channels: int,
    num_classes: int | None,
    pretrained: Path | None = None,
    **made: Any,
) -> nn.Module:
    """A model to train.

    Args:
        name: one of `list_models(task=task)`.
        options: of the model, as a user has given them: names and types are checked.
        task: what it is trained for.
        in_channels: 3 + C, as the data has it.
        num_classes: likewise; None without labels.
        pretrained: weights to start from: a run, whose best checkpoint is taken, or a file.
        made: further arguments of `create_model` that are not the user's: `linear_probe`, `num_categories`.

    Raises:
        UserError: there is no such model for this task, or no such option, an option's value does not fit, or the
            weights do not.
    """
    check_task(name, task)
    try:
        made["in_channels"] = in_channels
        _check(name, options, made)
        if pretrained is not None:
            pretrained = find_checkpoint(pretrained)
            _check_pretraining(pretrained, name, options)
        return create_model(name, num_classes=num_classes, pretrained=pretrained, **made, **options)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise UserError(str(error)) from error


def check_task(name: str, task: Task) -> None:
    """Refuse a model that there is not, or that is for another task, before anything is read for it.

    Raises:
        UserError: so.
    """
    try:
        other = model_info(name).task
    except ValueError as error:
        raise UserError(str(error)) from error
    if other != task:
        names = ", ".join(list_models(task=task))
        raise UserError(f"--model {name} is for {other}; for {task} there are {names}")


def start_from(model: nn.Module, name: str, options: Mapping[str, Any], pretrained: Path | None) -> str:
    """Set the weights of a model that `make_model` made without any, and tell which; "" where there are none.

    Raises:
        UserError: as `make_model`.
    """
    if pretrained is None:
        return ""
    try:
        file = find_checkpoint(pretrained)
        _check_pretraining(file, name, options)
        return f"{file}: {load_pretrained(model, name, file)}"
    except (ValueError, FileNotFoundError) as error:
        raise UserError(str(error)) from error


def _check(model: str, options: Mapping[str, Any], made: Mapping[str, Any]) -> None:
    known = {name: option.annotation for name, option in model_options(model).items() if name not in made}
    for name, value in options.items():
        if name not in known:
            has = f"its options are {', '.join(known)}" if known else "it has none"
            raise UserError(f"--model-options: {model} has no option {name!r}; {has}")
        if not _fits(value, known[name]):
            wanted = inspect.formatannotation(known[name])
            raise UserError(f"--model-options: {name} of {model} must be {wanted}, got {value!r}")


def _check_pretraining(file: Path, model: str, options: Mapping[str, Any]) -> None:
    """Refuse weights of our own pretraining that would load, or almost, but mean something else in this model.

    Numbers of heads, for one, are in no weight's shape.
    """
    about = read_tensors(file)[1] if file.suffix == ".safetensors" else {}
    if about.get("task") != "pretraining" or (begun := about["model"])["name"] == model:
        return
    family = begun["name"].removesuffix("_pretraining")
    family_names = (family, f"{family}_seg", begun["name"])
    heirs = [name for name in family_names if name in list_models(task=model_info(model).task)]
    if model not in heirs:
        what = f"give --model {heirs[0]}" if heirs else f"there is none for {model_info(model).task}"
        raise UserError(f"{file} was pretrained to become {heirs[0] if heirs else family}, not {model}; {what}")
    theirs, ours = (
        {option: parameter.default for option, parameter in model_options(name).items()} | dict(given)
        for name, given in ((begun["name"], begun["options"]), (model, options))
    )
    may_differ = {"in_channels", "drop_path"}
    if model_info(model).task == "segmentation":
        may_differ.add("num_patches")  # points of a shape, too, are usually more than in pretraining
    for option in sorted((theirs.keys() & ours.keys()) - options.keys() - may_differ):
        if not _same(theirs[option], ours[option]):
            raise UserError(
                f"{file} was pretrained with {option} {theirs[option]}, but {model} has {ours[option]}; give"
                f" --model-options {option}={json.dumps(theirs[option])}"
            )


def _same(a: Any, b: Any) -> bool:
    """Whether two options are equal; what was stored as JSON has lists for tuples."""
    return bool(list(a) == list(b)) if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) else bool(a == b)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value, as JSON knows them, is of the type that a model's function says."""
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is Literal:
        return value in inner
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is tuple:
        inner = (inner[0],) * len(value) if inner[1:] == (...,) and isinstance(value, (list, tuple)) else inner
        return isinstance(value, (list, tuple)) and len(value) == len(inner) and all(map(_fits, value, inner))
    if origin is float:
        return type(value) in (int, float)
    if origin in (int, bool):
        return type(value) is origin  # True is an int to Python
    return isinstance(value, origin)
