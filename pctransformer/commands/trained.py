"""What commands share that look at trained models: reading them, and a folder for what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import nn

from pctransformer.datasets import CloudDataset
from pctransformer.errors import UserError
from pctransformer.training import checkpoint
from pctransformer.training.checkpoint import Checkpoint
from pctransformer.training.distributed import choose_device
from pctransformer.training.report import as_trained
from pctransformer.training.run_folder import numbered
from pctransformer.training.settings import ClassificationTraining, PartSegmentationTraining

Supervised = TypeVar("Supervised", bound=ClassificationTraining | PartSegmentationTraining)


@dataclass(frozen=True)
class Trained(Generic[Supervised]):
    """A checkpoint of a model that was trained with labels, and the settings of its training."""

    checkpoint: Checkpoint
    settings: Supervised

    @classmethod
    def read(cls, run: Path, *kinds: type[Supervised]) -> Trained[Supervised]:
        """The best checkpoint of a run, or a checkpoint file.

        Args:
            run: the folder, or the file.
            kinds: settings of the tasks that it may be of.

        Raises:
            UserError: there is none, it cannot be used, or it is of another task.
        """
        best = checkpoint.read(run)
        task = best.about.get("task")
        for kind in kinds:
            if kind.task == task:
                return cls(best, best.settings(kind))
        wanted = " or ".join(kind.task for kind in kinds)
        raise UserError(f"{best.path} is not of {wanted}: its task is {task!r}")

    def on(self, device: str) -> tuple[nn.Module, dict[str, Any]]:
        """The model on a device, and the arguments with which evaluation treats it as its training did."""
        chosen = choose_device(device)
        return self.checkpoint.build_model().to(chosen), as_trained(self.settings.optimization, chosen)

    def check_names(self, data: CloudDataset, source: str) -> None:
        """Raise a UserError where the classes of some data, or their parts, are not the model's."""
        about = self.checkpoint.about
        _check_same("classes", self.checkpoint.path, about["class_names"], data.class_names, source)
        if "part_names" in about:
            _check_same("parts", self.checkpoint.path, about["part_names"], data.part_names, source)


def _check_same(what: str, path: Path, trained: Sequence[str], found: Sequence[str], source: str) -> None:
    if tuple(trained) == tuple(found):
        return
    unknown = sorted(set(found) - set(trained))
    how = f"{', '.join(unknown[:5])} are not among them" if unknown else "they are others, or in another order"
    raise UserError(
        f"{path} knows {len(trained)} {what}, {', '.join(trained[:5])}{', ...' if len(trained) > 5 else ''}, and"
        f" {source} has {len(found)}: {how}. Evaluation needs the same {what} in the same order; train with"
        " --pretrained to teach it others"
    )


def check_free(out: Path | None) -> None:
    """Raise a UserError if the folder that the user has named is there already: to be asked before the work is done."""
    if out is not None and out.exists():
        raise UserError(f"{out} exists already and is not overwritten; give another folder with --out")


def make_folder(out: Path | None, file: Path, name: str) -> Path:
    """The folder that the user has named, or else `name`, numbered, in the folder of the run that a checkpoint is of.

    Raises:
        UserError: it cannot be made.
    """
    folder = out or numbered(checkpoint.folder_of(file) / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}); give another folder with --out") from None
    return folder
