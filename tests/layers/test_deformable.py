import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pctransformer.layers.attention import MultiHeadAttention
from pctransformer.layers.deformable import (
    DeformableDecoder,
    DeformableDecoderLayer,
    DeformableEncoder,
    DeformableEncoderLayer,
    MapLevels,
    MultiScaleDeformableAttention,
)
from pctransformer.layers.mlp import MLP
from pctransformer.layers.position import FourierPosition, RotaryPosition
from pctransformer.layers.recording import record_attention
from pctransformer.layers.residual import Residual
from pctransformer.voxels import BevMap, Grid

GRIDS = Grid((-2, -3, -1), (0.5, 1, 2), (1, 6, 8)), Grid((-2.25, -3, -1), (1, 2, 2), (1, 3, 4))
"""8 x 6 cells on 4 x 6 m, and a coarser one that begins half a cell further left."""
CELLS = 6 * 8 + 3 * 4


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def levels(clouds=2, dim=8):
    return MapLevels.from_maps([BevMap(torch.randn(clouds, dim, *grid.shape[1:]), grid) for grid in GRIDS])


def attention(dim=8, heads=4, points=3, trained=True):
    layer = MultiScaleDeformableAttention(dim, heads, num_levels=2, num_points=points)
    if trained:
        for linear in (layer.offsets, layer.weights):
            nn.init.normal_(linear.weight, std=0.5)
    return layer


def residual():
    return Residual(nn.LayerNorm(8))


def encoder(depth=2, trained=True):
    layers = (DeformableEncoderLayer(attention(trained=trained), MLP(8, 16), residual) for _ in range(depth))
    return DeformableEncoder(layers, 8, position=FourierPosition(8, frequency=0.1), norm=nn.LayerNorm(8))


def decoder(depth=2):
    def layer():
        itself = MultiHeadAttention(8, 1, rotary=RotaryPosition(8, unit=1.0))
        return DeformableDecoderLayer(itself, attention(), MLP(8, 16), residual)

    return DeformableDecoder(layer() for _ in range(depth))


# ---- maps ------------------------------------------------------------------------------------------------------------
def test_levels_are_maps_side_by_side():
    maps = [BevMap(torch.randn(2, 5, *grid.shape[1:]), grid) for grid in GRIDS]
    packed = MapLevels.from_maps(maps)
    assert packed.cells.shape == (2, CELLS, 5)
    assert torch.equal(packed.cells[1, 2 * 8 + 3], maps[0].features[1, :, 2, 3])
    assert torch.equal(packed.cells[1, 48 + 1 * 4 + 3], maps[1].features[1, :, 1, 3])
    assert len(packed) == 2
    assert torch.equal(packed.features[CELLS], packed.cells[1, 0])
    for before, after in zip(maps, packed.to_maps(), strict=True):
        assert torch.equal(before.features, after.features)
        assert before.grid == after.grid


def test_centers_and_places_by_hand():
    packed = levels()
    xyz = packed.centers()
    torch.testing.assert_close(xyz[2 * 8 + 3], torch.tensor([-0.25, -0.5, 0]))  # -2 + 3.5 / 2, -3 + 2.5
    torch.testing.assert_close(xyz[48 + 1 * 4 + 3], torch.tensor([1.25, 0, 0]))
    places = packed.places(xyz)
    assert places.shape == (CELLS, 2, 2)
    torch.testing.assert_close(places[2 * 8 + 3, 0], torch.tensor([3.5 / 8, 2.5 / 6]))
    torch.testing.assert_close(places[2 * 8 + 3, 1], torch.tensor([2 / 4, 1.25 / 3]))  # seen from the other grid
    torch.testing.assert_close(places[48 + 1 * 4 + 3, 1], torch.tensor([3.5 / 4, 1.5 / 3]))


# ---- attention -------------------------------------------------------------------------------------------------------
def by_equation(layer, x, places, packed):
    """Equation 3, one sample after another."""
    value = layer.value(packed.cells).unflatten(2, (layer.num_heads, -1))
    heads, points = layer.num_heads, layer.num_points
    offsets = layer.offsets(x).view(*x.shape[:2], heads, 2, points, 2)
    weights = layer.weights(x).view(*x.shape[:2], heads, 2 * points).softmax(-1).view(*x.shape[:2], heads, 2, points)
    output = x.new_zeros(*x.shape[:2], heads, value.shape[3])
    for level, ((ny, nx), cells) in enumerate(
        zip(packed.shapes, value.split([ny * nx for ny, nx in packed.shapes], 1))
    ):
        for head in range(heads):
            image = cells[:, :, head].transpose(1, 2).unflatten(2, (ny, nx))
            for point in range(points):
                at = places[:, :, level] + offsets[:, :, head, level, point] / torch.tensor([nx, ny])
                sample = F.grid_sample(image, 2 * at[:, None] - 1, align_corners=False)[:, :, 0]  # (B, D, Q)
                output[:, :, head] += weights[:, :, head, level, point, None] * sample.transpose(1, 2)
    return layer.out(output.flatten(2))


