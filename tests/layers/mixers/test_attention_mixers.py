"""Attention mixers against their equations, and what they hand over while they are recorded."""

import pytest
import torch
from torch import nn

from pctransformer.layers.mixers import create_block, create_mixer
from pctransformer.layers.mixers.pct_attention import double_normalized
from pctransformer.layers.recording import AttentionMap, record_attention
from pctransformer.models.pct import SelfAttention as SelfAttentionOfClouds
from pctransformer.points import PointBatch

DIM, K = 16, 7


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def ragged() -> tuple[torch.Tensor, torch.Tensor]:
    """Patches of 7, 4 and 1 tokens."""
    return torch.randn(3, K, DIM), torch.arange(K) < torch.tensor([[7], [4], [1]])


def test_self_attention_is_the_equation():
    mixer = create_mixer("self_attention", dim=DIM, num_heads=2)
    tokens, valid = ragged()
    out, attention = mixer(tokens, valid), mixer.attention
    for p, count in enumerate((7, 4, 1)):
        x = tokens[p, :count]
        query, (key, value) = attention.query(x), attention.key_value(x).chunk(2, 1)
        heads = []
        for channels in (slice(0, 8), slice(8, 16)):
            weights = (query[:, channels] @ key[:, channels].T / 8**0.5).softmax(1)
            heads.append(weights @ value[:, channels])
        torch.testing.assert_close(out[p, :count], attention.out(torch.cat(heads, 1)), rtol=1e-5, atol=1e-6)
    assert create_mixer("self_attention", dim=192).attention.num_heads == 3
    assert create_mixer("self_attention", dim=48).attention.num_heads == 1


def test_double_normalization_by_hand():
    """Two tokens with energies ln 3 and 0 on and off the diagonal: rows (3/4, 1/4), columns that already sum to one."""
    root = torch.log(torch.tensor(3.0)).sqrt()
    query_key = torch.eye(2)[None] * root
    value = torch.tensor([[[1.0], [5.0]]])
    expected = torch.tensor([[[0.75 * 1 + 0.25 * 5], [0.25 * 1 + 0.75 * 5]]])
    torch.testing.assert_close(double_normalized(query_key) @ value, expected)


@pytest.mark.parametrize(("name", "offset"), [("pct_attention", False), ("offset_attention", True)])
def test_pct_block_is_the_layer_of_the_network(name, offset):
    """Clouds as padded patches give what the layer of `models.pct` gives on the same clouds packed, in training too:
    statistics of BatchNorm are those of real tokens."""
    layer, block = SelfAttentionOfClouds(DIM, offset), create_block(name, dim=DIM)
    block.parts[0].mixer.load_state_dict(layer.state_dict())
    tokens, valid = ragged()
    packed = PointBatch.from_list([torch.randn(n, 3) for n in (7, 4, 1)]).replace(features=tokens[valid])
    for module in (layer, block):
        module.train()
    torch.testing.assert_close(block(tokens, valid)[valid], layer(packed).features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block.parts[0].mixer.transform[1].running_var, layer.transform[1].running_var)
    dense = PointBatch.from_dense(torch.randn(3, K, 3)).replace(features=tokens.flatten(0, 1))
    torch.testing.assert_close(block(tokens).flatten(0, 1), layer(dense).features, rtol=1e-4, atol=1e-5)


# ---- recorded maps ---------------------------------------------------------------------------------------------------
def recorded(mixer: nn.Module, tokens: torch.Tensor, valid: torch.Tensor | None) -> tuple[torch.Tensor, AttentionMap]:
    with record_attention(mixer) as maps:
        out = mixer(tokens, valid)
    torch.testing.assert_close(out, mixer(tokens, valid))
    assert len(maps) == 1
    return out, maps[0]


def matrix(found: AttentionMap, queries: int, keys: int) -> torch.Tensor:
    query, key, weight = found.pairs()
    return torch.zeros(queries, keys).index_put((query, key), weight, accumulate=True)


@pytest.mark.parametrize("padded", [False, True])
def test_maps_of_pct_and_pooling_rebuild_what_tokens_receive(padded):
    tokens, valid = ragged()
    mask = valid if padded else None
    real = valid.flatten() if padded else torch.ones(3 * K, dtype=torch.bool)
    rows = tokens.flatten(0, 1)

    out, found = recorded(create_mixer("mean_pool", dim=DIM), tokens, mask)
    torch.testing.assert_close(matrix(found, 3 * K, 3 * K) @ rows, out.flatten(0, 1))

    mixer = create_mixer("pct_attention", dim=DIM).eval()
    out, found = recorded(mixer, tokens, mask)
    weights = matrix(found, 3 * K, 3 * K)
    torch.testing.assert_close(weights.sum(1), real.float())
    received = mixer.transform((weights @ mixer.value(rows))[real])
    torch.testing.assert_close(out.flatten(0, 1)[real], received, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_maps_of_external_attention_are_over_its_memory(padded):
    tokens, valid = ragged()
    mask = valid if padded else None
    mixer = create_mixer("external_attention", dim=DIM, slots=5)
    out, found = recorded(mixer, tokens, mask)
    assert found.keys == "memory"
    assert found.weights.shape == (3, 1, K, 5)
    torch.testing.assert_close(matrix(found, 3 * K, 5) @ mixer.value.weight.T, out.flatten(0, 1))

    many = create_mixer("multi_head_external_attention", dim=DIM, num_heads=2, slots=5, expansion=3)
    out, found = recorded(many, tokens, mask)
    assert found.weights.shape == (3, 6, K, 5)
    heads = (found.weights @ many.value.weight.T).transpose(1, 2).flatten(2)  # (3, K, 6 * 8)
    expected = many.project(heads)
    torch.testing.assert_close(out[valid] if padded else out, expected[valid] if padded else expected)


def test_maps_of_self_attention():
    tokens, valid = ragged()
    mixer = create_mixer("self_attention", dim=DIM, num_heads=1)
    _, found = recorded(mixer, tokens, valid)
    assert found.layer == "attention"
    weights = matrix(found, 3 * K, 3 * K)[valid.flatten()]
    torch.testing.assert_close(weights.sum(1), torch.ones(int(valid.sum())))
    assert (weights[:, ~valid.flatten()] == 0).all()
