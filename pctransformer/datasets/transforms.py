"""Changes to a sample, made of small parts: `Compose((Normalize(), RandomScale(0.8, 1.25), Shuffle()))`.

A transform is called with a sample and a `torch.Generator` and gives a new sample; its input is never written into.
Normals turn and shear with the points. Lengths are in the unit of the points, usually of the unit sphere.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Generator, Tensor

from pctransformer.datasets.samples import Sample, Transform

Axis = Literal["x", "y", "z"]


def _uniform(generator: Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator)


def _check_range(low: float, high: float) -> None:
    if not 0 < low <= high < math.inf:
        raise ValueError(f"a scale must have 0 < low <= high, got {low} and {high}")


def _moved(sample: Sample, matrix: Tensor) -> Sample:
    """xyz times a matrix (3, 3); normals by its inverse transpose, which keeps them upright on the surface."""
    normals = sample.normals
    if normals is not None:
        normals = torch.nn.functional.normalize(normals @ torch.linalg.inv(matrix).T, dim=1)
    return dataclasses.replace(sample, xyz=sample.xyz @ matrix, normals=normals)


@dataclasses.dataclass(frozen=True)
class Compose:
    """One transform after the other."""

    transforms: tuple[Transform, ...]

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        for transform in self.transforms:
            sample = transform(sample, generator)
        return sample


@dataclasses.dataclass(frozen=True)
class Normalize:
    """Move the mean of the points to the origin and scale the farthest one to distance 1.

    Done in float64: some public shapes have coordinates of 1e5 around a far centre. A cloud without extent is
    only moved.
    """

    def __call__(self, sample: Sample, generator: Generator | None = None) -> Sample:
        if not len(sample):
            return sample
        xyz = sample.xyz.double()
        xyz = xyz - xyz.mean(dim=0)
        radius = xyz.norm(dim=1).max()
        return dataclasses.replace(sample, xyz=(xyz / radius if radius > 0 else xyz).float())


@dataclasses.dataclass(frozen=True)
class RandomScale:
    """Multiply all coordinates by one factor, uniform in [low, high]."""

    low: float = 0.8
    high: float = 1.25

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        return dataclasses.replace(sample, xyz=sample.xyz * _uniform(generator, self.low, self.high, 1))


@dataclasses.dataclass(frozen=True)
class RandomAnisotropicScale:
    """Multiply x, y and z each by its own factor, uniform in [low, high]; normals follow the sheared surface."""

    low: float = 2 / 3
    high: float = 3 / 2

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        return _moved(sample, torch.diag(_uniform(generator, self.low, self.high, 3)))


@dataclasses.dataclass(frozen=True)
class RandomShift:
    """Move the cloud by a vector with each component uniform in [-limit, limit]."""

    limit: float = 0.2

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        return dataclasses.replace(sample, xyz=sample.xyz + _uniform(generator, -self.limit, self.limit, 3))


@dataclasses.dataclass(frozen=True)
class RandomTurn:
    """Turn about one axis through the origin by an angle uniform in [-limit, limit] radians: pi is a full turn."""

    axis: Axis = "z"
    limit: float = math.pi

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        angle = _uniform(generator, -self.limit, self.limit, 1).item()
        cos, sin = math.cos(angle), math.sin(angle)
        i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[self.axis]
        matrix = torch.eye(3)  # acts on row vectors: the transpose of the usual rotation
        matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = cos, sin, -sin, cos
        return _moved(sample, matrix)


@dataclasses.dataclass(frozen=True)
class RandomRotation:
    """Rotate about the origin, uniform over all rotations (a unit quaternion of four normal numbers)."""

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        w, x, y, z = torch.nn.functional.normalize(torch.randn(4, generator=generator), dim=0).tolist()
        matrix = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
        return _moved(sample, torch.tensor(matrix))


@dataclasses.dataclass(frozen=True)
class Jitter:
    """Add normal noise of deviation `sigma`, clipped to [-clip, clip], to every coordinate."""

    sigma: float = 0.01
    clip: float = 0.05

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        noise = torch.randn(sample.xyz.shape, generator=generator) * self.sigma
        return dataclasses.replace(sample, xyz=sample.xyz + noise.clamp(-self.clip, self.clip))


@dataclasses.dataclass(frozen=True)
class PointDropout:
    """Replace points by the first one: each with the same chance, drawn uniformly from [0, highest] per cloud.

    The cloud keeps its size, as batches of equal clouds need it; this is the drop-out of the public PointNet++ and PCT
    recipes.
    """

    highest: float = 0.875

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        ratio = self.highest * torch.rand(1, generator=generator)
        dropped = torch.rand(len(sample), generator=generator) < ratio
        return sample.take(torch.arange(len(sample)).masked_fill(dropped, 0))


@dataclasses.dataclass(frozen=True)
class Shuffle:
    """Put the points in random order."""

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        return sample.take(torch.randperm(len(sample), generator=generator))


@dataclasses.dataclass(frozen=True)
class RandomSubset:
    """Keep `num_points` of the points, drawn without repetition; a smaller cloud repeats some of its points.

    So every cloud has the same size after it. An empty cloud stays empty.
    """

    num_points: int = 1024

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        if not len(sample):
            return sample
        index = torch.randperm(len(sample), generator=generator)[: self.num_points]
        missing = self.num_points - len(index)
        if missing > 0:
            more = torch.randint(len(sample), (missing,), generator=generator)
            index = torch.cat([index, more])
        return sample.take(index)


@dataclasses.dataclass(frozen=True)
class FirstPoints:
    """Keep the first `num_points` points, all if there are fewer: what test protocols do with ordered files."""

    num_points: int = 1024

    def __call__(self, sample: Sample, generator: Generator | None = None) -> Sample:
        return sample.take(torch.arange(min(self.num_points, len(sample))))


@dataclasses.dataclass(frozen=True)
class EvenSubset:
    """Keep `num_points` of the points, evenly spread over their order, all if there are fewer; nothing is random.

    Of points in random order this is a random subset; of a scan it covers all of it, which its first points do not.
    """

    num_points: int = 1024

    def __call__(self, sample: Sample, generator: Generator | None = None) -> Sample:
        count = len(sample)
        if count <= self.num_points:
            return sample
        return sample.take(torch.arange(self.num_points) * count // self.num_points)


@dataclasses.dataclass(frozen=True)
class OnlyCoordinates:
    """Leave features out, and normals unless `normals` asks for them."""

    normals: bool = False

    def __call__(self, sample: Sample, generator: Generator | None = None) -> Sample:
        if self.normals and sample.normals is None:
            raise ValueError(f"normals are asked for, but {sample.name or 'the cloud'} has none")
        return dataclasses.replace(sample, normals=sample.normals if self.normals else None, features=None)


# ---- published recipes: training-time changes of a normalised cloud --------------------------------------------------
def pct() -> Compose:
    """Guo et al., PCT, 2021, as its public PyTorch code trains it."""
    return Compose((PointDropout(0.875), RandomAnisotropicScale(2 / 3, 3 / 2), RandomShift(0.2), Shuffle()))


def pointnet2() -> Compose:
    """Qi et al., PointNet++, 2017, as the common PyTorch code trains it."""
    return Compose((PointDropout(0.875), RandomScale(0.8, 1.25), RandomShift(0.1)))


def pointnet2_parts() -> Compose:
    """Qi et al., PointNet++, 2017, on ShapeNet parts as the common PyTorch code trains it, and Point-MAE's authors."""
    return Compose((RandomScale(0.8, 1.25), RandomShift(0.1)))


def point_mae() -> Compose:
    """Pang et al., Point-MAE, 2022: pretraining, and fine-tuning on ModelNet40."""
    return Compose((RandomAnisotropicScale(2 / 3, 3 / 2), RandomShift(0.2)))


def point_transformer_v3() -> Compose:
    """Wu et al., Point Transformer V3, 2024, on ModelNet40 as Pointcept trains it."""
    return Compose((RandomAnisotropicScale(0.7, 1.5), RandomShift(0.2), Shuffle()))


RECIPES: dict[str, Callable[[], Compose]] = {
    "pct": pct,
    "pointnet2": pointnet2,
    "pointnet2_parts": pointnet2_parts,
    "point_mae": point_mae,
    "point_transformer_v3": point_transformer_v3,
}
