"""The voxel transformer for shapes: its stages, what becomes of points outside of the grid, what it looks at."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from pctransformer.grid_view.window_attention import WindowAttention, WindowBlock
from pctransformer.layers.recording import record_attention
from pctransformer.layers.sparse_convolution import SubmanifoldConv3d
from pctransformer.models import create_model
from pctransformer.visualization.rollout import attention_rollout
from pctransformer.visualization.sources import pooled_vector
from tests.models.small import shapes, small


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def of_block(dim: int, convolution: bool) -> int:
    """Weights of a block with windows of 7, by hand."""
    descriptor = 27 * dim * dim + 2 * dim if convolution else 0
    attention = 4 * dim * dim + 4 * dim + dim // 16 * 13**3
    return descriptor + attention + 2 * 2 * dim + 4 * dim * dim + 3 * dim


def test_sizes_by_hand():
    with torch.device("meta"):
        full, light = create_model("voxel_transformer_cls"), create_model("voxel_transformer_small_cls")
    assert (count(full), count(light)) == (12_327_106, 823_889)
    for model, dims, depths in (
        (full, (48, 96, 192, 384), (2, 2, 6, 2)),
        (light, (16, 32, 64, 128), (1, 2, 2, 2)),
    ):
        blocks = sum(depth * of_block(dim, dim != dims[-1]) for dim, depth in zip(dims, depths))
        merges = sum(8 * before * after + 2 * after for before, after in pairwise(dims))
        assert count(model.windows) == blocks + merges + 2 * dims[-1]
        wide, dim = dims[0], dims[-1]
        assert count(model.voxels) == wide // 2 * 9 + wide + wide * wide + 2 * wide
        assert count(model.head) == 2 * dim * dim + dim + dim * 40 + 40


def test_the_stages_of_swin_t():
    """Its maps of 56, 28, 14 and 7, windows of 7, depths and heads; regular and shifted windows in turn."""
    with torch.device("meta"):
        model = create_model("voxel_transformer_cls")
    grid, sides = model.voxels.grid, []
    for stage in range(4):
        sides.append(grid.shape)
        grid = model.windows.merges[stage].out_grid(grid) if stage < 3 else grid
    assert sides == [(side,) * 3 for side in (56, 28, 14, 7)]
    layers = [layer for layer in model.modules() if isinstance(layer, WindowAttention)]
    assert {layer.size for layer in layers} == {(7, 7, 7)}
    assert [layer.num_heads for layer in layers] == [3] * 2 + [6] * 2 + [12] * 6 + [24] * 2
    assert [layer.shifted for layer in layers] == [False, True] * 6


def test_convolutions_are_where_windows_have_borders():
    blocks = [block for block in small("voxel_transformer_small_cls").modules() if isinstance(block, WindowBlock)]
    assert [block.descriptor is not None for block in blocks] == [True] * 5 + [False] * 2
    without = small("voxel_transformer_small_cls", convolution=False)
    assert not any(isinstance(layer, SubmanifoldConv3d) for layer in without.modules())
    without(shapes(without)).square().sum().backward()
    assert [name for name, parameter in without.named_parameters() if not parameter.grad.any()] == []


@pytest.mark.parametrize("name", ["voxel_transformer_cls", "voxel_transformer_small_cls"])
def test_points_outside_of_the_grid_are_left_out(name):
    """What stretching and moving make of the unit sphere is inside; a shape in other units is nothing."""
    model = small(name).eval()
    cloud = torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    moved = 1.5 * cloud + 0.2
    assert model.voxels.grid.cells(moved)[1].all()
    far = torch.tensor([[1.76, 0, 0], [0, -1.76, 0], [0, 0, 40.0]])
    torch.testing.assert_close(model([torch.cat([cloud, far])]), model([cloud]))
    inside = torch.tensor([[1.74, 0, 0]])
    assert not torch.allclose(model([torch.cat([cloud, inside])]), model([cloud]))
    assert torch.equal(model([1000 + cloud]), model([torch.zeros(0, 3)]))
    assert model.forward_features([1000 + cloud]).xyz.shape == (0, 3)


def test_tokens_are_where_their_points_are():
    """At the middle of the cells of the last stage."""
    model = small("voxel_transformer_small_cls").eval()
    tokens = model.forward_features([torch.tensor([[0.1, -0.2, 0.9], [0.11, -0.2, 0.9], [-1.7, 0.3, 0]])])
    assert tokens.xyz.tolist() == [[-1.5, 0.5, 0], [0, 0, 1]]


def test_recorded_it_says_the_same_and_leads_down_to_the_points():
    model = small("voxel_transformer_small_cls").eval()
    cloud = torch.rand(300, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    cloud[7] = 9.0  # outside
    with torch.no_grad(), record_attention(model) as maps:
        recorded = model([cloud])
    torch.testing.assert_close(recorded, model([cloud]).detach(), rtol=1e-4, atol=1e-5)
    stages = [["tokens"], ["tokens"] * 2, ["tokens"] * 2, ["tokens"] * 2]
    kinds = [kind for stage in stages for kind in ("children", *stage)]
    assert [found.keys for found in maps] == [*kinds, "children"]
    assert (maps[0].layer, maps[-1].layer) == ("voxels", "head")
    weights = attention_rollout(maps, pooled_vector(maps), 300)
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)
    assert weights[7] == 0
    assert (weights > 0).sum() > 200


def test_it_tells_spheres_from_boxes():
    """From other samples of them than it learned from, in evaluation too: by running statistics."""
    generator = torch.Generator().manual_seed(0)

    def clouds(each: int) -> tuple[torch.Tensor, torch.Tensor]:
        points = torch.randn(2 * each, 128, 3, generator=generator)
        spheres = torch.nn.functional.normalize(points[:each], dim=2)
        boxes = points[each:] / points[each:].abs().amax(2, keepdim=True) / 3**0.5
        return torch.cat([spheres, boxes]), torch.arange(2).repeat_interleave(each)

    model = small("voxel_transformer_cls", num_classes=2)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(20):
        points, labels = clouds(4)
        loss = nn.functional.cross_entropy(model(points), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    points, labels = clouds(10)
    with torch.no_grad():
        assert (model.eval()(points).argmax(1) == labels).float().mean() >= 0.9


def test_what_is_refused():
    with pytest.raises(ValueError, match="multiples of 16, one for each of the depths"):
        small("voxel_transformer_cls", dims=(16, 20))
    with pytest.raises(ValueError, match="multiples of 16, one for each of the depths"):
        small("voxel_transformer_cls", dims=(16, 32, 48))
    with pytest.raises(ValueError, match=r"cannot be joined by \(2, 2, 2\)"):
        small("voxel_transformer_small_cls", voxel_size=0.07)
    with pytest.raises(ValueError, match="whole number of them"):
        small("voxel_transformer_small_cls", extent=1.8, voxel_size=0.07)
