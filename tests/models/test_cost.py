"""Counts of parameters and multiply-adds, against numbers worked out by hand."""

import pytest
import torch
from torch import nn

from pctransformer.models.cost import Cost, cost
from pctransformer.ops import ragged_attention


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.first = nn.Linear(3, 5)
        self.layers = nn.ModuleList([nn.Linear(5, 5, bias=False), nn.BatchNorm1d(5)])
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = self.first(x * self.scale)
        for layer in self.layers:
            x = layer(x)
        return x @ x.T  # in no part


def test_parts_and_whole_by_hand():
    model = Small().train()
    model.first.eval()
    statistics = model.layers[1].running_mean.clone()
    whole, parts = cost(model, torch.rand(7, 3))
    assert parts == {
        "first": Cost(3 * 5 + 5, 7 * 3 * 5),
        "layers": Cost(5 * 5 + 2 * 5, 7 * 5 * 5),
        "unused": Cost(2 * 2 + 2, 0),
    }
    assert whole == Cost(3 + 20 + 35 + 6, 7 * 15 + 7 * 25 + 7 * 7 * 5)
    assert model.training
    assert not model.first.training
    assert torch.equal(model.layers[1].running_mean, statistics)


class Attention(nn.Module):
    def __init__(self, ragged):
        super().__init__()
        self.ragged = ragged

    def forward(self, x):  # (6, 2 heads, 4)
        if self.ragged:
            offsets = torch.tensor([0, 6])
            return ragged_attention(x, x, x, offsets, offsets)
        x = x.transpose(0, 1)
        return nn.functional.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize("ragged", [False, True])
def test_attention_counts_scores_and_weighted_sums(ragged):
    whole, _ = cost(Attention(ragged), torch.rand(6, 2, 4))
    assert whole == Cost(0, 2 * 6 * 6 * (4 + 4))


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.ones(5, 3))

    def forward(self, count):
        return self.rows[:count]


def test_a_part_may_give_its_parameter():
    table = Table()
    frozen = nn.Linear(3, 2).requires_grad_(False)
    whole, _ = cost(nn.Sequential(table, frozen), 4)
    assert whole == Cost(15 + 8, 4 * 3 * 2)
    assert table.rows.requires_grad
    assert not frozen.weight.requires_grad


def test_a_model_that_fails_is_left_in_training():
    model = Small()
    with pytest.raises(RuntimeError, match="size"):
        cost(model, torch.rand(7, 4))
    assert model.training
