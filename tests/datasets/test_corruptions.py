"""What each corruption changes, by how much, and what it leaves as it was."""

import math

import pytest
import torch

from pctransformer.datasets import Sample
from pctransformer.datasets.corruptions import CORRUPTIONS, SEVERITIES, AddLocal, DropLocal, corruption
from pctransformer.datasets.samples import generator_for
from pctransformer.datasets.transforms import Normalize

ALL = [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]


def shell(n: int = 1024, radius: float = 1.0) -> Sample:
    """Points on a sphere round the origin, which are their own normals; a point's label is its row."""
    normals = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator_for(1)), dim=1)
    return Sample(radius * normals, normals=normals, point_labels=torch.arange(n), label=3, name="shell")


def corrupted(name: str, severity: int, sample: Sample | None = None, draw: int = 0) -> Sample:
    return corruption(name, severity)(shell() if sample is None else sample, generator_for(draw))


# ---- all of them -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "severity"), ALL)
def test_pure_repeatable_and_different_for_every_cloud(name, severity):
    sample = shell()
    before = [t.clone() for t in (sample.xyz, sample.normals, sample.point_labels)]
    first, again, other = (corrupted(name, severity, sample, draw) for draw in (0, 0, 1))
    assert torch.equal(first.points, again.points)
    assert first.points.shape != other.points.shape or not torch.equal(first.points, other.points)
    assert all(torch.equal(a, b) for a, b in zip(before, (sample.xyz, sample.normals, sample.point_labels)))
    assert first.points.dtype == torch.float32
    assert (first.label, first.name) == (3, "shell")
    torch.testing.assert_close(first.normals.norm(dim=1), torch.ones(len(first)))


@pytest.mark.parametrize(("name", "severity"), ALL)
def test_clouds_of_any_size(name, severity):
    for n in (0, 1, 2, 3, 10):
        out = corrupted(name, severity, shell(n))
        assert out.xyz.isfinite().all()
        assert (len(out) > 0) == (n > 0)


@pytest.mark.parametrize(("name", "severity"), ALL)
def test_normals_do_not_change_where_points_go(name, severity):
    sample = shell()
    bare = Sample(sample.xyz)
    assert torch.equal(corrupted(name, severity, sample).xyz, corrupted(name, severity, bare).xyz)


COUNTS = {
    "scale": [1024] * 5,
    "jitter": [1024] * 5,
    "rotate": [1024] * 5,
    "drop_global": [768, 640, 512, 384, 256],
    "drop_local": [924, 824, 724, 624, 524],
    "add_global": [1034, 1044, 1054, 1064, 1074],
    "add_local": [1124, 1224, 1324, 1424, 1524],
}
"""Points that are left of 1024, as the paper has it."""


def test_numbers_of_points_are_the_papers():
    assert list(CORRUPTIONS) == list(COUNTS)
    for name, counts in COUNTS.items():
        assert [len(corrupted(name, severity)) for severity in SEVERITIES] == counts
        halves = [len(corrupted(name, severity, shell(512))) for severity in SEVERITIES]
        assert halves == [count // 2 for count in counts]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_stays_keeps_its_order_its_normals_and_its_labels(name):
    sample = shell()
    out = corrupted(name, 5)
    known = out.point_labels >= 0
    rows = out.point_labels[known]
    assert (rows.diff() > 0).all()
    assert known[: len(rows)].all()  # what is added comes last, and is not labelled
    if name in ("scale", "jitter", "rotate"):
        assert torch.equal(rows, torch.arange(1024))
        assert not torch.equal(out.xyz, sample.xyz)
    else:
        assert torch.equal(out.xyz[known], sample.xyz[rows])
        assert torch.equal(out.normals[known], sample.normals[rows])


# ---- one by one ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("severity", "largest"), list(zip(SEVERITIES, (1.6, 1.7, 1.8, 1.9, 2.0))))
def test_scale_stretches_axes_apart_and_fills_the_unit_sphere(severity, largest):
    """Scaling is undone up to one factor by Normalize, so ratios of axes are what can be seen: at most s^2."""
    corners = Sample(torch.cat([torch.eye(3), -torch.eye(3)]))  # their mean is the origin: nothing is moved
    ratios = []
    for draw in range(300):
        out = corrupted("scale", severity, corners, draw).xyz
        assert (out[~torch.cat([torch.eye(3), torch.eye(3)]).bool()] == 0).all()  # no axis turns
        lengths = out.norm(dim=1)[:3]
        assert lengths.max().item() == pytest.approx(1)
        ratios.append((lengths.max() / lengths.min()).item())
    assert max(ratios) <= largest**2 * (1 + 1e-5)
    assert max(ratios) > 0.8 * largest**2
    stretch = corruption("scale", severity).transforms[0]
    assert (stretch.low, stretch.high) == pytest.approx((1 / largest, largest))


def test_jitter_is_normal_noise_that_grows():
    sample = shell(20_000)
    for severity in SEVERITIES:
        noise = (corrupted("jitter", severity, sample).xyz - sample.xyz) / (0.01 * severity)
        assert noise.mean().abs() < 0.02
        assert noise.std().item() == pytest.approx(1, abs=0.02)
        assert noise.abs().max() > 4  # of 60 000 values; not clipped


@pytest.mark.parametrize("severity", SEVERITIES)
def test_rotate_turns_by_up_to_its_angle_about_each_axis(severity):
    basis = Sample(torch.eye(3))
    limit = math.radians(6 * severity)
    angles = []
    for draw in range(300):
        matrix = corrupted("rotate", severity, basis, draw).xyz
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(3))
        assert matrix.det() > 0
        x = matrix.T  # of column vectors: turns about x, then y, then z
        angles.append([math.atan2(x[2, 1], x[2, 2]), -math.asin(x[2, 0]), math.atan2(x[1, 0], x[0, 0])])
    largest = torch.tensor(angles).abs().amax(0)
    assert (largest <= limit + 1e-5).all()
    assert (largest > 0.95 * limit).all()


