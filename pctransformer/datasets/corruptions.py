"""The corruptions of ModelNet-C: seven ways in which clouds go wrong, each in five severities.

    worse = corrupted(dataset, "drop_local", 3)

They are transforms like those of `transforms.py`, for clouds in the unit sphere, as `Normalize` leaves them. Parameters
are those with which the benchmark was made, for 1024 points; what it counts in points is here a share of the cloud, so
that clouds of other sizes are corrupted as much. The clouds are drawn anew, from the same distributions: they are not
the files that the benchmark's authors publish, and errors on them are like those on the files, but not the same.

Source: Ren, Pan and Liu, Benchmarking and Analyzing Point Cloud Classification under Corruptions, 2022,
arXiv:2202.03377; parameters of severities as on its page, pointcloud-c.github.io/details.html, and in the generator of
the published files, github.com/ldkong1205/PointCloud-C, which decides where the two differ.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from pctransformer.datasets.samples import CloudDataset, Sample, Transform
from pctransformer.datasets.transforms import Compose, Jitter, Normalize, RandomAnisotropicScale, RandomTurn

SEVERITIES = (1, 2, 3, 4, 5)

_MOST_CLUSTERS = 7  # the paper writes U{1, 8}; its generator stops before 8
_CLUSTER_SIGMA = (0.075, 0.125)  # of an added cluster, drawn uniformly


# ---- points that are missing -----------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class DropGlobal:
    """Leave out a share of the points, drawn at random; what stays keeps its order. One point at least stays."""

    share: float

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        count = len(sample)
        kept = max(int(count * (1 - self.share)), min(count, 1))
        return sample.take(torch.randperm(count, generator=generator)[:kept].sort().values)


@dataclasses.dataclass(frozen=True)
class DropLocal:
    """Cut one to seven holes into the cloud: round about a random point each, of random sizes.

    A hole takes the points nearest to its centre, of those that earlier holes have left.

    Args:
        points: that all holes together take of a cloud of 1024 points, of others as large a share.
    """

    points: int

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        for size in _cluster_sizes(sample, self.points, generator):
            centre = torch.randint(len(sample), (), generator=generator)
            distance = (sample.xyz - sample.xyz[centre]).square().sum(1)
            sample = sample.take(distance.argsort(stable=True)[size:].sort().values)
        return sample


# ---- points that do not belong there ---------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class AddGlobal:
    """Add points, uniform in the unit ball, after the cloud's own; see `AddLocal` for their normals and labels.

    Args:
        points: that are added to a cloud of 1024 points, to others as large a share.
    """

    points: int

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        count = _share_of(sample, self.points)
        radius = torch.rand(count, 1, generator=generator) ** (1 / 3)
        return _with_added(sample, radius * _directions(count, generator), generator)


@dataclasses.dataclass(frozen=True)
class AddLocal:
    """Add one to seven clusters of points, each scattered about a random point of the cloud, after the cloud's own.

    A cluster is normal with a deviation drawn from [0.075, 0.125] of the unit sphere's radius. A point that falls
    outside of the unit sphere is mirrored at it, x / |x|^2. Normals of added points have random directions; their point
    labels are -1. Features cannot be made up.

    Args:
        points: that all clusters together have for a cloud of 1024 points, for others as large a share.

    Raises:
        ValueError: on a sample with features.
    """

    points: int

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        sizes = _cluster_sizes(sample, self.points, generator)
        centres = sample.xyz[torch.randperm(len(sample), generator=generator)[: len(sizes)]]
        low, high = _CLUSTER_SIGMA
        sigmas = low + (high - low) * torch.rand(len(sizes), 1, generator=generator)
        owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.int64))
        xyz = centres[owner] + sigmas[owner] * torch.randn(len(owner), 3, generator=generator)
        return _with_added(sample, xyz / xyz.square().sum(1, keepdim=True).clamp(min=1), generator)


def _share_of(sample: Sample, points: int) -> int:
    """As many points of this cloud as `points` are of 1024."""
    return round(len(sample) * points / 1024)


def _cluster_sizes(sample: Sample, points: int, generator: Generator) -> list[int]:
    """One to seven numbers that add up to the share of the cloud: each point falls to one of the clusters."""
    clusters = int(torch.randint(1, _MOST_CLUSTERS + 1, (), generator=generator))
    owner = torch.randint(clusters, (_share_of(sample, points),), generator=generator)
    return [size for size in owner.bincount(minlength=clusters).tolist() if size]


def _directions(count: int, generator: Generator) -> Tensor:
    """(count, 3) points on the unit sphere, uniform."""
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)


def _with_added(sample: Sample, xyz: Tensor, generator: Generator) -> Sample:
    if sample.features is not None:
        raise ValueError(
            f"points are added to {sample.name or 'a cloud'}, which has features, and those of the new points nobody"
            " knows; leave features out with OnlyCoordinates before"
        )
    normals, labels = sample.normals, sample.point_labels
    if normals is not None:  # drawn last, so that clouds with and without normals get the same points
        normals = torch.cat([normals, _directions(len(xyz), generator)])
    if labels is not None:
        labels = torch.cat([labels, labels.new_full((len(xyz),), -1)])
    return dataclasses.replace(sample, xyz=torch.cat([sample.xyz, xyz]), normals=normals, point_labels=labels)


# ---- by name and severity --------------------------------------------------------------------------------------------
def _scale(severity: int) -> Transform:
    """Each axis by its own factor in [1 / s, s], s = 1.6 ... 2.0, then back into the unit sphere."""
    largest = 1.5 + 0.1 * severity
    return Compose((RandomAnisotropicScale(1 / largest, largest), Normalize()))


def _jitter(severity: int) -> Transform:
    """Normal noise on every coordinate, deviation 0.01 ... 0.05, not clipped."""
    return Jitter(0.01 * severity, clip=math.inf)


def _rotate(severity: int) -> Transform:
    """A turn about each axis, by up to 6, 12, 18, 24 and 30 degrees."""
    limit = math.radians(6 * severity)
    return Compose((RandomTurn("x", limit), RandomTurn("y", limit), RandomTurn("z", limit)))


CORRUPTIONS: dict[str, Callable[[int], Transform]] = {
    "scale": _scale,
    "jitter": _jitter,
    "rotate": _rotate,
    "drop_global": lambda severity: DropGlobal(0.125 * (severity + 1)),  # 25, 37.5, 50, 62.5, 75 %
    "drop_local": lambda severity: DropLocal(100 * severity),
    "add_global": lambda severity: AddGlobal(10 * severity),
    "add_local": lambda severity: AddLocal(100 * severity),
}
"""Name of each corruption, in the paper's order, to what makes it of a severity."""


def corruption(name: str, severity: int) -> Transform:
    """One of the 35 corruptions.

    Args:
        name: one of `CORRUPTIONS`.
        severity: 1, the mildest, to 5.

    Raises:
        ValueError: there is no such corruption or severity.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"no corruption {name!r}; there are: {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be one of {', '.join(map(str, SEVERITIES))}, got {severity}")
    return CORRUPTIONS[name](severity)


def corrupted(dataset: CloudDataset, name: str, severity: int, *, seed: int = 0) -> CloudDataset:
    """A test set under one of the 35 corruptions.

    Each cloud is corrupted by chance, in a way that depends on (seed, epoch, index) alone: every model that is tested
    sees the same clouds.

    Args:
        dataset: under a transform that leaves its clouds in the unit sphere, as `Normalize` does.
        name, severity: see `corruption`.
        seed: of the corruption.

    Raises:
        ValueError: there is no such corruption or severity.
    """
    change = corruption(name, severity)
    before = () if dataset.transform is None else (dataset.transform,)
    return dataset.with_transform(Compose((*before, change)), seed=seed)
