"""Checkpoints: weights under the model's own names, the state of the training beside them, and all it takes to rebuild.

`about` is plain JSON: {"task", "model": {"name", "options", "num_classes"}, "class_names", "settings", "epoch",
"metrics", "version"}, and "part_names" where points have labels. Tensors whose names start with "training/" are the
state of the optimizer and the like; only `last.safetensors` has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import pctransformer
from pctransformer.errors import UserError
from pctransformer.models import create_model
from pctransformer.models.tensor_file import read_tensors
from pctransformer.models.weights import STATE_PREFIX, compare_weights
from pctransformer.training.serialization import Settings, from_json

BEST, LAST = "best.safetensors", "last.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        path: the file.
        tensors: all of them, by name, on CPU.
        about: what the training wrote about itself, plain JSON.
    """

    path: Path
    tensors: dict[str, Tensor]
    about: dict[str, Any]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The model's state dict."""
        return {name: value for name, value in self.tensors.items() if not name.startswith(STATE_PREFIX)}

    @property
    def state(self) -> dict[str, Tensor]:
        """The state of the training, names without their prefix."""
        return {n.removeprefix(STATE_PREFIX): v for n, v in self.tensors.items() if n.startswith(STATE_PREFIX)}

    def build_model(self) -> nn.Module:
        """The model with its weights, on CPU, in evaluation mode.

        Raises:
            UserError: this version does not know such a model, or the weights do not fit it.
        """
        try:
            model = self.about["model"]
            built = create_model(model["name"], num_classes=model["num_classes"], **model["options"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._unusable(error) from error
        report = compare_weights(self.weights, built.state_dict())
        if not report.fits:
            raise UserError(
                f"{self.path}: {model['name']} has changed since version {self.about.get('version')} wrote these"
                f" weights ({report}). Train it anew, or use the commit that the run's environment.json names"
            )
        built.load_state_dict(self.weights)
        return built.eval()

    def settings(self, kind: type[Settings]) -> Settings:
        """The settings of the training.

        Args:
            kind: their dataclass.

        Raises:
            UserError: they are not of that kind, or a later version has written them.
        """
        try:
            return from_json(kind, self.about["settings"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> UserError:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:400]
        return UserError(
            f"{self.path}, written by version {self.about.get('version')}, cannot be used by version"
            f" {pctransformer.__version__}: {reason}"
        )


def folder_of(path: Path) -> Path:
    """The run folder that a checkpoint belongs to, or else the folder it lies in."""
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def find_checkpoint(run: str | Path) -> Path:
    """The checkpoint that a user means by a run folder (the best one, else the last one) or by a file.

    Raises:
        UserError: there is none.
    """
    run = Path(run)
    if run.is_file():
        return run
    for name in (BEST, LAST):
        if (run / "checkpoints" / name).is_file():
            return run / "checkpoints" / name
    what = "has no checkpoints/best.safetensors" if run.is_dir() else "does not exist"
    raise UserError(f"{run} {what}; give a run folder of `pctransformer train` or a checkpoint file")


def read(path: str | Path) -> Checkpoint:
    """Read a checkpoint that this package has written; its checksum is compared.

    Args:
        path: a file, or a run folder, whose best checkpoint is taken.

    Raises:
        UserError: there is none, it is damaged, or something else has written it.
    """
    path = find_checkpoint(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path} is no checkpoint of this package, which end in .safetensors")
    tensors, about = read_tensors(path)
    if not about:
        raise UserError(
            f"{path} holds weights, but not what model they belong to: this package has not written it."
            " create_model(name, pretrained=...) reads it"
        )
    return Checkpoint(path, tensors, about)
