import pytest
import torch

from pctransformer.layers.position import RotaryPosition
from pctransformer.layers.recording import record_attention
from pctransformer.point_view.cell_convolution import ConvolutionalPosition
from pctransformer.point_view.serialization import cut, serialize
from pctransformer.point_view.serialized_attention import (
    GridPooling,
    GridUnpooling,
    SerializedAttention,
    SerializedBlock,
    SerializedBlocks,
)
from pctransformer.points import PointBatch

CURVES = ("morton", "hilbert")


def level(channels: int = 24):
    generator = torch.Generator().manual_seed(4)
    batch = PointBatch.from_list([torch.randn(n, 3 + channels, generator=generator) for n in (20, 0, 1, 5, 9)])
    return serialize(batch, 0.1, CURVES)


def by_formula(layer: SerializedAttention, points: PointBatch, order: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Every point by itself: which others it sees is read off the paper's rule."""
    out = torch.zeros_like(points.features)
    query, key, value = layer.qkv(points.features).unflatten(1, (3, layer.num_heads, -1)).unbind(1)
    if layer.rotary is not None:
        query, key = layer.rotary(query, points.xyz), layer.rotary(key, points.xyz)
    for begin, end in zip(points.offsets.tolist(), points.offsets.tolist()[1:]):
        rows = order[begin:end].tolist()
        for place, row in enumerate(rows):
            stop = min((place // patch_size + 1) * patch_size, len(rows))
            seen = rows[max(stop - patch_size, 0) : stop]
            scores = (query[row] * key[seen]).sum(2) / query.shape[2] ** 0.5  # (seen, H)
            heads = (scores.softmax(0)[..., None] * value[seen]).sum(0)
            out[row] = layer.proj(heads.flatten())
    return out


@pytest.mark.parametrize("rotary", [None, 0.5])
@pytest.mark.parametrize("patch_size", [4, 5, 100])
def test_attention_equals_the_formula(rotary, patch_size):
    torch.manual_seed(0)
    layer = SerializedAttention(24, 2, rotary=None if rotary is None else RotaryPosition(12, unit=rotary))
    points, order = level().points, level().orders[1]
    patches = cut(points.offsets, patch_size)
    out = layer(points.features, points.xyz, order, patches)
    torch.testing.assert_close(out, by_formula(layer, points, order, patch_size), rtol=1e-4, atol=1e-5)
    with record_attention(layer) as maps:
        torch.testing.assert_close(layer(points.features, points.xyz, order, patches), out, rtol=1e-4, atol=1e-5)
    query, key, weight = maps[0].pairs()
    torch.testing.assert_close(torch.zeros(35).index_add(0, query, weight), torch.ones(35))
    assert (points.batch_index[query] == points.batch_index[key]).all()
    # rows of the map are those of points, not places on the curve: weights of the map give the output again
    weights = maps[0].weights  # (P, H, Q, K)
    value = layer.qkv(points.features).unflatten(1, (3, 2, -1))[:, 2][maps[0].key_index]  # (P, K, H, D)
    heads = torch.einsum("phqk,pkhd->pqhd", weights, value).flatten(2)
    real = maps[0].query_index >= 0
    again = torch.zeros_like(out).index_copy(0, maps[0].query_index[real], layer.proj(heads)[real])
    torch.testing.assert_close(again, out, rtol=1e-4, atol=1e-5)


def test_rotary_attention_knows_differences_only():
    torch.manual_seed(0)
    layer = SerializedAttention(24, 2, rotary=RotaryPosition(12, unit=1.0))
    points, order = level().points, level().orders[0]
    patches = cut(points.offsets, 8)
    out = layer(points.features, points.xyz, order, patches)
    moved = layer(points.features, points.xyz + torch.tensor([3.0, -2, 1]), order, patches)
    turned = layer(points.features, points.xyz * torch.tensor([-1.0, 1, 1]), order, patches)
    torch.testing.assert_close(out, moved, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(out, turned, rtol=1e-4, atol=1e-5)


def test_curves_take_turns_and_are_shuffled_in_training_only():
    torch.manual_seed(0)
    blocks = SerializedBlocks([SerializedBlock(24, 2, rotary=None) for _ in range(3)], patch_size=4)
    seen: list[int] = []
    for block in blocks.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    blocks.eval()(level())
    assert seen == [0, 1, 0]
    orders = set()
    for _ in range(20):
        seen.clear()
        blocks.train()(level())
        assert seen[0] == seen[2] != seen[1]
        orders.add(seen[0])
    assert orders == {0, 1}


def test_block_by_formula():
    torch.manual_seed(0)
    block, start = SerializedBlock(24, 2, rotary=None), level()
    patches = cut(start.points.offsets, 4)
    x = start.points.features
    x = x + block.attention(block.attention_residual.norm(x), start.points.xyz, start.orders[1], patches)
    x = x + block.mlp(block.mlp_residual.norm(x))
    torch.testing.assert_close(block(start, 1, patches).points.features, x)


def test_convolution_in_front_of_blocks():
    """It sees the features, or for the first block what it is given; cells are found where there are convolutions."""
    torch.manual_seed(0)
    blocks = SerializedBlocks([SerializedBlock(24, 2, position=ConvolutionalPosition(24)) for _ in range(2)], 4).eval()
    start, other = level(), torch.randn(35, 24)
    patches, prepared = cut(start.points.offsets, 4), start.with_occupied()
    for convolved in (None, other):
        x = start.points.features
        for i, (block, seen) in enumerate(zip(blocks.blocks, (convolved, None))):
            x = x + block.position(x if seen is None else seen, prepared.occupied)
            x = x + block.attention(block.attention_residual.norm(x), start.points.xyz, start.orders[i], patches)
            x = x + block.mlp(block.mlp_residual.norm(x))
        torch.testing.assert_close(blocks(start, convolved).points.features, x)


def test_pooling_and_back():
    """The maximum over the cell before the norm, and the cell's features at every point of it."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(4)
    batch = PointBatch.from_list([torch.rand(n, 5, generator=generator) for n in (30, 0, 6)])
    start = serialize(batch, 0.2, CURVES)
    down, up = GridPooling(2, 4).eval(), GridUnpooling(4, 2, 3).eval()
    with record_attention(down) as maps:
        coarse, joined = down(start)
    plain, _ = down(start)
    assert torch.equal(plain.points.features, coarse.points.features)
    assert 1 < len(coarse.points.xyz) < 36
    for m, features in enumerate(coarse.points.features):
        members = (joined.parent == m).nonzero()[:, 0]
        torch.testing.assert_close(features, down.norm(down.proj(batch.features[members]).amax(0)[None])[0])
        torch.testing.assert_close(coarse.points.xyz[m], batch.xyz[members].mean(0))
    query, key, weight = maps[0].pairs()
    assert torch.equal(joined.parent[key], query)
    total = torch.zeros(len(coarse.points.xyz)).index_add(0, query, weight)
    torch.testing.assert_close(total, torch.ones_like(total))
    back, own = up(coarse, start, joined)
    expected = up.fine(batch.features) + up.coarse(coarse.points.features)[joined.parent]
    torch.testing.assert_close(back.points.features, expected)
    torch.testing.assert_close(own, up.fine(batch.features))
    assert back.points.xyz is batch.xyz


def test_heads_divide_channels():
    with pytest.raises(ValueError, match="multiple of num_heads"):
        SerializedAttention(10, 3)
