"""Mixers with linear layers along the tokens against their equations, written out."""

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm

from pctransformer.layers.mixers import create_block, create_mixer
from pctransformer.layers.mixers.feed_forward_only import TokenNorm
from pctransformer.layers.mixers.resmlp import Affine, FoldedResMLP, fold
from pctransformer.layers.mixers.token_linear import TokenLinear

DIM, K = 8, 5


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def randomized(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def transposed(layer: TokenLinear, x: torch.Tensor) -> torch.Tensor:
    """A one-headed layer as the papers write it: f(Xᵀ)ᵀ for each patch."""
    return nn.functional.linear(x.transpose(1, 2), layer.weight[0], layer.bias[0]).transpose(1, 2)


def ln(part: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """LN in front of a part of a block."""
    return layer_norm(x, [DIM], part.residual.norm.weight, part.residual.norm.bias)


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_token_linear_for_every_place_and_channel(heads):
    layer = TokenLinear(DIM, K, 3, heads)
    x = torch.randn(2, K, DIM)
    out = layer(x)
    for p in range(2):
        for o in range(3):
            for c in range(DIM):
                h = c * heads // DIM
                expected = sum(layer.weight[h, o, i] * x[p, i, c] for i in range(K)) + layer.bias[h, o]
                torch.testing.assert_close(out[p, o, c], expected)


@pytest.mark.parametrize(
    ("name", "options"), [("mlp_mixer", {"hidden_tokens": 7}), ("feed_forward_only", {}), ("resmlp", {})]
)
def test_two_heads_are_two_mixers_of_half_the_channels(name, options):
    both = randomized(create_mixer(name, dim=DIM, num_tokens=K, num_heads=2, **options))
    half = create_mixer(name, dim=DIM // 2, num_tokens=K, **options)
    x = torch.randn(2, K, DIM)
    for h, channels in enumerate((slice(0, 4), slice(4, 8))):
        weights = both.state_dict()
        half.load_state_dict({k: v if k.startswith("norm") else v[h : h + 1] for k, v in weights.items()})
        torch.testing.assert_close(both(x)[..., channels], half(x[..., channels]))
    with pytest.raises(ValueError, match="8 channels do not fall into 3 equal heads"):
        create_mixer(name, dim=DIM, num_tokens=K, num_heads=3, **options)


def test_mlp_mixer_block_is_equations_1_and_2():
    block = randomized(create_block("mlp_mixer", dim=DIM, num_tokens=K, hidden_tokens=7, mlp_ratio=3))
    (token, channel), x = block.parts, torch.randn(3, K, DIM)
    u = x + transposed(token.mixer.f2, gelu(transposed(token.mixer.f1, ln(token, x))))
    f3, f4 = channel.mlp.fc1, channel.mlp.fc2
    y = u + f4(gelu(f3(ln(channel, u))))
    torch.testing.assert_close(block(x), y)
    assert token.mixer.f1.weight.shape == (1, 7, K)
    assert f3.weight.shape == (24, DIM)


def test_feed_forward_only_block_is_equations_11_and_12():
    block = randomized(create_block("feed_forward_only", dim=DIM, num_tokens=K))
    (channel, token), x = block.parts, torch.randn(3, K, DIM)
    u = x + channel.mlp.fc2(gelu(channel.mlp.fc1(ln(channel, x))))
    norm = token.mixer.norm
    over_tokens = layer_norm(u.transpose(1, 2), [K], norm.weight, norm.bias).transpose(1, 2)
    y = u + transposed(token.mixer.f4, gelu(transposed(token.mixer.f3, over_tokens)))
    torch.testing.assert_close(block(x), y)
    assert isinstance(token.residual.norm, nn.Identity)
    assert token.mixer.f3.weight.shape == (1, 4 * K, K)


def test_norm_over_tokens_counts_real_ones():
    """Tokens 1, 3 and padding: mean 2, variance 1, whatever stands at padding."""
    norm = TokenNorm(3, eps=0.0)
    norm.weight.data, norm.bias.data = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([10.0, 20.0, 30.0])
    tokens = torch.tensor([[[1.0], [3.0], [99.0]]])
    out = norm(tokens, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(out, torch.tensor([[[9.0], [22.0], [0.0]]]))


def test_resmlp_block_is_equations_13_to_15():
    block = randomized(create_block("resmlp", dim=DIM, num_tokens=K))
    (token, channel), x = block.parts, torch.randn(3, K, DIM)

    def aff(layer, x):
        return torch.stack([torch.diag(layer.alpha) @ row + layer.beta for row in x.flatten(0, 1)]).view_as(x)

    u = x + aff(token.residual.scale, transposed(token.mixer.linear, aff(token.residual.norm, x)))
    f2, f3 = channel.mlp.fc1, channel.mlp.fc2
    y = u + aff(channel.residual.scale, f3(gelu(f2(aff(channel.residual.norm, u)))))
    torch.testing.assert_close(block(x), y)


def test_resmlp_starts_near_the_identity():
    block = create_block("resmlp", dim=DIM, num_tokens=K, initial_scale=1e-6)
    x = torch.randn(2, K, DIM)
    torch.testing.assert_close(block(x), x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("heads", [1, 4])
def test_folded_resmlp_is_the_unfolded(heads):
    block = randomized(create_block("resmlp", dim=DIM, num_tokens=K, num_heads=heads))
    before = {name: value.clone() for name, value in block.state_dict().items()}
    folded = fold(block)
    x = torch.randn(4, K, DIM)
    torch.testing.assert_close(folded(x), block(x))
    valid = torch.rand(4, K, generator=torch.Generator().manual_seed(3)) < 0.6
    assert 0 < valid.sum() < valid.numel()
    torch.testing.assert_close(folded(x, valid)[valid], block(x, valid)[valid])
    # an S x S linear layer with a scale per channel and a bias per place and channel, and the perceptron's two layers
    token, channel = folded.parts
    assert isinstance(token.mixer, FoldedResMLP)
    shapes = {name: tuple(value.shape) for name, value in token.state_dict().items()}
    assert shapes == {
        "mixer.weight": (heads, K, K),
        "mixer.scale": (DIM,),
        "mixer.bias": (K, DIM),
        "mixer.share": (DIM,),
    }
    assert {type(part) for half in (token, channel) for part in (half.residual.norm, half.residual.scale)} == {
        nn.Identity
    }
    assert not any(isinstance(module, Affine) for module in folded.modules())
    assert not any(p.requires_grad for p in folded.parameters())
    # the original is left alone
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
    block.parts[0].mixer.linear.weight.data.zero_()
    assert folded.parts[0].mixer.weight.abs().sum() > 0


def test_only_resmlp_folds():
    with pytest.raises(ValueError, match="only blocks made by resmlp_block"):
        fold(create_block("mlp_mixer", dim=DIM, num_tokens=K))


def test_gmlp_block_is_the_published_one():
    block = randomized(create_block("gmlp", dim=DIM, num_tokens=K))
    (only,), x = block.parts, torch.randn(3, K, DIM)
    mixer, gate = only.mixer, only.mixer.gate
    z = gelu(mixer.f1(ln(only, x)))
    u, v = z[..., :24], z[..., 24:]
    s = u * transposed(gate.linear, layer_norm(v, [24], gate.norm.weight, gate.norm.bias))
    torch.testing.assert_close(block(x), x + mixer.f2(s))
    assert mixer.f1.weight.shape == (48, DIM)


def test_gmlp_starts_as_a_feed_forward_layer():
    """The gate is one at the start: f2 of the kept half."""
    mixer = create_mixer("gmlp", dim=DIM, num_tokens=K)
    x = torch.randn(3, K, DIM)
    torch.testing.assert_close(mixer(x), mixer.f2(gelu(mixer.f1(x))[..., :DIM]), rtol=1e-4, atol=1e-4)
    assert 0 < mixer.gate.linear.weight.abs().max() < 1e-5
    assert (mixer.gate.linear.bias == 1).all()
    with pytest.raises(ValueError, match="is odd, 9"):
        create_mixer("gmlp", dim=9, num_tokens=K, expansion=1)


def test_heads_of_the_gate():
    """Two heads: the first half of the gate's channels takes the first matrix, the second half the second."""
    gate = randomized(
        create_mixer("gmlp", dim=DIM, num_tokens=K, num_heads=2)
    ).gate  # 16 hidden channels, 8 of them gate
    x = torch.randn(2, K, 16)
    v = layer_norm(x[..., 8:], [8], gate.norm.weight, gate.norm.bias)
    heads = [
        torch.einsum("oi,pic->poc", gate.linear.weight[h], v[..., 4 * h : 4 * h + 4]) + gate.linear.bias[h][:, None]
        for h in range(2)
    ]
    torch.testing.assert_close(gate(x), x[..., :8] * torch.cat(heads, 2))
