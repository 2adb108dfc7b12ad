"""Looking at scenes: in one tile as `look` does, from others nothing, and features of all tiles."""

import numpy as np
import pytest
import torch
from torch import nn

from pctransformer import PointBatch
from pctransformer.datasets.crops import column_rows
from pctransformer.evaluation.tiles import ShownScene
from pctransformer.visualization.looking import look
from pctransformer.visualization.looking_at_scenes import look_at_scene
from tests.models.small import small

CELL = 0.2


def scene(count=1200, extent=6.0, channels=0):
    xyz = np.random.default_rng(0).random((count, 3)) * [extent, extent, 2.5]
    features = np.random.default_rng(1).random((count, channels)).astype(np.float32) if channels else None
    return ShownScene.of(xyz, features, cell_size=CELL)


@pytest.fixture(scope="module")
def model():
    made = small("point_transformer_v3_seg").eval()
    return made, scene(channels=made.in_channels - 3)


@pytest.mark.parametrize("method", ["rollout", "layer", "gradient_attention", "grad_cam", "saliency"])
def test_one_tile_is_looked_at_as_a_cloud_is(model, method):
    model, whole = model
    found = look_at_scene(model, whole, tile_points=300, method=method, query=70, target=1)
    rows = column_rows(whole.xyz, 70, 300)
    own = rows.tolist().index(70)
    alone = look(model, whole.points(rows), method=method, query=own, target=1)
    assert len(found.maps) == len(alone.maps)
    outside = np.setdiff1d(np.arange(len(whole)), rows)
    for one, expected in zip(found.maps, alone.maps):
        np.testing.assert_array_equal(one.values[rows], expected.values)
        assert not one.values[outside].any()
        assert (one.query, one.layer, one.method) == (70, expected.layer, expected.method)
    np.testing.assert_array_equal(found.xyz, whole.xyz.astype(np.float32))


def test_a_scene_of_one_tile_is_looked_at_whole(model):
    model, whole = model
    (found,) = look_at_scene(model, whole, tile_points=len(whole), query=3).maps
    (expected,) = look(model, whole.points(np.arange(len(whole))), query=3).maps
    np.testing.assert_array_equal(found.values, expected.values)


class Heights(nn.Module):
    """A segmenter whose features are the height, its square and one."""

    num_categories = 0

    def __init__(self):
        super().__init__()
        self.head = Last()
        self.sizes = []

    def forward(self, points):
        points = PointBatch.of(points, 3)
        self.sizes.append(len(points.xyz))
        z = points.xyz[:, 2]
        return self.head(points.replace(features=torch.stack([z, z.square(), torch.ones_like(z)], 1)))


class Last(nn.Module):
    def forward(self, points):
        return points.features


@pytest.mark.parametrize("tile_points", [200, 5000])
def test_features_are_those_of_the_whole_scene(tile_points):
    """Every tile has the floor at its bottom, so that features are the same in each: height and its square."""
    xyz = np.random.default_rng(0).random((1500, 3)) * [6, 6, 2]
    xyz[::3, 2] = 0
    whole = ShownScene.of(xyz, cell_size=CELL)
    model = Heights()
    (components,) = look_at_scene(model, whole, tile_points=tile_points, method="features_pca").maps
    assert max(model.sizes) == min(tile_points, len(whole))
    assert components.is_color
    z = whole.xyz[:, 2]
    assert abs(np.corrcoef(components.values[:, 0], z**2)[0, 1]) > 0.95
    assert not components.values[:, 2].any()  # there are two directions
    (same,) = look_at_scene(model, whole, tile_points=tile_points, method="similarity", query=9).maps
    features = np.stack([z, z**2, np.ones_like(z)], 1)
    cosines = features @ features[9] / np.linalg.norm(features, axis=1) / np.linalg.norm(features[9])
    np.testing.assert_allclose(same.values, cosines, atol=1e-3)
    assert same.values[9] == pytest.approx(1, abs=1e-6)


def test_what_cannot_be_shown_is_explained(model):
    model, whole = model
    with pytest.raises(ValueError, match="says something of each place: look from one"):
        look_at_scene(model, whole, tile_points=300)
    with pytest.raises(ValueError, match=f"query must be the row of one of {len(whole)} points, got {len(whole)}"):
        look_at_scene(model, whole, tile_points=300, query=len(whole))
    with pytest.raises(ValueError, match="similarity is to the features at a point; give its row"):
        look_at_scene(model, whole, tile_points=300, method="similarity")
