import pytest
import torch
from torch import nn

from pctransformer.grid_view.mixer_pyramid import MixerPyramid, MixerStages, PatchMerging, mixer_stages
from pctransformer.layers.grid_mixers import grid_mixer_info, list_grid_mixers
from pctransformer.layers.grid_mixers.grid_mixer import GridMixer
from pctransformer.voxels import BevMap, Grid

GRID = Grid((0, -4, -3), (0.5, 0.5, 4), (1, 16, 24))
OPTIONS = {"window_attention": {"window": 4}, "axial_shift": {"reach": 1}}


def stages(mixer: str = "smlp", **options) -> MixerStages:
    torch.manual_seed(0)
    made = {"patch": 2, "dims": (8, 12, 16), "depths": (2, 1, 1), "mixer_options": OPTIONS.get(mixer, {}), **options}
    return mixer_stages(3, (16, 24), mixer=mixer, **made)


def pyramid(mixer: str = "smlp", **options) -> MixerPyramid:
    return MixerPyramid(stages(mixer, **options), dims=(8, 12, 16), patch=2, width=5)


def bev(count: int = 2) -> BevMap:
    return BevMap(torch.randn(count, 3, 16, 24, generator=torch.Generator().manual_seed(1)), GRID)


@pytest.mark.parametrize("mixer", list_grid_mixers())
def test_any_mixer(mixer, deterministic_algorithms):
    """Sizes of the maps, a gradient for every weight, the same again; a map alone is as in its batch."""
    # two heads in the narrowest stage
    options = {} if mixer != "cross_shaped_windows" else {"mixer_options": {"num_heads": 2}}

    def gradients() -> list[torch.Tensor]:
        model = pyramid(mixer, **options)
        model(bev()).features.square().sum().backward()
        return [parameter.grad for parameter in model.parameters()]

    assert all(gradient.abs().max() > 0 for gradient in gradients())
    assert all(map(torch.equal, gradients(), gradients()))
    model = pyramid(mixer, **options).eval()
    maps = model.stages(bev().features.permute(0, 2, 3, 1))
    assert [tuple(x.shape) for x in maps] == [(2, 8, 12, 8), (2, 4, 6, 12), (2, 2, 3, 16)]
    out = model(bev())
    assert out.features.shape == (2, model.out_channels, 8, 12)
    alone = model(BevMap(bev().features[1:], GRID)).features
    torch.testing.assert_close(alone[0], out.features[1], rtol=1e-4, atol=1e-5)
    mixers = [layer for layer in model.modules() if isinstance(layer, GridMixer)]
    assert {type(layer).__name__ for layer in mixers} == {grid_mixer_info(mixer).layer}
    assert [layer.dim for layer in mixers] == [8, 8, 12, 16]


def test_stages_one_after_another():
    """Every stage works on what the one before merged; the neck sees all of them."""
    model, x = stages().eval(), bev().features.permute(0, 2, 3, 1)
    y = nn.functional.conv2d(bev().features, model.stem.layers[0].weight, stride=2).permute(0, 2, 3, 1)
    for i, out in enumerate(model(x)):
        if i:
            weight = model.merges[i - 1].layers[0].weight
            y = nn.functional.conv2d(y.permute(0, 3, 1, 2), weight, stride=2).permute(0, 2, 3, 1)
        for block in model.stages[i]:
            y = block(y)
        torch.testing.assert_close(out, y)


def test_options_of_each_stage():
    model = stages(mixer_options=[{"scope": "local"}, {}, {"fusion": "sum"}])
    mixers = [layer for layer in model.modules() if isinstance(layer, GridMixer)]
    assert [layer.sparse for layer in mixers] == [False, False, True, True]
    assert [mixers[2].fuse is None, mixers[3].fuse is None] == [False, True]


def test_drop_path_grows_and_windows_shift_stage_by_stage():
    model = stages("window_attention", depths=(2, 1, 2), drop_path=0.4)
    blocks = [block for stage in model.stages for block in stage]
    assert [block.parts[0].residual.drop_path.share for block in blocks] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert [block.parts[0].mixer.shifted for block in blocks] == [False, True, False, False, True]


def test_patch_merging():
    """Four cells side by side, column after column, LayerNorm, one linear layer."""
    torch.manual_seed(0)
    merge, x = PatchMerging(3, 5), torch.randn(2, 4, 6, 3)
    nn.init.normal_(merge.norm.weight)
    out = merge(x)
    for i, j in ((0, 0), (1, 2)):
        cells = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].transpose(1, 2).flatten(1)
        torch.testing.assert_close(out[:, i, j], merge.norm(cells) @ merge.reduction.weight.T)
    assert sum(p.numel() for p in merge.parameters()) == 2 * 12 + 12 * 5


def test_a_cell_is_where_its_grid_says():
    model = pyramid()
    grid = model.out_grid(GRID)
    assert grid == model(bev()).grid == Grid((0, -4, -3), (1, 1, 4), (1, 8, 12))
    # what the stem sees of one input cell is the patch that holds it
    x = torch.zeros(1, 16, 24, 3)
    x[0, 7, 5] = 1
    [[_, row, column]] = model.stages.stem(x).abs().sum(3).nonzero().tolist()
    low = grid.low[1] + row * 1.0
    assert low <= GRID.centers(torch.tensor([[0, 7, 5]]))[0, 1] <= low + 1
    assert (row, column) == (3, 2)


def test_half_precision_is_close():
    model = pyramid().eval()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(bev()).features
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), model(bev()).features, rtol=0.1, atol=0.05)  # 8 bits, a dozen layers


def test_faults():
    with pytest.raises(ValueError, match=r"multiples of 8 cells, got \(16, 20\)"):
        mixer_stages(3, (16, 20), patch=2, dims=(8, 8, 8), depths=(1, 1, 1))
    with pytest.raises(ValueError, match="one for each stage, got 3, 2 and 3"):
        stages(depths=(1, 1))
    with pytest.raises(ValueError, match="one for each stage, got 3, 3 and 1"):
        stages(mixer_options=[{}])
    with pytest.raises(ValueError, match='"convolution" or "linear"'):
        stages(merging="pool")
    with pytest.raises(ValueError, match="3 stages have 2 merges"):
        MixerStages(nn.Identity(), [[], [], []], [nn.Identity()])
    with pytest.raises(ValueError, match="multiples of 8 cells"):
        pyramid().out_grid(Grid((0, 0, 0), (1, 1, 1), (1, 16, 20)))
