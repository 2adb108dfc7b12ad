"""Reading weights from files: ours as safetensors, other people's `.pt` without ever running their pickles."""

from __future__ import annotations

import dataclasses
import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pctransformer.models.tensor_file import read_tensors

STATE_PREFIX = "training/"
"""Our checkpoints keep the state of the training under such names, beside the weights."""

_CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model", "base_model", "net")
"""Keys under which public files keep the weights."""

_TORCH_BEGINNINGS = (b"PK", b"\x80")  # a zip archive, or pickles, as torch wrote them before 1.6


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """Which of a model's weights a file had.

    Attributes:
        loaded: names of weights that were set, or all of them but `new_columns`.
        kept: names of weights that stayed as they were, as was allowed.
        missing: names the model has and the file has not.
        unexpected: names the file has and the model has not.
        wrong_shape: name to (shape in the file, shape in the model).
    """

    loaded: list[str]
    kept: list[str]
    missing: list[str]
    unexpected: list[str]
    wrong_shape: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @property
    def fits(self) -> bool:
        """Whether every weight was there, and nothing else."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    def __str__(self) -> str:
        all_there = sum(map(len, (self.loaded, self.kept, self.missing, self.wrong_shape)))
        lines = [f"loaded {len(self.loaded)} of {all_there} tensors"]
        for title, names in (("new", self.kept), ("missing", self.missing), ("unexpected", self.unexpected)):
            if names:
                lines.append(f"{title}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''} ({len(names)})")
        for name, (found, expected) in list(self.wrong_shape.items())[:6]:
            lines.append(f"wrong shape: {name} is {found} in the file, {expected} in the model")
        return "; ".join(lines)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a file by name, on CPU.

    Args:
        path: `.safetensors`, or `.pt`, `.pth`, `.t7`, `.bin` as torch writes them. Of the latter only tensors and plain
            Python values are read; a file that wants to run code is refused.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, wants to run code, or holds no tensors; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        inside = sorted(path.rglob("*.safetensors")) if path.is_dir() else []
        hint = f"; give a file, for instance {inside[0]}" if inside else ""
        raise FileNotFoundError(f"{path} does not exist or is not a file{hint}")
    if path.suffix == ".safetensors":
        tensors, _ = read_tensors(path)
        return {name: value for name, value in tensors.items() if not name.startswith(STATE_PREFIX)}
    with path.open("rb") as file:
        if not (begin := file.read(2)).startswith(_TORCH_BEGINNINGS):
            raise ValueError(f"{path} is damaged or no torch file: it begins with {begin!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols, which are read all the same
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors and plain values{_what_more(error)}, so reading it could run code; it was"
            " not read. Save its state dict alone, in an environment where you trust it"
        ) from error
    except (EOFError, RuntimeError, ValueError, KeyError) as error:  # what torch raises depends on where a file is cut
        raise ValueError(f"{path} is damaged or no torch file: {_first_line(error)}") from error
    while isinstance(content, Mapping) and not any(isinstance(value, Tensor) for value in content.values()):
        inner = next((content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise ValueError(f"{path} holds no state dict: a mapping from names to tensors was expected")
    return tensors


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    public: Mapping[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] | None = None,
    new_classifier: bool = False,
    new_shapes: Sequence[str] = (),
    lacking: Sequence[str] = (),
    surplus: Sequence[str] = (),
    new_columns: Mapping[str, int] | None = None,
) -> LoadReport:
    """Set a model's weights from a file, all of them or none.

    Args:
        model: changed in place.
        path: see `read_weights`. A prefix `module.` of all names is dropped.
        public: for weights with other names: a name by which to know them, and the function that renames them.
        new_classifier: leave `head.classifier` as it is where the file has another number of classes or none.
        new_shapes: what names begin with that stay as they are where the file has them in another shape.
        lacking: what names begin with that a file may lack, all of them together; they stay as they are then.
        surplus: what names begin with that a file may have and the model not; they are left out.
        new_columns: names of weights (out, in), and how many of their first columns stay as they are where the file has
            another number of columns; the others are loaded.

    Returns:
        what was loaded.

    Raises:
        ValueError: a weight is missing, unexpected or of another shape; the message lists them.
    """
    weights = read_weights(path)
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    for marker, convert in (public or {}).items():
        if marker in weights:
            weights = convert(weights)
            break
    own = model.state_dict()
    weights = {name: value for name, value in weights.items() if name in own or not name.startswith(tuple(surplus))}
    kept: list[str] = []
    for name, count in (new_columns or {}).items():
        if name in weights and weights[name].shape != own[name].shape:
            weights[name] = _behind_new_columns(weights[name], own[name], count)
            kept += [name] if own[name].shape[1] == count else []
    for beginning in lacking:
        if not any(name.startswith(beginning) for name in weights):
            kept += [name for name in own if name.startswith(beginning)]
    for name in own:
        if name.startswith(tuple(new_shapes)) and name in weights and weights[name].shape != own[name].shape:
            kept.append(name)
    if new_classifier:
        of_classifier = [name for name in own if name.startswith("head.classifier.") and name not in kept]
        kept += [name for name in of_classifier if name not in weights or weights[name].shape != own[name].shape]
        weights = {name: v for name, v in weights.items() if name in own or not name.startswith("head.classifier.")}
    weights |= {name: own[name] for name in kept}
    report = compare_weights(weights, own, kept)
    if not report.fits:
        raise ValueError(f"the weights in {path} do not fit {type(model).__name__}: {report}")
    model.load_state_dict(weights)
    return report


def compare_weights(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], kept: Sequence[str] = ()) -> LoadReport:
    """What of a model's `own` tensors the given weights would set, beside those that are `kept`."""
    wrong = {
        name: (tuple(weights[name].shape), tuple(value.shape))
        for name, value in own.items()
        if name in weights and weights[name].shape != value.shape
    }
    return LoadReport(
        loaded=[name for name in own if name in weights and name not in wrong and name not in kept],
        missing=[name for name in own if name not in weights],
        unexpected=[name for name in weights if name not in own],
        wrong_shape=wrong,
        kept=list(kept),
    )


def _behind_new_columns(given: Tensor, own: Tensor, count: int) -> Tensor:
    """The first columns of one weight, and behind them the last ones of another; unchanged if they are too few."""
    rest = own.shape[1] - count
    if given.dim() != 2 or given.shape[0] != own.shape[0] or given.shape[1] < rest:
        return given
    return torch.cat([own[:, :count], given[:, given.shape[1] - rest :].to(own)], 1)


def _what_more(error: Exception) -> str:
    """What torch found and would not read, ", such as package.Class"."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f", such as {found[1]}" if found else ""


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]
