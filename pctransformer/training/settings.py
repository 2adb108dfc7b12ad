"""What a training can be told: frozen dataclasses that become a command line, and JSON in the run folder.

How they become both `training/serialization.py` says. Neither file imports torch, so that `--help` is there at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tyro.constructors import PrimitiveConstructorSpec

from pctransformer.models.table import Task
from pctransformer.training.serialization import from_json, parse_options, to_json, write_options

Augmentation = Literal["none", "pct", "pointnet2", "pointnet2_parts", "point_mae", "point_transformer_v3"]
UnlabelledAugmentation = Literal["auto", Augmentation]
ScanAugmentation = Literal["none", "second", "pointpillars", "pv_rcnn"]
Precision = Literal["auto", "float32", "bf16"]
ModelOptions = Annotated[
    Mapping[str, Any],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME=VALUE",
        instance_from_str=parse_options,
        is_instance=lambda options: isinstance(options, Mapping),
        str_from_instance=write_options,
    ),
]
"""Options of a model by name; on the command line `mixer=lstm depth=4`."""


@dataclass(frozen=True)
class DataSettings:
    """Where shapes come from and what becomes of them."""

    data: str = "generated"
    """`generated` for generated shapes, or a path: an .npz, a ModelNet folder in any of its three layouts, h5_files of
    ScanObjectNN, or your own folder with one folder of clouds or meshes per class."""
    num_points: int = 512
    """Points of a shape in training, drawn anew in every epoch."""
    eval_points: int = 1024
    """Points of a shape in evaluation, spread evenly over its file; all, if there are fewer."""
    normals: bool = False
    """Use the normals that come with the points: 6 input channels instead of 3."""
    augmentation: Augmentation = "point_mae"
    """Published recipe of random changes; `point_mae` stretches each axis by 2/3 to 3/2 and shifts by up to 0.2."""
    validation: float = 0.1
    """Share of each training class that is held out, to choose the epoch by; the same shapes for every seed."""
    label_fraction: float = 1.0
    """Share of the training shapes of each class that are labelled, held-out ones included; the rest is not used. Which
    ones depends on the seed."""
    num_shapes: int = 2000
    """Generated shapes to train on; a quarter as many to test on."""

    @property
    def drawn_points(self) -> int:
        """Points that are drawn from a surface: as many as are used, in training or in evaluation."""
        return max(self.num_points, self.eval_points)


@dataclass(frozen=True)
class PartData(DataSettings):
    """Where shapes come from whose points have labels, and what becomes of them."""

    data: str = "generated"
    """`generated` for generated shapes with parts, or a folder of ShapeNet parts in either of its layouts."""
    num_points: int = 1024
    """Points of a shape in training, drawn anew in every epoch."""

    @property
    def drawn_points(self) -> int:
        """Twice as many as are used, so that epochs see different ones."""
        return 2 * super().drawn_points


@dataclass(frozen=True)
class UnlabelledData:
    """Where shapes or LiDAR scans come from that nobody has to have labelled."""

    data: tuple[str, ...] = ("generated",)
    """One or several of: `generated`; for models of shapes an .npz, a ModelNet folder, or a folder of clouds or meshes,
    with folders for classes or without; for detectors a folder of KITTI, or of your own scans. Of data with a test
    part, the training part."""
    num_points: int = 1024
    """Points of a shape, drawn anew in every epoch where it has more."""
    augmentation: UnlabelledAugmentation = "auto"
    """Random changes: `auto` mirrors scans, turns them by up to 45 degrees and scales them by up to 5 %, and is
    `point_mae` for shapes, which stretches each axis by 2/3 to 3/2 and shifts by up to 0.2. The others are published
    recipes for shapes."""
    camera_view: bool = True
    """Of KITTI and simulated streets, only points that the camera sees, as detectors are trained on."""
    validation: float = 0.1
    """Share of the data that is held out, to choose the epoch by; the same for every seed."""
    num_shapes: int = 2000
    """Generated shapes to train on."""
    num_scans: int = 1000
    """Simulated scans to train on."""


@dataclass(frozen=True)
class SceneData:
    """Where scenes come from whose points have classes, and what a model is shown of them."""

    data: str = "generated"
    """`generated` for generated rooms, or a folder with labelled clouds in `train` and `test`, see data/README.md."""
    cell_size: float = 0.05
    """Edge of the cells that scenes are thinned by, metres; one point of each is shown."""
    num_points: int = 6144
    """Points of what is shown in one step: those nearest to a vertical line through a random one."""
    tile_points: int = 16384
    """Points of a tile in evaluation and prediction; more need memory, fewer have less around them to go by."""
    colors: bool = True
    """Use red, green and blue: 6 input channels instead of 3."""
    validation: float = 0.1
    """Share of the training scenes that is held out, to choose the epoch by; the same scenes for every seed."""
    crops: int = 4
    """How often each scene is taken in an epoch, each time somewhere else."""
    num_rooms: int = 60
    """Generated scenes to train on; a quarter as many to test on."""


@dataclass(frozen=True)
class ScanData:
    """Where LiDAR scans with boxes come from, and what becomes of them."""

    data: tuple[str, ...] = ("generated",)
    """One or several of: `generated` for simulated streets, a folder of KITTI, or your own scans with boxes, see
    data/README.md. All are trained on; tested is on the last."""
    repeat: tuple[int, ...] = ()
    """How often the scans of each source come in an epoch, one number for each; by default once."""
    classes: tuple[str, ...] = ("Car", "Pedestrian", "Cyclist")
    """What to look for. Anchors of other classes than these three get the mean sizes of the training boxes."""
    augmentation: ScanAugmentation = "second"
    """Published recipe of random changes: how many objects of other scans are pasted; all of them mirror, turn by up to
    45 degrees and scale by up to 5 %."""
    paste: bool = True
    """Paste objects of other training scans into each: what makes most of a small data set."""
    unpasted_epochs: int = 0
    """Last epochs in which nothing is pasted, so that the detector ends on scans as full as they are (the fading of
    PointAugmenting, Wang et al., 2021)."""
    camera_view: bool = True
    """Of KITTI and simulated streets, only points that the camera sees: nothing else is labelled."""
    reflectance: float | None = None
    """Of all points, from 0 to 1, where your own scans have none."""
    validation: float = 0.05
    """Share of the training scans that is held out, to choose the epoch by; the same scans for every seed. 0, as in
    published trainings: the last epoch is taken."""
    label_fraction: float = 1.0
    """Share of the training scans of each source that are labelled, held-out ones included; the rest is not used, nor
    are its objects pasted. Which ones depends on the seed."""
    num_scans: int = 1000
    """Simulated scans to train on; a quarter as many to test on."""


@dataclass(frozen=True)
class OptimizationSettings:
    """How weights are changed."""

    epochs: int = 60
    batch_size: int = 32
    """Shapes of one step, over all processes."""
    accumulate: int = 1
    """Parts that a step's shapes are passed through the model in: less memory; batch norm sees the parts."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """SGD has a momentum of 0.9."""
    lr: float = 1e-3
    """Highest learning rate."""
    final_lr: float = 0.01
    """Share of the learning rate that is left at the end of the cosine."""
    warmup_epochs: float = 2.0
    """Epochs in which the learning rate rises from zero."""
    weight_decay: float = 0.05
    """Of matrices; biases and norms have none."""
    clip: float = 10.0
    """Gradients are scaled down to this norm; 0: never."""
    ema: float = 0.0
    """Decay per step of an average of the weights, which is then what is evaluated and saved; 0: none."""
    precision: Precision = "auto"
    """`auto` is bf16 autocast where the processor computes in bf16, else float32."""


