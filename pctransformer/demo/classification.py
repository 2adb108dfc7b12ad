"""`pctransformer demo`: a transformer trained from nothing on generated shapes in a few minutes, on a CPU too.

It is `train classification` with small settings; everything it does, that command does on real data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pctransformer.training.settings import ClassificationTraining, DataSettings, SupervisedOptimization


@dataclass(frozen=True)
class Config:
    out: Path | None = None
    """Run folder; it must not exist yet. By default runs/demo, numbered."""
    seed: int = 0
    """Of the first weights, the order of shapes and their random changes."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` is a GPU where there is one."""


def settings(config: Config) -> ClassificationTraining:
    """What the demo trains: half-width PCT on 2000 generated shapes of 19 classes, 10 times each."""
    from pctransformer.training.run_folder import numbered

    return ClassificationTraining(
        out=config.out or numbered(Path("runs/demo")),
        seed=config.seed,
        device=config.device,
        data=DataSettings(data="generated", num_shapes=2000, num_points=512, eval_points=512),
        optimization=SupervisedOptimization(epochs=10, warmup_epochs=1),
    )


def run(config: Config) -> int:
    """Train, test, draw, and say what to do with it."""
    from pctransformer.training.classification import train

    folder = train(settings(config)).path
    print(
        f"look again: pctransformer evaluate {folder}"
        "\nyour data:  pctransformer train classification --data FOLDER   (one folder of files per class)"
    )
    return 0
