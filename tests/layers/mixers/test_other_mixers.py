"""Recurrent mixers, shift, pooling and external attention against what defines them."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pctransformer.layers.mixers import create_mixer
from pctransformer.layers.mixers.external_attention import softmax_then_l1

DIM, K = 8, 5


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def rnn_step(layer: nn.RNNBase, x: torch.Tensor, state: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    energy = layer.weight_ih_l0 @ x + layer.bias_ih_l0 + layer.weight_hh_l0 @ state[0] + layer.bias_hh_l0
    if isinstance(layer, nn.RNN):
        return (energy.tanh(),)
    i, f, g, o = energy.chunk(4)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


@pytest.mark.parametrize("name", ["rnn", "lstm"])
def test_recurrent_layers_step_by_step(name):
    """Both ways over the real tokens alone, in the order of the curve."""
    mixer = create_mixer(name, dim=DIM)
    tokens, valid = torch.randn(2, K, DIM), torch.tensor([[True] * K, [False, True, True, False, True]])
    out = mixer(tokens, valid)
    for p in range(2):
        places = valid[p].nonzero().flatten().tolist()
        for layer, order, channels in (
            (mixer.forwards, places, slice(0, 4)),
            (mixer.backwards, places[::-1], slice(4, 8)),
        ):
            state = (torch.zeros(4), torch.zeros(4))
            for k in order:
                state = rnn_step(layer, tokens[p, k], state)
                torch.testing.assert_close(out[p, k, channels], state[0])


@pytest.mark.parametrize("name", ["rnn", "lstm"])
def test_one_way_sees_only_what_came_before(name):
    mixer = create_mixer(name, dim=DIM, bidirectional=False)
    tokens = torch.randn(1, K, DIM)
    changed = tokens.clone()
    changed[:, 2] += 1
    same = (mixer(tokens) == mixer(changed)).all(2)[0]
    assert same.tolist() == [True, True, False, False, False]
    with pytest.raises(ValueError, match="bidirectional=False"):
        create_mixer(name, dim=7)


@pytest.mark.parametrize("name", ["rnn", "lstm"])
def test_flops_of_recurrent_layers_are_seen(name):
    """Two matrices per gate, token and direction; on CPU torch runs the LSTM fused."""
    gates = {"rnn": 1, "lstm": 4}[name]
    with FlopCounterMode(display=False) as counter:
        create_mixer(name, dim=DIM)(torch.randn(3, K, DIM))
    assert counter.get_total_flops() == 2 * 2 * (3 * K) * gates * (DIM // 2) * (DIM + DIM // 2)


def test_shift_by_hand():
    """Three groups of two channels move by -1, 0 and 1; the linear layer is the identity."""
    mixer = create_mixer("shift", dim=6)
    nn.init.eye_(mixer.linear.weight)
    nn.init.zeros_(mixer.linear.bias)
    tokens = torch.tensor([[[1.0, 1, 1, 1, 1, 1], [2, 2, 2, 2, 2, 2], [3, 3, 3, 3, 3, 3]]])
    assert mixer(tokens)[0].tolist() == [[2, 2, 1, 1, 0, 0], [3, 3, 2, 2, 1, 1], [0, 0, 3, 3, 2, 2]]
    out = mixer(tokens, torch.tensor([[True, False, True]]))
    assert out[0].tolist() == [[0, 0, 1, 1, 0, 0], [0] * 6, [0, 0, 3, 3, 0, 0]]


def test_shift_of_a_larger_reach():
    """Group g of token k is that of token k - g, written out; sizes of groups as equal as they can be."""
    mixer = create_mixer("shift", dim=DIM, reach=2)
    tokens = torch.randn(2, K, DIM)
    moved = torch.zeros_like(tokens)
    groups = [range(0, 2), range(2, 4), range(4, 6), range(6, 7), range(7, 8)]
    for k in range(K):
        for g, channels in zip(range(-2, 3), groups):
            for c in channels:
                if 0 <= k - g < K:
                    moved[:, k, c] = tokens[:, k - g, c]
    torch.testing.assert_close(mixer(tokens), mixer.linear(moved))
    with pytest.raises(ValueError, match="2 \\* reach \\+ 1, got reach=4"):
        create_mixer("shift", dim=8, reach=4)


def test_mean_pool_by_hand():
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [5.0, 100.0]]])
    mixer = create_mixer("mean_pool", dim=2)
    assert mixer(tokens)[0].tolist() == [[3, 36]] * 3
    assert mixer(tokens, torch.tensor([[True, True, False]]))[0].tolist() == [[2, 4], [2, 4], [0, 0]]
    assert list(mixer.parameters()) == []


def external(x: torch.Tensor, m_k: torch.Tensor, m_v: torch.Tensor) -> torch.Tensor:
    """Equations 7 and 8 for tokens (K, C): softmax over tokens, L1 over slots."""
    a = x @ m_k.T  # (K, slots)
    a = a.exp() / a.exp().sum(0)
    a = a / a.abs().sum(1, keepdim=True)
    return a @ m_v


def test_external_attention_is_the_equation():
    mixer = create_mixer("external_attention", dim=DIM, slots=3)
    tokens = torch.randn(2, K, DIM)
    out = mixer(tokens)
    for p in range(2):
        torch.testing.assert_close(out[p], external(tokens[p], mixer.key.weight, mixer.value.weight.T))
    assert mixer.key.bias is None
    assert mixer.value.bias is None
    assert create_mixer("external_attention", dim=DIM).key.weight.shape == (64, DIM)


def test_padding_is_masked_before_the_softmax():
    """The shares of real tokens in each slot sum to one among themselves: by hand, two equal tokens and a padded one
    have half a share each, where three would have a third; and L1 then gives weights that sum to one."""

    energy = torch.zeros(1, 1, 3, 2)
    energy[0, 0, 0, 1] = torch.tensor(3.0).log()  # shares of slot 1: 3/4 and 1/4; of slot 0: 1/2 and 1/2
    weights = softmax_then_l1(energy, torch.tensor([[True, True, False]]))[0, 0]
    expected = torch.tensor([[0.5 / 1.25, 0.75 / 1.25], [0.5 / 0.75, 0.25 / 0.75], [0, 0]])
    torch.testing.assert_close(weights, expected)


def test_heads_of_external_attention_share_their_memories():
    mixer = create_mixer("multi_head_external_attention", dim=DIM, num_heads=2, slots=3, expansion=2)
    tokens = torch.randn(1, K, DIM)
    wide = mixer.query(tokens[0])  # (K, 16): 4 heads of 4 channels
    heads = [external(wide[:, 4 * h : 4 * h + 4], mixer.key.weight, mixer.value.weight.T) for h in range(4)]
    torch.testing.assert_close(mixer(tokens)[0], mixer.project(torch.cat(heads, 1)))
    with pytest.raises(ValueError, match="do not fall into 3 equal heads"):
        create_mixer("multi_head_external_attention", dim=DIM, num_heads=3)