@dataclass(frozen=True)
class SupervisedOptimization(OptimizationSettings):
    """How weights are changed to tell classes apart."""

    label_smoothing: float = 0.1


@dataclass(frozen=True)
class PartOptimization(OptimizationSettings):
    """How weights are changed to tell parts apart."""

    epochs: int = 8
    batch_size: int = 16
    """Shapes of one step, over all processes."""


@dataclass(frozen=True)
class SceneOptimization(OptimizationSettings):
    """How weights are changed to tell the classes of points apart."""

    epochs: int = 12
    batch_size: int = 4
    """Pieces of scenes in one step, over all processes."""
    lr: float = 4e-3
    """Highest learning rate."""
    warmup_epochs: float = 0.5
    """Epochs in which the learning rate rises from zero."""
    ema: float = 0.98
    """Decay per step of an average of the weights, which is then what is evaluated and saved; 0: none."""


@dataclass(frozen=True)
class DetectionOptimization(OptimizationSettings):
    """How weights are changed to find objects."""

    epochs: int = 20
    batch_size: int = 4
    """Scans of one step, over all processes."""
    lr: float = 3e-3
    """Highest learning rate."""
    weight_decay: float = 0.01
    """Of matrices; biases and norms have none."""
    warmup_epochs: float = 1.0
    """Epochs in which the learning rate rises from zero."""


@dataclass(frozen=True)
class PretrainingOptimization(OptimizationSettings):
    """How weights are changed to make up what is hidden."""

    batch_size: int = 0
    """Shapes or scans of one step, over all processes; 0: 32 shapes, or 4 scans where the model becomes a detector."""


