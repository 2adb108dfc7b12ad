"""What a trained model says about every point of a scene: `load("runs/rooms").predict("scan.ply")`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from pctransformer.datasets.files import write_ply
from pctransformer.datasets.scenes import scaled_colors, scene_arrays
from pctransformer.evaluation.tiles import segment_scene
from pctransformer.training.scenes import tiling
from pctransformer.training.settings import SemanticSegmentationTraining


@dataclasses.dataclass(frozen=True, eq=False)
class ScenePrediction:
    """The class of every point of a scene.

    Attributes:
        name: of the scene: its file, or what the caller calls it.
        class_names: names that labels index.
        labels: (n,) int64 class of each point, in the order of the points.
        confidence: (n,) float32 its probability.
        xyz: (n, 3) the points, as they were given.
        colors: (n, 3) float32 in [0, 1], those of the scan, or None.
        tiles: how many tiles the scene was cut into.
    """

    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    confidence: np.ndarray
    xyz: np.ndarray
    colors: np.ndarray | None
    tiles: int

    @property
    def shares(self) -> dict[str, float]:
        """Share of the points that each class takes, of those that take any, largest first."""
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        order = np.argsort(-counts, kind="stable")
        return {self.class_names[i]: float(counts[i] / len(self.labels)) for i in order if counts[i]}

    def __repr__(self) -> str:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in list(self.shares.items())[:3])
        return f"ScenePrediction({self.name!r}, {len(self.labels)} points: {shares})"

    def write(self, folder: Path, stem: str) -> None:
        """STEM.ply, whose points have the colours of their classes, `label` and `confidence`; and STEM.npz."""
        from pctransformer.visualization.scenes import class_colors

        columns = {"label": self.labels, "confidence": self.confidence}
        colors = class_colors(self.class_names)[self.labels]
        write_ply(folder / f"{stem}.ply", self.xyz, colors=colors, features=columns)
        np.savez_compressed(
            folder / f"{stem}.npz",
            label=self.labels,
            confidence=self.confidence,
            class_names=np.array(self.class_names),
        )


class ScenePredictor:
    """A model for scenes with all that belongs to it; `pctransformer.load` makes one from a run.

    Attributes:
        model: in evaluation mode.
        class_names: of its logits.
        settings: those it was trained with.
        device: where the model is.
    """

    def __init__(
        self, model: nn.Module, class_names: Sequence[str], settings: SemanticSegmentationTraining, device: torch.device
    ) -> None:
        self.model = model.to(device).eval()
        self.class_names, self.settings, self.device = tuple(class_names), settings, device

    def predict(
        self,
        scene: str | Path | np.ndarray | Tensor,
        *,
        columns: int | None = None,
        not_finite: Literal["error", "drop"] = "error",
        name: str = "scene",
    ) -> ScenePrediction:
        """Segment a scene of any size, in tiles.

        Args:
            scene: a file of points, or a mesh, whose vertices are taken; or rows (n, 3 + C), z up, metres. The values
                after x, y, z are red, green and blue, up to 1 or up to 255; in a .ply and .pcd they are found by name.
            columns: values per point of a .bin file, which does not say it: 6 for x, y, z and a colour.
            not_finite: what to do with points of a file that are NaN or infinite: "error", or "drop" them.
            name: of rows.

        Raises:
            FileFormatError: a file is missing or broken, or has no colours where the model wants them.
            ValueError: rows are not as they should be, or the model gives NaN.
        """
        if isinstance(scene, (str, Path)):
            colors = self.settings.data.colors
            xyz, rgb, _ = scene_arrays(scene, labels=False, colors=colors, columns=columns, not_finite=not_finite)
            name = str(scene)
        else:
            if not isinstance(scene, (np.ndarray, Tensor)):
                raise TypeError(f"one scene at a time, a file or rows of points: got a {type(scene).__name__}")
            rows = np.asarray(scene.detach().cpu() if isinstance(scene, Tensor) else scene)
            wanted = 6 if self.settings.data.colors else 3
            if rows.ndim != 2 or rows.shape[1] < wanted or rows.dtype.kind not in "fiu":
                raise ValueError(
                    f"{name}: rows of {wanted} numbers are needed, x, y, z{' and a colour' if wanted == 6 else ''},"
                    f" got {rows.shape} {rows.dtype}"
                )
            xyz = rows[:, :3]
            rgb = scaled_colors(rows[:, 3:6]) if wanted == 6 else None
        found = segment_scene(self.model, xyz, rgb, **tiling(self.settings, self.device))
        return ScenePrediction(
            name, self.class_names, found.labels.numpy(), found.confidence.numpy(), xyz, rgb, found.tiles
        )