def test_attention_is_the_equation():
    layer, packed = attention(), levels()
    x, xyz = torch.randn(2, 7, 8), torch.randn(2, 7, 3) * 2
    places = packed.places(xyz)
    torch.testing.assert_close(
        layer(x, places, packed), by_equation(layer, x, places, packed), rtol=1e-4, atol=1e-5
    )  # grid_sample moves places to -1 ... 1 and back


def test_heads_look_along_rays_before_training():
    """Heads at 0, 90, 180 and 270 degrees; with eight heads those between them go to the square's corners."""
    layer = attention(heads=4, points=2, trained=False)
    rays = layer.offsets.bias.view(4, 2, 2, 2)
    expected = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    for level in range(2):
        torch.testing.assert_close(rays[:, level, 0], expected)
        torch.testing.assert_close(rays[:, level, 1], 2 * expected)
    corner = attention(heads=8, points=1, trained=False).offsets.bias.view(8, 2, 1, 2)[3, 0, 0]
    torch.testing.assert_close(corner, torch.tensor([-1.0, 1]))
    assert layer.offsets.weight.abs().max() < 0.01
    assert layer.weights.weight.abs().max() < 0.01
    assert not layer.weights.bias.any()


def test_moving_maps_and_queries_together_does_not_matter():
    layer, packed = attention(), levels()
    x, xyz = torch.randn(2, 7, 8), torch.randn(2, 7, 3)
    away = torch.tensor([32.0, -16, 4])
    moved = MapLevels(
        packed.cells,
        tuple(Grid(tuple((torch.tensor(g.low) + away).tolist()), g.voxel_size, g.shape) for g in packed.grids),
    )
    torch.testing.assert_close(
        layer(x, moved.places(xyz + away), moved), layer(x, packed.places(xyz), packed), rtol=1e-4, atol=1e-4
    )  # 48 m away float32 keeps 4e-6 m


