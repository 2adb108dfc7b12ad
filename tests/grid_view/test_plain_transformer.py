import math

import pytest
import torch
from torch import nn

from pctransformer.grid_view.plain_transformer import PlainTransformer, PropagationConvolution, map_code
from pctransformer.layers.grid_mixers.global_attention import GlobalAttention
from pctransformer.layers.grid_mixers.window_attention import WindowAttention
from pctransformer.layers.recording import record_attention
from pctransformer.voxels import BevMap, Grid

GRID = Grid((0, -4, -3), (0.5, 0.5, 4), (1, 16, 20))
PROPAGATIONS = ["attention", "convolution"]


def backbone(propagation: str = "attention", **options) -> PlainTransformer:
    torch.manual_seed(0)
    sizes = {"patch": 2, "dim": 12, "depth": 8, "num_heads": 2, "window": 4, **options}
    return PlainTransformer(3, propagation=propagation, **sizes)


def bev(count: int = 2) -> BevMap:
    return BevMap(torch.randn(count, 3, 16, 20, generator=torch.Generator().manual_seed(1)), GRID)


def kinds(model: PlainTransformer) -> str:
    """A letter for each layer: window, global, convolution."""
    letters = {WindowAttention: "w", GlobalAttention: "g"}
    return "".join(
        "c" if isinstance(block, PropagationConvolution) else letters[type(block.parts[0].mixer)]
        for block in model.blocks
    )


@pytest.mark.parametrize(
    ("depth", "attention", "convolution"),
    [(4, "gggg", "wcwcwcwc"), (8, "wgwgwgwg", "wwcwwcwwcwwc"), (12, "wwgwwgwwgwwg", "wwwc" * 4)],
)
def test_four_layers_spread_at_even_distances(depth, attention, convolution):
    assert kinds(backbone("attention", depth=depth)) == attention
    assert kinds(backbone("convolution", depth=depth)) == convolution
    for block in backbone(depth=8).blocks:
        assert not getattr(block.parts[0].mixer, "shifted", False)


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_layers_one_after_another(propagation):
    """Patches through one linear layer, plus their code, through the layers, LayerNorm."""
    model = backbone(propagation).eval()
    out = model(bev())
    x = bev().features.unflatten(3, (10, 2)).unflatten(2, (8, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3)
    convolution = model.embedding.layers[0]
    x = x @ convolution.weight.flatten(1).T + convolution.bias + map_code(8, 10, 12)
    for block in model.blocks:
        x = block(x)
    torch.testing.assert_close(out.features.permute(0, 2, 3, 1), model.norm(x), rtol=1e-4, atol=1e-5)
    assert out.grid == model.out_grid(GRID) == Grid((0, -4, -3), (1, 1, 4), (1, 8, 10))


def test_propagation_convolution_is_the_equation():
    torch.manual_seed(0)
    block, x = PropagationConvolution(8), torch.randn(2, 5, 4, 8)
    first, _, _, middle, _, _, last, _ = block.layers
    gelu, norm = nn.functional.gelu, nn.functional.layer_norm
    y = gelu(norm(x @ first.weight.T, [4])).permute(0, 3, 1, 2)
    y = nn.functional.conv2d(y, middle.layers[0].weight, padding=1).permute(0, 2, 3, 1)
    y = norm(gelu(norm(y, [4])) @ last.weight.T, [8])
    torch.testing.assert_close(block(x), x + y, rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in block.parameters()) == 8 * 4 + 9 * 4 * 4 + 4 * 8 + 2 * (4 + 4 + 8)


def test_code_of_the_map():
    """By the published formula: row in the first half of the channels, column in the other."""
    code = map_code(3, 4, 8)
    assert code.shape == (3, 4, 8)
    for row, column in ((0, 0), (2, 1), (1, 3)):
        expected = [
            f(place / 10_000 ** (2 * i / 4)) for place in (row, column) for i in range(2) for f in (math.sin, math.cos)
        ]
        assert code[row, column].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_what_is_known_spreads_over_the_map(propagation):
    """One cell changes: windows alone keep it to themselves; what spreads carries it on, four times."""
    model, changed = backbone(propagation).eval(), bev().features.clone()
    changed[:, :, 0, 0] += 1

    def reached(model: nn.Module) -> int:
        difference = model(BevMap(changed, GRID)).features - model(bev()).features
        return int((difference.abs().amax((0, 1)) > 1e-6).sum())

    everywhere = reached(model)
    assert everywhere == 8 * 10 if propagation == "attention" else everywhere > 4 * 4
    del model.blocks[1 if propagation == "attention" else 2 :]
    assert kinds(model) in ("w", "ww")
    assert reached(model) == 4 * 4


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_every_weight_has_a_gradient_and_it_repeats(propagation, deterministic_algorithms):
    def gradients() -> list[torch.Tensor]:
        model = backbone(propagation, drop_path=0.1)
        model(bev(4)).features[:, ::2].square().sum().backward()
        return [parameter.grad for parameter in model.parameters()]

    assert all(gradient.abs().max() > 0 for gradient in gradients())
    assert all(map(torch.equal, gradients(), gradients()))


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_attention_can_be_looked_at(propagation):
    """Of every layer; rows are tokens of the map, and the result is the same."""
    model = backbone(propagation).eval()
    with record_attention(model) as maps:
        out = model(bev()).features
    torch.testing.assert_close(out, model(bev()).features, rtol=1e-4, atol=1e-5)
    assert [found.keys for found in maps] == ["children"] + ["tokens"] * 8  # patches of the map, then the layers
    for attention in maps[1:]:
        query, key, weight = attention.pairs()
        sums = torch.zeros(2 * 8 * 10).index_add(0, query, weight)
        torch.testing.assert_close(sums, torch.ones(2 * 8 * 10))
        assert torch.equal(query // 80, key // 80)


def test_global_attention_stores_no_scores():
    """What training keeps of 1600 tokens is far less than a number for each pair of them."""
    layer, x = GlobalAttention(dim=8, num_heads=2), torch.randn(1, 40, 40, 8)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        layer(x).sum()
    assert max(kept) <= 1600 * 16


def test_half_precision_is_close():
    model = backbone("convolution").eval()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(bev()).features
    torch.testing.assert_close(out.float(), model(bev()).features, rtol=0.1, atol=0.1)  # 8 bits, twelve layers


def test_drop_path_follows_a_straight_line():
    shares = [block.parts[0].residual.drop_path.share for block in backbone(drop_path=0.7).blocks]
    assert shares == pytest.approx([0.1 * i for i in range(8)])


def test_faults():
    with pytest.raises(ValueError, match="depth must be a multiple of 4"):
        backbone(depth=6)
    with pytest.raises(ValueError, match="dim must be a multiple of 4"):
        backbone(dim=10)
    with pytest.raises(ValueError, match='"attention" or "convolution"'):
        backbone("windows")
    with pytest.raises(ValueError, match="multiples of 3 cells"):
        backbone(patch=3)(bev())