@dataclass(frozen=True)
class Training:
    """Options that every training has."""

    task: ClassVar[str]
    """The second word of the command."""
    model_task: ClassVar[Task]
    """Of the models that it trains, see `pctransformer models`."""

    out: Path | None = None
    """Run folder; it must not exist yet. By default runs/MODEL-DATA, numbered."""
    resume: Path | None = None
    """Go on with the training in this run folder, with its settings; --device, --workers, --save-steps and
    --keep-memory may be others."""
    model: str = ""
    """One of `pctransformer models`."""
    model_options: ModelOptions = field(default_factory=dict)
    """Options of the model, see `pctransformer info MODEL`: depth=4 mixer=lstm "widths=[32, 64]"."""
    pretrained: Path | None = None
    """Weights to start from."""
    seed: int = 0
    """Of the first weights, the order of shapes, their random changes and drop-out."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` is a GPU where there is one."""
    workers: int = 0
    """Processes that prepare shapes; results do not depend on it."""
    save_steps: int = 0
    """Also save every so many steps inside an epoch; 0: at the end of each."""
    keep_memory: bool = True
    """Let the process keep memory that it has freed (glibc): training on a CPU is up to twice as fast."""
    optimization: OptimizationSettings = field(default_factory=OptimizationSettings)

    @property
    def sources(self) -> tuple[str, ...]:
        """What the data is read from, see `pctransformer.datasets.open_dataset`."""
        raise NotImplementedError


@dataclass(frozen=True)
class ClassificationTraining(Training):
    """Options of `pctransformer train classification`."""

    task, model_task = "classification", "classification"

    model: str = "pct_small"
    """One of `pctransformer models`."""
    pretrained: Path | None = None
    """Weights to start from: a run, of pretraining or of other classes, or a file. The last layer starts anew where the
    classes are others, and what the model is pretrained without; anything else has to be there."""
    freeze: bool = False
    """Linear probe: keep the model as it is, and train one linear layer on what it makes of clouds."""
    data: DataSettings = field(default_factory=DataSettings)
    optimization: SupervisedOptimization = field(default_factory=SupervisedOptimization)

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.data.data,)


@dataclass(frozen=True)
class PartSegmentationTraining(Training):
    """Options of `pctransformer train part-segmentation`."""

    task, model_task = "part-segmentation", "segmentation"

    model: str = "point_transformer_v3_small_seg"
    """One of `pctransformer models "*_seg"`."""
    pretrained: Path | None = None
    """Weights to start from: a run, of pretraining or of other parts, or a file. The last layer starts anew where the
    parts are others, so does what reads the category where there are others, and what the model is pretrained without;
    anything else has to be there."""
    data: PartData = field(default_factory=PartData)
    optimization: PartOptimization = field(default_factory=PartOptimization)

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.data.data,)


@dataclass(frozen=True)
class SemanticSegmentationTraining(Training):
    """Options of `pctransformer train semantic-segmentation`."""

    task, model_task = "semantic-segmentation", "segmentation"

    model: str = "point_transformer_v3_small_seg"
    """One of `pctransformer models "*_seg"`; one that has cells gets them in the size that scenes are thinned by."""
    pretrained: Path | None = None
    """Weights to start from: a run, or a file. The last layer starts anew where the classes are others."""
    data: SceneData = field(default_factory=SceneData)
    optimization: SceneOptimization = field(default_factory=SceneOptimization)

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.data.data,)


@dataclass(frozen=True)
class DetectionTraining(Training):
    """Options of `pctransformer train detection`."""

    task, model_task = "detection", "detection"

    model: str = "pointpillars_small"
    """One of the models for detection, see `pctransformer models`."""
    pretrained: Path | None = None
    """Weights to start from: a run, of pretraining or of detection, or a file, OpenPCDet's included. The head's last
    layers start anew where the classes are others, and the head where there is none in the file."""
    data: ScanData = field(default_factory=ScanData)
    optimization: DetectionOptimization = field(default_factory=DetectionOptimization)

    @property
    def sources(self) -> tuple[str, ...]:
        return self.data.data


@dataclass(frozen=True)
class Pretraining(Training):
    """Options of `pctransformer train pretraining`."""

    task, model_task = "pretraining", "pretraining"

    model: str = "point_mae_small_pretraining"
    """One of `pctransformer models "*_pretraining"`."""
    pretrained: Path | None = None
    """Weights of the same model to go on from."""
    data: UnlabelledData = field(default_factory=UnlabelledData)
    optimization: PretrainingOptimization = field(default_factory=PretrainingOptimization)

    @property
    def sources(self) -> tuple[str, ...]:
        return self.data.data


def shared_by_seeds(task: str, values: dict[str, Any]) -> dict[str, Any]:
    """What trainings share that differ in nothing but their seed, to compare runs by.

    Args:
        task: of both.
        values: of `to_json`, perhaps by an older version.

    Returns:
        the same by this version, without seed and folders.

    Raises:
        ValueError: see `from_json`.
    """
    kind = next(kind for kind in Training.__subclasses__() if kind.task == task)
    told = to_json(from_json(kind, values))
    return {name: value for name, value in told.items() if name not in ("seed", "out", "resume")}