def test_recorded_weights_are_those_of_the_output():
    layer, packed = attention(), levels()
    x, places = torch.randn(2, 7, 8), packed.places(torch.randn(2, 7, 3) * 2)
    expected = layer(x, places, packed)
    with record_attention(layer) as maps:
        torch.testing.assert_close(layer(x, places, packed), expected)
    (record,) = maps
    assert record.keys == "context"
    assert record.weights.shape == (14, 4, 1, 4 * 2 * 3)
    value = layer.value(packed.cells).flatten(0, 1).unflatten(1, (4, 2))  # (BS, H, D)
    output = torch.zeros(14, 4, 2)
    for query in range(14):
        for head in range(4):
            for weight, row in zip(record.weights[query, head, 0], record.key_index[query, head]):
                if row >= 0:
                    output[query, head] += weight * value[row, head]
    torch.testing.assert_close(layer.out(output.flatten(1)).view_as(expected), expected, rtol=1e-4, atol=1e-5)
    total = record.weights.sum(-1)
    assert (total < 1 + 1e-5).all()
    assert (record.key_index < 0).any(), "no place is outside"
    assert ((record.key_index < 0) <= (record.weights[:, :, 0] == 0)).all()
    query, key, weight = record.pairs()
    assert (key // CELLS == query // 7).all(), "a query sees another cloud"
    torch.testing.assert_close(weight.sum(), total.mean(1).sum())
    (gradient,) = torch.autograd.grad(record.weights.square().sum(), layer.offsets.bias)
    assert gradient.any()


def test_another_number_of_levels_is_an_error():
    packed = levels()
    one = MapLevels(packed.cells[:, :48], packed.grids[:1])
    with pytest.raises(ValueError, match="looks at 2 levels, got 1"):
        attention()(torch.randn(2, 7, 8), one.places(torch.randn(2, 7, 3)), one)
    with pytest.raises(ValueError, match="multiple of num_heads"):
        MultiScaleDeformableAttention(10, 4, num_levels=1)


# ---- encoder ---------------------------------------------------------------------------------------------------------
def test_encoder_layer_adds_what_each_part_makes():
    layer = DeformableEncoderLayer(attention(), MLP(8, 16), residual)
    packed = levels()
    places = packed.places(packed.centers()).expand(2, -1, -1, -1)
    normed = layer.residual.norm(packed.cells)
    expected = packed.cells + layer.attention(normed, places, packed.replace(normed))
    expected = expected + layer.mlp(layer.mlp_residual.norm(expected))
    assert torch.equal(layer(packed, places).cells, expected)


def test_cells_look_around_themselves():
    """Before training along rays of three cells to the right, up, left and down."""
    model, packed = encoder(depth=1, trained=False), levels(clouds=1)
    nn.init.zeros_(model.layers[0].attention.offsets.weight)
    before = model(packed).to_maps()[0].features
    changed = packed.cells.clone()
    changed[0, 3 * 8 + 1, 0] += 1  # row 3, column 1 of the finer level
    after = model(packed.replace(changed)).to_maps()[0].features
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[3, :5] = expected[:, 1] = True
    assert torch.equal(((after - before).abs() > 1e-4).any(1)[0], expected)


def test_encoder_adds_where_cells_are_and_their_level():
    model, packed = encoder(depth=1), levels()
    code = model.position(packed.centers())
    code[:48] += model.level_code[0]
    code[48:] += model.level_code[1]
    places = packed.places(packed.centers()).expand(2, -1, -1, -1)
    expected = model.norm(model.layers[0](packed.replace(packed.cells + code), places).cells)
    torch.testing.assert_close(model(packed).cells, expected)


def test_encoder_keeps_clouds_and_grids_apart():
    model, packed = encoder(), levels(clouds=3)
    both = model(packed)
    assert both.grids == packed.grids
    one = model(MapLevels(packed.cells[1:2], packed.grids))
    torch.testing.assert_close(both.cells[1:2], one.cells)


def test_recorded_cells_are_tokens():
    with record_attention(model := encoder()) as maps:
        model(levels())
    assert [record.layer for record in maps] == ["layers.0.attention", "layers.1.attention"]
    assert {record.keys for record in maps} == {"tokens"}
    assert maps[0].weights.shape[0] == 2 * CELLS


# ---- decoder ---------------------------------------------------------------------------------------------------------
def test_decoder_layer_adds_what_each_part_makes():
    layer, packed = decoder(depth=1).layers[0], levels()
    x, references = torch.randn(2, 7, 8), torch.randn(2, 7, 3)
    y = x + layer.self_attention(layer.self_residual.norm(x), positions=references)
    y = y + layer.cross_attention(layer.cross_residual.norm(y), packed.places(references), packed)
    y = y + layer.mlp(layer.mlp_residual.norm(y))
    assert torch.equal(layer(x, references, packed), y)


def test_queries_move_between_layers():
    model, packed = decoder(depth=3), levels()
    x, references = torch.randn(2, 7, 8), torch.randn(2, 7, 3)
    step = torch.tensor([0.5, -0.25, 0.0], requires_grad=True)
    seen = model(x, references, packed, lambda x, references: references + step)
    for depth, (_, told) in enumerate(seen):
        torch.testing.assert_close(told, references + depth * step.detach())
        assert not told.requires_grad
    y = x
    for layer, (out, told) in zip(model.layers, seen, strict=True):
        y = layer(y, told, packed)
        assert torch.equal(out, y)
    assert torch.autograd.grad(y.sum(), step, allow_unused=True) == (None,), "a gradient goes through the move"


def test_queries_stay_where_nothing_moves_them():
    references = torch.randn(2, 7, 3)
    seen = decoder()(torch.randn(2, 7, 8), references, levels())
    assert all(told is references for _, told in seen)


def test_every_parameter_has_a_gradient(deterministic_algorithms):
    first, second, packed = encoder(), decoder(), levels()
    x = torch.randn(2, 7, 8, requires_grad=True)
    seen = second(x, torch.randn(2, 7, 3), first(packed))
    seen[-1][0].square().sum().backward()
    for model in (first, second):
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


def test_half_precision_keeps_places():
    """Under autocast sums are in float32 at places of float32: bfloat16 would move them by half a cell."""
    layer, packed = attention(), levels()
    x, places = torch.randn(2, 7, 8), packed.places(torch.randn(2, 7, 3))
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x, places, packed)
    torch.testing.assert_close(half.float(), layer(x, places, packed), rtol=0.05, atol=0.05)
