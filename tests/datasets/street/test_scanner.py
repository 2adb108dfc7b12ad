"""The scanner's pulses: where they go, how far and how bright they come back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from pctransformer.datasets.street.scanner import COLUMNS, scan, sweep_rays


class Wall(NamedTuple):
    """A scene that meets every pulse at one distance, at one angle."""

    distance: float
    materials: np.ndarray
    cosine: float = 1.0
    material: np.ndarray = np.zeros(1, np.int64)
    owner: np.ndarray = np.array([7])

    def cast(self, rays):
        count = len(rays)
        return np.full(count, self.distance, np.float32), np.zeros(count, np.int64), np.full(count, self.cosine)


def scanned(distance, reflectance=0.5, gloss=0.0, lost=0.0, cosine=1.0, *, camera_view=False):
    wall = Wall(distance, np.array([[reflectance, gloss, lost]]), cosine)
    return scan(wall, torch.Generator().manual_seed(0), camera_view=camera_view)


def test_rays_are_those_of_kittis_scanner():
    rays = sweep_rays(np.zeros(64)).reshape(64, COLUMNS, 6)
    np.testing.assert_allclose(np.linalg.norm(rays[..., 3:], axis=-1), 1, atol=1e-6)
    elevation = np.rad2deg(np.arcsin(rays[:, 0, 5]))
    assert (np.diff(elevation) < 0).all()
    assert elevation[[0, 63]] == pytest.approx([1.937, -24.999], abs=1e-3)
    gaps = -np.diff(elevation)
    assert np.median(gaps[:31]) == pytest.approx(0.34, abs=0.02)  # two blocks of unequal spacing
    assert np.median(gaps[32:]) == pytest.approx(0.51, abs=0.03)
    assert (rays[:, 0, 2] == np.sort(rays[:, 0, 2])[::-1]).all()
    assert rays[[0, 32], 0, 2] == pytest.approx([0.209, 0.126])
    azimuth = np.unwrap(np.arctan2(rays[0, :, 4], rays[0, :, 3]).astype(np.float64))
    steps = np.rad2deg(np.diff(azimuth))
    assert np.median(steps) == pytest.approx(0.18, abs=0.001)
    assert (steps < 0.1).mean() == pytest.approx(1 / 7, abs=0.001)
    assert steps.sum() + 0.18 == pytest.approx(360, abs=0.02)


def test_a_phase_turns_one_laser():
    still, turned = sweep_rays(np.zeros(64)), sweep_rays(np.eye(64)[3] * 0.5)
    changed = (still != turned).any(axis=1).reshape(64, COLUMNS)
    assert changed[3].all()
    assert not np.delete(changed, 3, axis=0).any()


def test_range_has_noise_of_two_centimetres():
    points = scanned(20.0, 1.0).points[:COLUMNS, :3]  # of the topmost laser, of which nothing is lost
    start = sweep_rays(np.zeros(64))[0, :3]
    distance = np.linalg.norm(points.astype(np.float64) - start, axis=1)
    assert distance.mean() == pytest.approx(20, abs=0.003)
    assert distance.std() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(("far", "share"), [(5.0, 1.0), (40.0, 0.998), (79.0, 0.977)])
def test_bright_surfaces_come_back_from_afar(far, share):
    assert len(scanned(far, 0.8).points) / (64 * COLUMNS) == pytest.approx(share, abs=0.02)


def test_dark_and_grazing_surfaces_fade_sooner():
    far = 65.0
    bright, dark, grazing = (
        len(scanned(far, reflectance, cosine=cosine).points)
        for reflectance, cosine in ((0.8, 1), (0.1, 1), (0.1, 0.05))
    )
    assert bright > 1.2 * dark > 1.5 * grazing
    assert len(scanned(80.5, 1.0).points) == 0


def test_materials_swallow_their_share():
    assert len(scanned(10.0, lost=0.8).points) / (64 * COLUMNS) == pytest.approx(0.2, abs=0.01)
    mirroring = len(scanned(10.0, gloss=4.0, cosine=0.25).points) / (64 * COLUMNS)
    assert mirroring == pytest.approx(0.25 ** (4 / 14), abs=0.01)


def test_intensity_falls_with_incidence_as_the_material_says():
    assert np.median(scanned(10.0, 0.4).points[:, 3]) == pytest.approx(0.4, abs=0.01)
    assert np.median(scanned(10.0, 0.4, cosine=0.5).points[:, 3]) == pytest.approx(0.4, abs=0.01)
    assert np.median(scanned(10.0, 0.8, gloss=2.0, cosine=0.5).points[:, 3]) == pytest.approx(0.2, abs=0.01)
    values = scanned(10.0, 1.0).points[:, 3]
    assert values.max() == 1.0
    assert values.dtype == np.float32


def test_a_camera_view_is_a_part_of_the_sweep():
    whole, part = scanned(10.0, lost=0.3), scanned(10.0, lost=0.3, camera_view=True)
    assert set(map(bytes, part.points)) < set(map(bytes, whole.points))
    assert len(part.points) / len(whole.points) == pytest.approx(84 / 360, abs=0.01)
    assert (part.owner == 7).all()
