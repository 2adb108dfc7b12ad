import dataclasses
import math

import numpy as np
import pytest
import torch

from pctransformer.datasets import transforms
from pctransformer.datasets.samples import Sample, generator_for


def sphere(n: int = 200) -> Sample:
    """Points on a unit sphere, which are their own normals; feature and label of a point tell its row."""
    xyz = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator_for(1)), dim=1)
    return Sample(xyz, normals=xyz.clone(), features=torch.arange(n)[:, None].float(), point_labels=torch.arange(n))


ALL = [
    transforms.Normalize(),
    transforms.RandomScale(),
    transforms.RandomAnisotropicScale(),
    transforms.RandomShift(),
    transforms.RandomTurn("x"),
    transforms.RandomRotation(),
    transforms.Jitter(),
    transforms.PointDropout(),
    transforms.Shuffle(),
    transforms.RandomSubset(150),
    transforms.RandomSubset(300),
    transforms.FirstPoints(100),
    transforms.EvenSubset(100),
    *(recipe() for recipe in transforms.RECIPES.values()),
]


@pytest.mark.parametrize("transform", ALL, ids=str)
def test_pure_and_repeatable(transform):
    sample = sphere()
    before = [t.clone() for t in (sample.xyz, sample.normals, sample.features, sample.point_labels)]
    first, again = (transform(sample, generator_for(5)) for _ in range(2))
    assert torch.equal(first.points, again.points)
    assert all(
        torch.equal(a, b) for a, b in zip(before, [sample.xyz, sample.normals, sample.features, sample.point_labels])
    )
    assert first.points.dtype == torch.float32
    assert len(first.normals) == len(first.features) == len(first.point_labels) == len(first)
    assert torch.equal(first.features[:, 0].long(), first.point_labels)  # rows stay together


@pytest.mark.parametrize("transform", ALL[:-4], ids=str)
@pytest.mark.parametrize("n", [0, 1])
def test_empty_and_one_point(transform, n):
    out = transform(sphere(n), generator_for(0))
    assert out.xyz.isfinite().all()
    if not isinstance(transform, transforms.RandomSubset):
        assert len(out) == n


def test_normalize_by_hand():
    sample = Sample(torch.tensor([[1e5 + 1, 0, 0], [1e5 + 3, 0, 0], [1e5 + 2, 4, 0], [1e5 + 2, -4, 0]]))
    assert transforms.Normalize()(sample).xyz.tolist() == [[-0.25, 0, 0], [0.25, 0, 0], [0, 1, 0], [0, -1, 0]]
    assert transforms.Normalize()(Sample(torch.ones(3, 3))).xyz.tolist() == [[0, 0, 0]] * 3


def test_scale_and_shift_stay_in_range():
    sample = Sample(torch.ones(1, 3))
    scales = torch.stack([transforms.RandomScale(0.5, 2)(sample, generator_for(i)).xyz[0] for i in range(300)])
    assert (scales == scales[:, :1]).all()
    assert 0.5 <= scales.min() < 0.55
    assert 1.9 < scales.max() <= 2
    stretches = torch.stack(
        [transforms.RandomAnisotropicScale(0.5, 2)(sample, generator_for(i)).xyz[0] for i in range(300)]
    )
    assert (stretches[:, 0] != stretches[:, 1]).all()
    assert stretches.min() >= 0.5
    assert stretches.max() <= 2
    shifts = torch.stack([transforms.RandomShift(0.2)(sample, generator_for(i)).xyz[0] - 1 for i in range(300)])
    assert -0.2001 <= shifts.min() < -0.19
    assert 0.19 < shifts.max() <= 0.2001


def test_normals_stay_upright_under_a_stretch():
    """A sphere becomes the ellipsoid sum (x / s)^2 = 1, whose normal is along x / s^2."""
    before = sphere()
    after = transforms.RandomAnisotropicScale(0.5, 2)(before, generator_for(0))
    scale = (after.xyz / before.xyz).median(0).values
    expected = torch.nn.functional.normalize(after.xyz / scale**2, dim=1)
    torch.testing.assert_close(after.normals, expected)


