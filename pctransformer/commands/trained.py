"""What commands share that look at trained classifiers: reading them, and a folder for what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pctransformer.errors import UserError
from pctransformer.training import checkpoint
from pctransformer.training.checkpoint import Checkpoint
from pctransformer.training.distributed import choose_device
from pctransformer.training.report import as_trained
from pctransformer.training.run_folder import numbered
from pctransformer.training.settings import ClassificationTraining


@dataclass(frozen=True)
class TrainedClassifier:
    """A checkpoint of a classifier, and the settings that it was trained with."""

    checkpoint: Checkpoint
    settings: ClassificationTraining

    @classmethod
    def read(cls, run: Path) -> TrainedClassifier:
        """The best checkpoint of a run, or a checkpoint file.

        Raises:
            UserError: there is none, it cannot be used, or it is of something else.
        """
        best = checkpoint.read(run)
        if best.about.get("task") != "classification":
            raise UserError(f"{best.path} is no classifier: its task is {best.about.get('task')!r}")
        return cls(best, best.settings(ClassificationTraining))

    def on(self, device: str) -> tuple[nn.Module, dict[str, Any]]:
        """The model on a device, and the arguments with which evaluation treats it as its training did."""
        chosen = choose_device(device)
        return self.checkpoint.build_model().to(chosen), as_trained(self.settings.optimization, chosen)

    def check_classes(self, found: tuple[str, ...], source: str) -> None:
        """Raise a UserError where the classes of some data are not the model's."""
        trained = self.checkpoint.about["class_names"]
        if tuple(trained) == found:
            return
        unknown = sorted(set(found) - set(trained))
        what = f"{', '.join(unknown[:5])} are not among them" if unknown else "they are others, or in another order"
        raise UserError(
            f"{self.checkpoint.path} knows {len(trained)} classes,"
            f" {', '.join(trained[:5])}{', ...' if len(trained) > 5 else ''}, and {source} has {len(found)}: {what}."
            " Evaluation needs the same classes in the same order; train with --pretrained to teach it others"
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
