"""Models by name. This file imports no torch: names and summaries are there before any model is."""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import inspect
from collections.abc import Callable, Mapping
from numbers import Integral
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pctransformer.errors import did_you_mean
from pctransformer.models.table import MODELS, ModelInfo, Task

if TYPE_CHECKING:
    from pctransformer.models.classifier import Classifier
    from pctransformer.models.detector import Detector
    from pctransformer.models.pretraining import Pretraining
    from pctransformer.models.segmenter import Segmenter
    from pctransformer.models.weights import LoadReport


def list_models(pattern: str = "*", task: Task | None = None) -> list[str]:
    """Names of models that match a shell pattern, sorted, of one task or of all: `list_models("*pct*")`."""
    return sorted(name for name in fnmatch.filter(MODELS, pattern) if task in (None, MODELS[name].task))


def model_info(name: str) -> ModelInfo:
    """What is known of a model without importing it.

    Raises:
        ValueError: no such model; the message names similar ones.
    """
    if name not in MODELS:
        raise ValueError(f"no model is called {name!r}; {did_you_mean(name, MODELS)}")
    return MODELS[name]


def pretrained_model(name: str) -> ModelInfo:
    """What a model for pretraining is pretrained to become: the model of its name without `_pretraining`."""
    return model_info(name.removesuffix("_pretraining"))


def model_options(name: str) -> Mapping[str, inspect.Parameter]:
    """The options of a model, which are the arguments of its function: names, types and defaults. Imports the model.

    Raises:
        ValueError: no such model.
    """
    parameters = inspect.signature(_function(name), eval_str=True).parameters
    return {option: parameter for option, parameter in parameters.items() if option != "num_classes"}


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    pretrained: str | Path | None = None,
    linear_probe: bool = False,
    **options: Any,
) -> Classifier | Segmenter | Detector | Pretraining:
    """Make a model by name, in training mode, with weights in float32; `torch.autocast` computes in fewer bits.

    Args:
        name: one of `list_models()`.
        num_classes: logits; 0 leaves the last layer out. None: as many as in the paper, 40 classes of ModelNet40, 50
            parts of ShapeNet, or 3 kinds of KITTI's boxes; models for pretraining know no classes.
        pretrained: a file of weights (`.safetensors`, `.pt`, `.pth`): of this package, or public ones that the model's
            file knows how to rename. The last layer stays new where the file has another number of classes, and so
            does a detector's head, which a file may also lack, as that of its pretraining does; so does what the model
            is pretrained without where the file is of its pretraining, and what reads the categories of objects where
            the file has another number of those; anything else has to be there.
        linear_probe: freeze the model, and put one linear layer in place of its head: a `LinearProbe`.
        options: of `model_options(name)`, for example `in_channels=6`.

    Raises:
        ValueError: no such model, no such number of classes or channels, weights that do not fit, or a linear probe of
            what is no classifier.
        TypeError: the model has no such option; the message names those it has.
    """
    known = model_options(name)
    if unknown := [option for option in options if option not in known]:
        close = difflib.get_close_matches(unknown[0], [*known, "num_classes", "pretrained", "linear_probe"], n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise TypeError(f"{name} has no option {unknown[0]!r}; {hint}its options are {', '.join(known)}")
    if not isinstance(in_channels := options.get("in_channels", 3), Integral) or in_channels < 3:
        raise ValueError(f"in_channels counts x, y and z as well, so that it is at least 3, got {in_channels!r}")
    task = model_info(name).task
    if linear_probe and task != "classification":
        raise ValueError(f"{name} is a model for {task}; a linear probe is made of one for classification")
    if num_classes is not None:
        if task == "pretraining":
            raise TypeError(f"{name} learns without classes; leave num_classes out")
        if not isinstance(num_classes, Integral) or num_classes < 0:
            raise ValueError(f"num_classes must be a whole number, or 0 for no last layer, got {num_classes!r}")
        options["num_classes"] = num_classes
    model = _function(name)(**options)
    if pretrained is not None:
        load_pretrained(model, name, pretrained)
    if linear_probe:
        from pctransformer.models.linear_probe import LinearProbe

        return LinearProbe(model, model.head.classifier.out_features if num_classes is None else num_classes)
    return model


def load_pretrained(model: Any, name: str, file: str | Path) -> LoadReport:
    """Set the weights of a model from a file, as `create_model` of that name does, which says what may stay new.

    Returns:
        what was loaded, and what stayed new.

    Raises:
        ValueError: the weights do not fit.
    """
    from pctransformer.models.weights import load_weights

    return load_weights(
        model,
        file,
        public=getattr(_module(name), "PUBLIC_WEIGHTS", {}),
        new_classifier=True,
        new_shapes=getattr(model, "class_layers", ()),
        lacking=getattr(model, "lacking_in_pretraining", ()),
        surplus=getattr(model, "only_in_pretraining", ()),
        new_columns={column: model.num_categories for column in getattr(model, "category_columns", ())},
    )


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"pctransformer.models.{model_info(name).module}")


def _function(name: str) -> Callable[..., Any]:
    """The function that makes a model."""
    return getattr(_module(name), name)