def test_drop_global_takes_from_everywhere():
    kept = corrupted("drop_global", 5)
    octant = ((kept.xyz > 0) * torch.tensor([1, 2, 4])).sum(1).bincount(minlength=8)
    whole = ((shell().xyz > 0) * torch.tensor([1, 2, 4])).sum(1).bincount(minlength=8)
    assert ((octant / whole - 0.25).abs() < 0.15).all()  # one deviation is 0.04


def test_drop_local_cuts_round_holes():
    """One hole takes exactly the points that are nearest to one of them; several together do not."""
    sample = shell()
    distances = torch.cdist(sample.xyz, sample.xyz)
    round_holes = 0
    for draw in range(70):
        gone = torch.ones(1024, dtype=torch.bool)
        gone[DropLocal(200)(sample, generator_for(draw)).point_labels] = False
        assert gone.sum() == 200
        reach = distances[gone][:, gone].amax(1)  # of a hole about each lost point
        round_holes += bool((distances[gone][:, ~gone].amin(1) > reach).any())
    assert 3 <= round_holes <= 25  # a seventh has one hole, and two may touch


def test_add_global_fills_the_ball():
    """Half of its volume lies within the radius 0.5^(1/3), and directions have no preference."""
    sample = shell(50_000, radius=1.0)
    added = corrupted("add_global", 5, sample).xyz[50_000:]
    assert len(added) == round(50_000 * 50 / 1024)
    radius = added.norm(dim=1)
    assert radius.max() <= 1
    assert (radius < 0.5 ** (1 / 3)).float().mean().item() == pytest.approx(0.5, abs=0.04)  # one deviation is 0.01
    assert added.mean(0).abs().max() < 0.05


def test_add_local_scatters_about_points_of_the_cloud():
    """Of a cloud that is one place, all clusters are about it, with a deviation within the paper's bounds."""
    deviations = []
    for draw in range(40):
        added = corrupted("add_local", 5, Sample(torch.zeros(1024, 3)), draw).xyz[1024:]
        deviations.append(added.std().item())
    assert 0.07 < min(deviations) < 0.09
    assert 0.11 < max(deviations) < 0.13
    sample = Sample(torch.tensor([[0.9, 0, 0], [-0.9, 0, 0]]).repeat(512, 1))
    added = corrupted("add_local", 5, sample).xyz[1024:]
    assert (added.norm(dim=1) <= 1 + 1e-6).all()
    assert (added[:, 0].abs() > 0.4).all()


def test_what_is_added_outside_is_mirrored_into_the_sphere():
    place = Sample(torch.tensor([[4.0, 0, 0]]).repeat(1024, 1))
    added = AddLocal(100)(place, generator_for(0)).xyz[1024:]
    assert added[:, 0].median().item() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_more_severe_is_farther_from_the_clean_cloud(name):
    """Mean over clouds of the distance between what was and what is, counted both ways (Chamfer)."""
    sample = Normalize()(shell(256))

    def distance(severity: int) -> float:
        found = []
        for draw in range(40):
            apart = torch.cdist(sample.xyz, corrupted(name, severity, sample, draw).xyz)
            found.append((apart.amin(0).mean() + apart.amin(1).mean()).item())
        return sum(found) / len(found)

    distances = [distance(severity) for severity in SEVERITIES]
    assert distances[0] > 0
    assert distances == sorted(distances)


# ---- faults ----------------------------------------------------------------------------------------------------------
def test_faults_are_explained():
    with pytest.raises(ValueError, match="no corruption 'melt'; there are: scale, jitter, rotate, drop_global"):
        corruption("melt", 1)
    for severity in (0, 6):
        with pytest.raises(ValueError, match=f"severity must be one of 1, 2, 3, 4, 5, got {severity}"):
            corruption("scale", severity)
    with pytest.raises(ValueError, match=r"shell, which has features, .* OnlyCoordinates"):
        corrupted("add_global", 1, Sample(torch.zeros(1024, 3), features=torch.zeros(1024, 1), name="shell"))
