import numpy as np
import pytest
import torch

from pctransformer.datasets.depth_camera import take_depth_images
from pctransformer.datasets.shape_classes.solids import box

EYE = np.array([[0.0, 0.0, 1.5]])


def test_what_lies_behind_is_not_seen_and_neither_is_what_looks_away():
    """Two panels one behind the other, the near one smaller; the far one is seen around it."""
    near, far = box((2, 0, 1.5), (0.02, 1, 1)), box((4, 0, 1.5), (0.02, 4, 2))
    found = take_depth_images(np.concatenate([near, far]), EYE, 20_000, noise=0)
    is_near = found.triangle < 12
    assert is_near.sum() > 1000
    assert (~is_near).sum() > 1000
    y, z = found.xyz[~is_near, 1], found.xyz[~is_near, 2] - 1.5
    shadow = (np.abs(y) < 0.9) & (np.abs(z) < 0.9)  # twice as large at twice the distance, less a pixel
    assert shadow.mean() < 0.005
    front = found.normals[:, 0] < -0.5
    assert front.mean() > 0.97  # the rest are edges
    assert found.xyz[is_near & front, 0] == pytest.approx(1.99)


def test_near_surfaces_get_more_points():
    """Under equal slant, at 1.5 and 3 metres: four times as many per square metre, less what is fused."""
    left, right = box((1.5, 0.8, 1.5), (0.02, 0.6, 0.6)), box((3, -1.6, 1.5), (0.02, 0.6, 0.6))
    found = take_depth_images(np.concatenate([left, right]), EYE, 1500)
    counts = np.bincount(found.triangle // 12, minlength=2)
    assert counts.sum() == 1500
    assert 1.5 < counts[0] / counts[1] < 4.2


def test_noise_is_along_the_ray_and_grows_with_distance():
    """0.0012 + 0.0019 (d - 0.4)^2 metres at distance d, for a single frame."""
    for distance in (1.0, 3.0):
        panel = box((distance + 0.01, 0, 1.5), (0.02, 0.2, 0.2))
        found = take_depth_images(panel, EYE, 4000, noise=1)
        flat = found.normals[:, 0] < -0.5
        off = found.xyz[flat, 0] - distance
        assert off.std() == pytest.approx(0.0012 + 0.0019 * (distance - 0.4) ** 2, rel=0.06)
        assert abs(off.mean()) < 0.001


def test_the_generator_decides():
    panel = box((2, 0, 1.5), (0.02, 1, 1))
    first, again = (take_depth_images(panel, EYE, 100, torch.Generator().manual_seed(4)).xyz for _ in range(2))
    other = take_depth_images(panel, EYE, 100, torch.Generator().manual_seed(5)).xyz
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_nothing_to_see_and_nowhere_to_look_from():
    assert len(take_depth_images(box((2, 0, 1.5), (0.1, 1, 1)), [[2, 0, 1.5]], 100).xyz) == 0  # from inside a solid
    with pytest.raises(ValueError, match="at least one viewpoint"):
        take_depth_images(box((2, 0, 1.5), (0.1, 1, 1)), np.empty((0, 3)), 100)
