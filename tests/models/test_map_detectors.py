"""Detectors of transformers and mixers on the map: sizes, and what their options choose."""

import pytest
import torch

from pctransformer.grid_view.plain_transformer import PropagationConvolution
from pctransformer.layers.grid_mixers import list_grid_mixers
from pctransformer.layers.grid_mixers.sparse_mlp import SparseMLP
from pctransformer.models import create_model
from pctransformer.voxels import Grid
from tests.models.small import small
from tests.models.test_detectors import boxes, scans


def parameters(name: str, **options) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in create_model(name, **options).parameters())


def test_plain_transformer_size():
    """Part by part: pillars, patches, layers with tables of windows, norm, pyramid, neck, anchor head."""
    dim, pillars = 192, 10 * 64 + 2 * 64
    attention, mlp = 4 * dim**2 + 4 * dim, 8 * dim**2 + 5 * dim
    layers = 12 * (attention + mlp + 4 * dim) + 8 * 3 * 27**2
    out = 128 * 128 * 9 + 4 * 128
    pyramid = (dim * dim // 2 * 4 + dim // 2 + dim // 2 * 128 + out) + 2 * (dim * 128 + out)
    neck = 128 * 128 * (1 + 4 + 16) + 3 * 2 * 128
    head = (3 * 128 + 1) * (6 * 3 + 6 * 7 + 6 * 2)
    expected = pillars + 16 * 64 * dim + dim + layers + 2 * dim + pyramid + neck + head
    assert parameters("plain_transformer") == expected == 6_505_536


def test_convolutions_in_place_of_attention():
    convolution = 192 * 96 * 2 + 96 * 96 * 9 + 2 * (96 + 96 + 192)
    windows = 4 * 3 * 27**2
    assert parameters("plain_transformer", propagation="convolution") == 6_505_536 + 4 * convolution + windows


@pytest.mark.parametrize("propagation", ["attention", "convolution"])
def test_propagation_is_an_option(propagation):
    model = small("plain_transformer_small", propagation=propagation)
    found = sum(isinstance(module, PropagationConvolution) for module in model.modules())
    assert found == (4 if propagation == "convolution" else 0)
    assert model.loss(model(scans()), boxes())["loss"].isfinite()


@pytest.mark.parametrize("mixer", list_grid_mixers())
def test_any_mixer(mixer):
    """Trains a step; on the map of the small range, stages are 8, 4 and 2 cells wide."""
    model = small("smlp_detector_small", mixer=mixer)
    model.loss(model(scans()), boxes())["loss"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_stages_without_smlp():
    model = small("smlp_detector_small", mixer_options=[{"scope": "local"}, {}, {"fusion": "sum"}])
    mixers = [module for module in model.modules() if isinstance(module, SparseMLP)]
    assert [mixer.sparse for mixer in mixers] == [False, False, True, True, True, True]
    assert [mixer.fuse is None for mixer in mixers[2:]] == [False, False, True, True]


@pytest.mark.parametrize(
    ("name", "cell", "shape"),
    [
        ("plain_transformer", 0.32, (1, 248, 216)),
        ("plain_transformer_small", 0.64, (1, 80, 80)),
        ("smlp_detector", 0.32, (1, 248, 216)),
        ("smlp_detector_small", 0.64, (1, 80, 80)),
    ],
)
def test_maps_that_heads_see(name, cell, shape):
    """Cells of two pillars, from the corner of the range on; on the meta device nothing is computed."""
    with torch.device("meta"):
        model = create_model(name)
    if name.startswith("plain"):
        tokens = model.backbone.out_grid(model.grid)
        assert tokens.shape == (1, shape[1] // 2, shape[2] // 2)
        assert tokens.voxel_size[0] == pytest.approx(2 * cell)
    else:
        grid = model.backbone.out_grid(model.grid)
        assert grid.shape == shape
        assert grid.voxel_size[:2] == pytest.approx((cell, cell))
        assert grid.low == model.grid.low


def test_the_pyramid_of_the_plain_transformer_is_on_its_grid():
    model = small("plain_transformer_small").eval()
    bev = model.forward_features(scans())
    assert bev.grid == Grid((0, -4, -3), (1, 1, 4), (1, 8, 8))
    assert bev.features.shape == (4, 3 * 64, 8, 8)


def test_maps_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="multiples of 8 cells"):
        small("plain_transformer_small", point_range=(0, -4, -3, 6, 4, 1))
    with pytest.raises(ValueError, match="multiples of 8 cells"):
        small("smlp_detector_small", point_range=(0, -4, -3, 6, 4, 1))
