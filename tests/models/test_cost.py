"""Counts of parameters and multiply-adds, against numbers worked out by hand."""

import pytest
import torch
from torch import nn

from pctransformer.grid_view.window_attention import WindowAttention
from pctransformer.layers.attention import MultiHeadAttention
from pctransformer.layers.deformable import MapLevels, MultiScaleDeformableAttention
from pctransformer.layers.sparse_convolution import SparseConv3d, SubmanifoldConv3d
from pctransformer.models.cost import Cost, cost
from pctransformer.ops import ragged_attention
from pctransformer.voxels import Grid, VoxelBatch


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


def cells(*places: tuple[int, int, int], channels: int = 3) -> VoxelBatch:
    """Occupied cells (z, y, x) of one cloud in a grid of 4 x 4 x 4."""
    coordinates = torch.tensor([(0, *place) for place in places], dtype=torch.int32)
    grid = Grid.from_range((0, 0, 0, 4, 4, 4), (1, 1, 1))
    return VoxelBatch.from_coordinates(coordinates, torch.rand(len(places), channels), grid, 1)


@pytest.mark.parametrize("backend", ["auto", "torch", "spconv"])
def test_sparse_convolutions_count_pairs_of_cells(backend):
    """spconv, whose kernels nobody can look into, counts as torch does."""
    same = SubmanifoldConv3d(3, 5, backend=backend, bias=False)
    # two neighbours, which see each other and themselves, and a cell alone
    assert cost(same, cells((0, 0, 0), (0, 0, 1), (3, 3, 3)))[0].multiply_adds == (2 * 2 + 1) * 3 * 5
    strided = SparseConv3d(3, 5, backend=backend, bias=False)
    # along each axis an even cell is in one kernel, at its middle, an odd one in two
    assert cost(strided, cells((0, 0, 0), (1, 1, 0), (1, 1, 1)))[0].multiply_adds == (1 + 4 + 8) * 3 * 5
    assert (same.backend, strided.backend) == (backend, backend)


class InWindows(WindowAttention):
    def forward(self, voxels):
        return super().forward(voxels.features, self.windows(voxels))


def test_attention_in_windows_counts_pairs_of_each_window():
    layer = InWindows(8, 2, (2, 2, 2))
    whole, parts = cost(layer, cells((0, 0, 0), (0, 1, 1), (1, 0, 0), (0, 0, 2), (2, 2, 2), channels=8))
    pairs = 3 * 3 + 1 + 1
    assert parts["qkv"].multiply_adds == 5 * 8 * 24
    assert parts["proj"].multiply_adds == 5 * 8 * 8
    assert whole.multiply_adds == 5 * 8 * 24 + 5 * 8 * 8 + pairs * (8 + 8)


def test_deformable_attention_counts_four_cells_of_each_place():
    heads, levels, points, queries = 2, 2, 3, 7
    layer = MultiScaleDeformableAttention(8, heads, num_levels=levels, num_points=points)
    grids = [Grid.from_range((0, 0, 0, 4, 4, 1), (size, size, 1)) for size in (1, 2)]
    maps = MapLevels(torch.rand(1, 16 + 4, 8), tuple(grids))
    whole, _ = cost(layer, torch.rand(1, queries, 8), torch.rand(1, queries, levels, 2), maps)
    places = heads * levels * points
    to_places = queries * 8 * (2 * places + places)  # offsets and weights
    assert whole.multiply_adds == to_places + 20 * 8 * 8 + 4 * queries * places * (8 // heads) + queries * 8 * 8


class Queries(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = MultiHeadAttention(8, 2, context_dim=6)

    def forward(self, x, context):
        packed = {"offsets": torch.tensor([0, 5]), "context_offsets": torch.tensor([0, 11])}
        return self.attention(x, context=context) if x.dim() == 3 else self.attention(x, context=context, **packed)


@pytest.mark.parametrize("packed", [False, True])
def test_queries_count_all_that_they_look_at(packed):
    x, context = torch.rand(1, 5, 8), torch.rand(1, 11, 6)
    whole, _ = cost(Queries(), *((x[0], context[0]) if packed else (x, context)))
    assert whole.multiply_adds == 5 * 8 * 8 + 11 * 6 * 16 + 5 * 11 * (8 + 8) + 5 * 8 * 8


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
