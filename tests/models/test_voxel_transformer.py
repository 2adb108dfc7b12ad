import pytest
import torch
from torch import nn

from pctransformer.grid_view.window_attention import WindowAttention, WindowBlock
from pctransformer.layers.recording import record_attention
from pctransformer.layers.sparse_convolution import SubmanifoldConv3d
from pctransformer.models import create_model
from pctransformer.points import PointBatch
from tests.models.small import small
from tests.models.test_detectors import boxes, scans, tensors


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def published(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **options)


def of_block(height: int, dim: int = 192, heads: int = 8, columns: int = 12) -> int:
    """Weights of a block, by hand."""
    taps = 27 if height > 1 else 9
    descriptor = taps * dim * dim + 2 * dim
    attention = 4 * dim * dim + 4 * dim + heads * (2 * height - 1) * (2 * columns - 1) ** 2
    return descriptor + attention + 2 * 2 * dim + 4 * dim * dim + 3 * dim


def test_published_sizes():
    """Of blocks and merges by hand; of the networks as their texts have them."""
    voxels, pillars = published("voxel_transformer"), published("pillar_transformer")
    assert (count(voxels), count(pillars)) == (14_657_384, 9_646_088)
    merges = sum(192 * 192 * step + 2 * 192 for step in (4, 4, 2))
    assert count(voxels.windows) == sum(2 * of_block(height) for height in (32, 8, 2, 1)) + merges + 2 * 192
    assert count(pillars.windows) == 8 * of_block(1) + 2 * 192
    assert count(voxels.voxels) == count(pillars.voxels) == 96 * 10 + 2 * 96 + 192 * 192 + 2 * 192
    small_windows = published("pillar_transformer_small").windows
    assert count(small_windows) == 4 * of_block(1, 64, 4) + 2 * 64


def test_the_configuration_of_dsvt_for_kitti():
    """Its voxels, windows, heights, channels and map: LION's second_with_DSVT_voxel.yaml."""
    model = published("voxel_transformer")
    assert model.grid.shape == (32, 400, 352)
    layers = [layer for layer in model.modules() if isinstance(layer, WindowAttention)]
    assert [layer.size for layer in layers] == [(height, 12, 12) for height in (32, 8, 2, 1) for _ in range(2)]
    assert [layer.shifted for layer in layers] == [False, True] * 4
    assert {(layer.num_heads, layer.proj.in_features) for layer in layers} == {(8, 192)}
    assert {block.mlp.fc1.out_features for block in model.modules() if isinstance(block, WindowBlock)} == {384}
    assert model.windows.out_grid(model.grid).shape == (1, 400, 352)
    assert model.backbone.out_grid(model.windows.out_grid(model.grid)).shape[1:] == (400, 352)
    pillars = published("pillar_transformer")
    assert pillars.grid.shape == (1, 400, 352)
    layers = [layer for layer in pillars.modules() if isinstance(layer, WindowAttention)]
    assert [(layer.size, layer.shifted) for layer in layers] == [((1, 12, 12), False), ((1, 12, 12), True)] * 4


@pytest.mark.parametrize("name", ["voxel_transformer", "pillar_transformer"])
def test_without_convolutions(name, deterministic_algorithms):
    model = small(name, convolution=False)
    assert not any(isinstance(layer, SubmanifoldConv3d) for layer in model.modules())
    model.loss(model(scans()), boxes())["loss"].backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


@pytest.mark.parametrize("name", ["voxel_transformer", "pillar_transformer"])
def test_recorded_it_says_the_same(name):
    model = small(name).eval()
    with record_attention(model) as maps:
        recorded = tensors(model(scans()))
    for ours, theirs in zip(recorded, tensors(model(scans()))):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    kinds = [found.keys for found in maps if found.layer.startswith("windows")]
    assert kinds == ((["tokens"] * 2 + ["children"]) * 3 + ["tokens"] * 2 if name[0] == "v" else ["tokens"] * 8)
    assert (maps[0].layer, maps[0].keys) == ("voxels", "children")


def test_windows_reach_across_their_borders():
    """A point changes the map beyond its window and the reach of convolutions, by way of the shifted windows."""
    model = small("pillar_transformer", point_range=(0, -4, -3, 60, 4, 1), convolution=False).eval()
    points = torch.zeros(60, 4)
    points[:, 0] = torch.arange(60) + 0.5
    moved = points.clone()
    moved[0, 3] = 5.0
    windows = model.windows.double()  # what comes from afar is faint

    def features(cloud: torch.Tensor) -> torch.Tensor:
        voxels = model.voxels(PointBatch.from_list([cloud]))
        return windows(voxels.replace(features=voxels.features.double())).features

    changed = (features(points) != features(moved)).any(1).nonzero()[:, 0]
    # windows 0-11, 12-23, ... and 0-5, 6-17, ... in turn: to 11, 17, 23, 29, 35, 41, 47, 53
    assert changed.tolist() == list(range(54))


def test_heights_must_fit():
    with pytest.raises(ValueError, match=r"cannot be joined by \(2, 1, 1\)"):
        small("voxel_transformer", voxel_size=(1, 1, 0.25))
