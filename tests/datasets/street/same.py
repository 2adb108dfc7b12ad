"""Whether two frames are the same, wherever their points are."""

from __future__ import annotations

import numpy as np

from pctransformer.datasets.kitti import KittiFrame

_COLUMNS = ("types", "truncated", "occluded", "alpha", "boxes_2d", "dimensions", "locations", "rotation_y")


def assert_same(one: KittiFrame, other: KittiFrame) -> None:
    assert (one.name, one.image_size) == (other.name, other.image_size)
    np.testing.assert_array_equal(one.read_points(), other.read_points())
    np.testing.assert_array_equal(one.boxes, other.boxes)
    for column in _COLUMNS:
        np.testing.assert_array_equal(getattr(one.labels, column), getattr(other.labels, column))
    assert (one.plane is None) == (other.plane is None)
    if one.plane is not None and other.plane is not None:  # files have planes of the camera, which turns them
        np.testing.assert_allclose(one.plane, other.plane, rtol=0, atol=1e-12)
