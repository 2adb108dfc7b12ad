import pytest
import torch
from torch import nn

from pctransformer.layers.residual import DropPath, LayerScale, Residual
from tests.ops.clouds import offsets_of


def test_pre_norm_and_post_norm_by_hand():
    """A norm that doubles, a part that adds one, a scale of ten."""

    class Double(nn.Module):
        def forward(self, x):
            return 2 * x

    class Ten(nn.Module):
        def forward(self, x):
            return 10 * x

    x = torch.tensor([[[3.0]]])
    assert Residual(Double(), scale=Ten())(x, lambda x: x + 1).item() == 3 + 10 * (2 * 3 + 1)
    assert Residual(Double(), norm_first=False, scale=Ten())(x, lambda x: x + 1).item() == 2 * (3 + 10 * (3 + 1))


def test_layer_scale_is_learned_for_each_channel():
    scale = LayerScale(3, 0.5)
    scale(torch.tensor([[[2.0, 4, 6]]])).sum().backward()
    assert scale.factor.tolist() == [0.5] * 3
    assert scale.factor.grad.tolist() == [2, 4, 6]


def test_drop_path_leaves_out_whole_sequences():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    dense = drop(torch.ones(4000, 3, 2))
    of_sequence = dense[:, 0, 0]
    assert torch.equal(dense, of_sequence[:, None, None].expand_as(dense))
    assert of_sequence.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (of_sequence == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)  # four standard deviations
    assert torch.equal(drop.eval()(torch.ones(5, 3, 2)), torch.ones(5, 3, 2))


def test_drop_path_of_maps():
    torch.manual_seed(0)
    out = DropPath(0.5)(torch.ones(100, 3, 4, 2))
    of_map = out[:, 0, 0, 0]
    assert torch.equal(out, of_map[:, None, None, None].expand_as(out))
    assert of_map.unique().tolist() == [0, 2]


def test_drop_path_of_packed_sequences():
    torch.manual_seed(0)
    lengths = [3, 0, 1, 5] * 100
    out = DropPath(0.5)(torch.ones(900, 2), offsets_of(lengths))
    parts = out.split(lengths)
    assert all(len(part.unique()) <= 1 for part in parts)
    assert {part[0, 0].item() for part in parts if len(part)} == {0, 2}


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_drop_path_shares(share):
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        DropPath(share)


def test_dropout_is_behind_the_part():
    torch.manual_seed(0)
    residual = Residual(nn.Identity(), dropout=0.5)
    out = residual(torch.zeros(1, 100, 100), torch.ones_like)
    assert out.unique().tolist() == [0, 2]
