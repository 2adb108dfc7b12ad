"""`pctransformer compare-grid-mixers`: is attention necessary seen from above? One LiDAR detector with each grid mixer.

What it does and leaves in its folder, `commands/comparison.py` says. Simulated streets are made once for all trainings:

OUT/streets             in KITTI's folders; none where other data is trained on
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from tyro.conf import arg

from pctransformer.commands.comparison import MixerComparison, Options
from pctransformer.layers.grid_mixers.registry import GridFamily, grid_mixer_info, list_grid_mixers
from pctransformer.training.serialization import to_json
from pctransformer.training.settings import DetectionOptimization, DetectionTraining, ScanData

if TYPE_CHECKING:
    from pctransformer.evaluation.mixers import Terms
    from pctransformer.models.cost import Cost
    from pctransformer.training.progress import Display
    from pctransformer.training.run_folder import RunFolder

_MODEL = "smlp_detector_small"
_STREETS = "streets"
_FEW = 20
"""Labelled simulated scans that are made to look for faults, before all of them are."""


@dataclass(frozen=True)
class Backbone:
    """What is around the mixers: `smlp_detector_small`, see `pctransformer info smlp_detector_small`."""

    depths: tuple[int, ...] = (2, 2, 2)
    """Blocks of each stage; the map of a stage is half as fine as that of the one before."""
    width: int = 32
    """Channels of pillars and of the first stage; each further stage has twice as many."""
    point_range: tuple[float, float, float, float, float, float] = (0, -19.2, -3, 38.4, 19.2, 1)
    """What is looked at: least x, y, z and greatest, metres. Mixers of all cells cost the square of it."""
    voxel_size: tuple[float, float] = (0.4, 0.4)
    """x and y of a pillar, metres; a cell of the first stage is 2 x 2 of them."""


@dataclass(frozen=True)
class Config(Options):
    mixers: Annotated[tuple[str, ...], arg(metavar="MIXER...")] = field(
        default_factory=lambda: tuple(list_grid_mixers())
    )
    """What is compared; `identity` is no mixing at all."""
    backbone: Backbone = field(default_factory=Backbone)
    data: ScanData = field(default_factory=lambda: ScanData(num_scans=400))
    optimization: DetectionOptimization = field(
        default_factory=lambda: DetectionOptimization(epochs=6, batch_size=2, lr=2e-3)
    )


def run(config: Config) -> int:
    """The command; 1 where a training failed."""
    return _Comparison().run(config)


class _Comparison(MixerComparison[Config]):
    command, stem = "compare-grid-mixers", "grid-mixers"
    title = "Grid mixers in one LiDAR detector"
    families = get_args(GridFamily)

    @property
    def terms(self) -> Terms:
        from pctransformer.evaluation.mixers import GRID_VIEW

        return GRID_VIEW

    def family(self, mixer: str) -> str:
        return grid_mixer_info(mixer).family

    def data_name(self, config: Config) -> str:
        return "-".join(Path(source).stem for source in config.data.data)

    def costs(self, config: Config) -> dict[str, Cost]:
        import torch

        from pctransformer.datasets.kitti import CLASS_NAMES
        from pctransformer.heads.anchor import KITTI_ANCHORS
        from pctransformer.models.cost import cost
        from pctransformer.training.model import make_model
        from pctransformer.training.scans import testing_scans, training_scans

        share = config.data.label_fraction
        count = math.ceil(_FEW / share) if 0 < share <= 1 else _FEW  # another share is refused below
        few = dataclasses.replace(config.data, num_scans=min(config.data.num_scans, count))
        scan = torch.from_numpy(training_scans(few, config.seeds[0]).train.scans[0].points)[None]
        testing_scans(few, "test")
        made: dict[str, Any] = {"in_channels": scan.shape[2], "num_classes": len(config.data.classes)}
        if config.data.classes != CLASS_NAMES:  # trainings measure their boxes; the size of an anchor costs nothing
            made["anchors"] = [list(KITTI_ANCHORS[0])] * made["num_classes"]
        return {
            mixer: cost(make_model(_MODEL, _model_options(config, mixer), task="detection", **made), scan)[0]
            for mixer in config.mixers
        }

    def prepare(self, config: Config, folder: Path, display: Display) -> Config:
        from pctransformer.datasets.source import GENERATED
        from pctransformer.training.scans import write_generated

        streets = folder / _STREETS
        if GENERATED in config.data.data and not streets.exists():
            display.say(f"{config.data.num_scans} simulated scans to train on, a quarter as many to test on: {streets}")
        return dataclasses.replace(config, data=write_generated(config.data, streets))

    def training(self, config: Config, mixer: str, seed: int, out: Path) -> DetectionTraining:
        return DetectionTraining(
            out=out,
            model=_MODEL,
            model_options=_model_options(config, mixer),
            seed=seed,
            device=config.device,
            workers=config.workers,
            data=config.data,
            optimization=config.optimization,
        )

    def scores(self, tested: Mapping[str, Any]) -> dict[str, float]:
        by_class = self.class_scores(tested).values()
        # a test without any object is one where nothing is found
        return {key: statistics.fmean(one[key] for one in by_class) if by_class else 0.0 for key in self.terms.columns}

    def class_scores(self, tested: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        return {
            name: {"ap_3d": found["3d"] / 100, "ap_bev": found["bev"] / 100} for name, found in tested["r40"].items()
        }

    def in_short(self, tested: Mapping[str, Any]) -> str:
        scores = self.scores(tested)
        return f"AP from above {100 * scores['ap_bev']:.1f}, 3D {100 * scores['ap_3d']:.1f}"

    def budget(self, config: Config) -> str:
        backbone = config.backbone
        low, high = backbone.point_range[:2], backbone.point_range[3:5]
        pillars = " x ".join(f"{(b - a) / side:.0f}" for a, b, side in zip(low, high, backbone.voxel_size))
        return (
            f"{self.data_name(config)}, {config.optimization.epochs} epochs, seeds"
            f" {', '.join(map(str, config.seeds))}; {' + '.join(map(str, backbone.depths))} blocks,"
            f" {backbone.width} channels in the first, {pillars} pillars of"
            f" {' x '.join(f'{side:g}' for side in backbone.voxel_size)} m"
        )

    def notes(self, config: Config, run: RunFolder) -> tuple[str, str]:
        from pctransformer.training import checkpoint
        from pctransformer.training.run_folder import RESULTS

        backbone = ", ".join(f"{name}={value}" for name, value in to_json(config.backbone).items())
        optimization, counts = config.optimization, checkpoint.read(run.path).about["data"]
        chosen = f"on {counts['held_out']} held-out scans" if counts["held_out"] else "as the last"
        unpasted = "" if config.data.paste else " without pasting"
        if config.data.paste and config.data.unpasted_epochs:
            unpasted = f" without pasting in the last {config.data.unpasted_epochs}"
        trained = (
            f"Backbone: `{_MODEL}`, {backbone}. Training: {counts['train']} scans,"
            f" {config.data.augmentation}{unpasted}, {optimization.optimizer},"
            f" learning rate {optimization.lr}, batches of {optimization.batch_size}, the same for all; the epoch is"
            f" chosen {chosen}, the test is done once."
        )
        official = "kitti" in run.read_json(RESULTS)["test"]
        rule = "KITTI's R40 of moderate objects" if official else "R40 of objects that are overlapped by half"
        return trained, f"AP is {rule}, from above (BEV) and in space (3D), first the mean of the classes"


def _model_options(config: Config, mixer: str) -> dict[str, Any]:
    return {"mixer": mixer, **to_json(config.backbone)}