@pytest.mark.parametrize("transform", [transforms.RandomTurn(axis) for axis in "xyz"] + [transforms.RandomRotation()])
def test_rotations_keep_lengths_angles_and_hands(transform):
    basis = Sample(torch.eye(3), normals=torch.eye(3))
    out = transform(basis, generator_for(3))
    torch.testing.assert_close(out.xyz @ out.xyz.T, torch.eye(3))
    assert out.xyz.det() > 0
    torch.testing.assert_close(out.normals, out.xyz)
    if isinstance(transform, transforms.RandomTurn):
        i = "xyz".index(transform.axis)
        assert out.xyz[i].tolist() == basis.xyz[i].tolist()


def test_turn_goes_counter_clockwise():
    generator, again = generator_for(3), generator_for(3)
    angle = -1 + 2 * torch.rand(1, generator=again).item()
    out = transforms.RandomTurn("z", 1.0)(Sample(torch.tensor([[1.0, 0, 0]])), generator)
    np.testing.assert_allclose(out.xyz[0], [math.cos(angle), math.sin(angle), 0], atol=1e-6)


def test_rotation_is_uniform():
    images = torch.stack([transforms.RandomRotation()(Sample(torch.eye(3)), generator_for(i)).xyz for i in range(2000)])
    assert images.mean(0).abs().max() < 0.06  # 0.013 is one deviation
    assert (images.square().mean(0) - 1 / 3).abs().max() < 0.03


def test_jitter_is_clipped():
    moved = transforms.Jitter(0.1, 0.15)(Sample(torch.zeros(5000, 3)), generator_for(0)).xyz
    assert moved.abs().max() == pytest.approx(0.15)
    assert 0.07 < moved.std() < 0.1


def test_dropout_repeats_the_first_point():
    sample = sphere()
    shares = []
    for i in range(200):
        rows = transforms.PointDropout(0.8)(sample, generator_for(i)).point_labels
        assert ((rows == torch.arange(200)) | (rows == 0)).all()
        shares.append((rows[1:] == 0).float().mean().item())
    assert max(shares) <= 0.9
    assert 0.35 < np.mean(shares) < 0.45


def test_shuffle_and_subset_draw_without_repetition():
    sample = sphere()
    rows = transforms.Shuffle()(sample, generator_for(0)).point_labels
    assert sorted(rows.tolist()) == list(range(200)) != rows.tolist()
    rows = transforms.RandomSubset(150)(sample, generator_for(0)).point_labels
    assert len(set(rows.tolist())) == len(rows) == 150
    rows = transforms.RandomSubset(250)(sample, generator_for(0)).point_labels
    assert len(rows) == 250
    assert set(rows.tolist()) == set(range(200))


def test_frozen_and_checked():
    with pytest.raises(dataclasses.FrozenInstanceError):
        transforms.RandomScale().low = 3  # type: ignore[misc]
    for wrong in [(0, 1), (2, 1), (1, math.inf), (math.nan, 1)]:
        with pytest.raises(ValueError, match="0 < low <= high"):
            transforms.RandomScale(*wrong)


def test_even_subset_covers_the_whole_order():
    sample = Sample(torch.arange(30.0).view(10, 3))
    assert transforms.EvenSubset(4)(sample).xyz[:, 0].tolist() == [0, 6, 15, 21]
    assert transforms.EvenSubset(10)(sample).xyz.shape == (10, 3)
    assert transforms.EvenSubset(11)(sample) is sample


def test_only_coordinates():
    sample = Sample(torch.rand(4, 3), normals=torch.rand(4, 3), features=torch.rand(4, 2))
    assert transforms.OnlyCoordinates()(sample).points.shape == (4, 3)
    assert transforms.OnlyCoordinates(normals=True)(sample).points.shape == (4, 6)
    with pytest.raises(ValueError, match="normals are asked for, but cup has none"):
        transforms.OnlyCoordinates(normals=True)(Sample(torch.rand(4, 3), name="cup"))
