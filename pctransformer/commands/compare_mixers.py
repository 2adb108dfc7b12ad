"""`pctransformer compare-mixers`: is attention necessary? One backbone with each token mixer, trained alike.

What it does and leaves in its folder, `commands/comparison.py` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from tyro.conf import arg

from pctransformer.commands.comparison import MixerComparison, Options
from pctransformer.layers.mixers.registry import Family, list_mixers, mixer_info
from pctransformer.training.serialization import to_json
from pctransformer.training.settings import ClassificationTraining, DataSettings, SupervisedOptimization

if TYPE_CHECKING:
    from pctransformer.evaluation.mixers import Terms
    from pctransformer.models.cost import Cost
    from pctransformer.training.run_folder import RunFolder


@dataclass(frozen=True)
class Backbone:
    """What is around the mixers: `patch_mixer`, see `pctransformer info patch_mixer`."""

    dim: int = 96
    """Channels of tokens."""
    depth: int = 4
    """Blocks."""
    num_patches: int = 32
    """Tokens of a shape."""
    patch_size: int = 32
    """Points that a token is made of."""
    widths: tuple[int, int] = (16, 32)
    """Channels of the layers that make tokens of patches."""
    pool: Literal["mean", "max", "max_mean"] = "max_mean"
    """How tokens become one vector; `max_mean` is both, without which attention learns more slowly than others."""
    block: Literal["transformer", "published"] = "transformer"
    """`transformer` puts every mixer in the place of attention and leaves all else alone; `published` takes the whole
    block that a mixer was published in."""


@dataclass(frozen=True)
class Config(Options):
    mixers: Annotated[tuple[str, ...], arg(metavar="MIXER...")] = field(default_factory=lambda: tuple(list_mixers()))
    """What is compared."""
    backbone: Backbone = field(default_factory=Backbone)
    data: DataSettings = field(default_factory=lambda: DataSettings(num_points=1024))
    optimization: SupervisedOptimization = field(
        default_factory=lambda: SupervisedOptimization(epochs=8, batch_size=16, warmup_epochs=1.0, ema=0.99)
    )


def run(config: Config) -> int:
    """The command; 1 where a training failed."""
    return _Comparison().run(config)


class _Comparison(MixerComparison[Config]):
    command, stem = "compare-mixers", "mixers"
    title = "Token mixers in one backbone"
    families = get_args(Family)

    @property
    def terms(self) -> Terms:
        from pctransformer.evaluation.mixers import POINT_VIEW

        return POINT_VIEW

    def family(self, mixer: str) -> str:
        return mixer_info(mixer).family

    def data_name(self, config: Config) -> str:
        return Path(config.data.data).stem

    def costs(self, config: Config) -> dict[str, Cost]:
        import torch

        from pctransformer.models.cost import cost
        from pctransformer.training.data import training_data
        from pctransformer.training.model import make_model

        classes = len(training_data(config.data, seed=0).train.class_names)
        channels = 6 if config.data.normals else 3
        shape = torch.rand(1, config.data.eval_points, channels, generator=torch.Generator().manual_seed(0))
        costs = {}
        for mixer in config.mixers:
            options = _model_options(config, mixer)
            model = make_model("patch_mixer", options, task="classification", in_channels=channels, num_classes=classes)
            costs[mixer] = cost(model, shape)[0]
        return costs

    def training(self, config: Config, mixer: str, seed: int, out: Path) -> ClassificationTraining:
        return ClassificationTraining(
            out=out,
            model="patch_mixer",
            model_options=_model_options(config, mixer),
            seed=seed,
            device=config.device,
            workers=config.workers,
            data=config.data,
            optimization=config.optimization,
        )

    def scores(self, tested: Mapping[str, Any]) -> dict[str, float]:
        return {key: tested[key] for key in self.terms.columns}

    def in_short(self, tested: Mapping[str, Any]) -> str:
        return f"OA {tested['overall_accuracy']:.4f}"

    def budget(self, config: Config) -> str:
        backbone, optimization = config.backbone, config.optimization
        return (
            f"{self.data_name(config)}, {optimization.epochs} epochs, seeds {', '.join(map(str, config.seeds))};"
            f" depth {backbone.depth}, {backbone.dim} channels, {backbone.num_patches} patches of"
            f" {backbone.patch_size} points"
        )

    def notes(self, config: Config, run: RunFolder) -> tuple[str, str]:
        backbone = ", ".join(f"{name}={value}" for name, value in to_json(config.backbone).items())
        optimization = config.optimization
        trained = (
            f"Backbone: `patch_mixer`, {backbone}. Training: {config.data.num_points} points,"
            f" {config.data.augmentation}, {optimization.optimizer}, learning rate {optimization.lr}, batches of"
            f" {optimization.batch_size}, the same for all; the epoch is chosen on held-out training shapes, the test"
            " is done once."
        )
        return trained, "OA is overall accuracy, mAcc the mean of classes"


def _model_options(config: Config, mixer: str) -> dict[str, Any]:
    return {"mixer": mixer, **to_json(config.backbone)}
