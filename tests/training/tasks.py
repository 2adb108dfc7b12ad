"""A training that takes milliseconds: which of three axes a cloud is stretched along."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from pctransformer.datasets import CloudDataset, Sample, collate
from pctransformer.datasets.transforms import Compose, Jitter, RandomScale
from pctransformer.training.checkpoint import Checkpoint
from pctransformer.training.distributed import World
from pctransformer.training.engine import Task, Trainer
from pctransformer.training.run_folder import RunFolder
from pctransformer.training.settings import OptimizationSettings

SETTINGS = OptimizationSettings(epochs=4, batch_size=8, lr=0.01, warmup_epochs=1, precision="float32")


def settings_in_parts(parts: int) -> OptimizationSettings:
    return dataclasses.replace(SETTINGS, accumulate=parts)


class TinyClassifier(nn.Module):
    """Points by themselves, LayerNorm, mean over each cloud of 16 points; no batch norm, so batches can be cut."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.points = nn.Sequential(nn.Linear(3, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 16), nn.GELU())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(16, 3))

    def forward(self, points):
        return self.head(self.points(points.xyz).view(len(points), -1, 16).mean(1))


def clouds(count: int = 44) -> CloudDataset:
    generator = torch.Generator().manual_seed(0)
    xyz = torch.randn(count, 16, 3, generator=generator)
    labels = torch.arange(count) % 3
    xyz[torch.arange(count), :, labels] *= 3
    samples = [Sample(x, label=int(label), name=f"cloud{i}") for i, (x, label) in enumerate(zip(xyz, labels))]
    return CloudDataset(samples, labels, ["x", "y", "z"], transform=Compose((RandomScale(), Jitter())), seed=5)


def task(dropout: float = 0.3) -> Task:
    torch.manual_seed(1)
    data = clouds()
    plain = data.with_transform(None)

    def loss(model, batch):
        return {"loss": nn.functional.cross_entropy(model(batch[0]), batch[1])}

    def validate(model):
        points, labels = collate([plain[i] for i in range(len(plain))])
        with torch.inference_mode():
            return {"oa": float((model.eval()(points.to(device_of(model))).argmax(1).cpu() == labels).float().mean())}

    about = {"task": "test", "class_names": ["x", "y", "z"]}
    return Task(TinyClassifier(dropout), data, collate, loss, validate, lambda found: (found["oa"],), about)


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def trainer(
    folder: Path,
    settings: OptimizationSettings = SETTINGS,
    *,
    world: World | None = None,
    of: Task | None = None,
    resume: Checkpoint | None = None,
    **options: int,
) -> Trainer:
    world = world or World(torch.device("cpu"))
    run = RunFolder(folder, writes=world.leads)
    if resume is None:
        run.create()
    return Trainer(of or task(), settings, run, world, seed=3, resume=resume, **options)
