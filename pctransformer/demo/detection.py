"""`pctransformer demo detection`: a LiDAR detector trained from nothing on simulated streets, in minutes, on a CPU too.

It is `train detection` with small settings; everything it does, that command does on real data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pctransformer.training.settings import DetectionOptimization, DetectionTraining, ScanData


@dataclass(frozen=True)
class Config:
    out: Path | None = None
    """Run folder; it must not exist yet. By default runs/demo-detection, numbered."""
    seed: int = 0
    """Of the first weights, the order of scans and their random changes."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` is a GPU where there is one."""


def settings(config: Config) -> DetectionTraining:
    """What the demo trains: PointPillars of the reduced size on 400 simulated scans, 12 times each."""
    from pctransformer.training.run_folder import numbered

    return DetectionTraining(
        out=config.out or numbered(Path("runs/demo-detection")),
        seed=config.seed,
        device=config.device,
        model="pointpillars_small",
        data=ScanData(num_scans=400),
        optimization=DetectionOptimization(epochs=12),
    )


def run(config: Config) -> int:
    """Train, test, draw, and say what to do with it."""
    from pctransformer.training.detection import train

    folder = train(settings(config)).path
    print(
        f"look at it:  {folder}/figures/scan-1.png"
        f"\nlook again:  pctransformer evaluate {folder}"
        "\nyour data:   pctransformer train detection --data FOLDER   (KITTI, or scans with boxes: data/README.md)"
    )
    return 0
