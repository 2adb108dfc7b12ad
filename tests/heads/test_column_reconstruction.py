"""Columns that are hidden, and what is lost when they are made up wrongly, on scans that can be checked by hand."""

import math

import pytest
import torch

from pctransformer.heads.column_reconstruction import (
    ColumnReconstruction,
    ColumnReconstructionHead,
    HiddenColumns,
    column_losses,
    hide_columns,
)
from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap, Grid

GRID = Grid.from_range((0, 0, -1, 4, 2, 3), (1, 1, 4))  # 2 x 4 columns, whose middles are at z = 1


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def scan(count, seed=0, low=(0, 0, -1), high=(4, 2, 3)):
    low, high = torch.tensor(low), torch.tensor(high)
    xyz = low + torch.rand(count, 3, generator=generator(seed)) * (high - low)
    return torch.cat([xyz, torch.arange(count)[:, None]], 1)  # numbered, to be known again


# ---- hiding ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("share", [0, 0.3, 0.5, 0.7, 1])
def test_exactly_a_share_of_each_cloud_is_hidden(share):
    clouds = [scan(n, n) for n in (300, 0, 5, 1, 40)]
    true = hide_columns(PointBatch.from_list(clouds), GRID, share, 4, generator())
    for cloud, occupied, hidden in zip(clouds, true.occupied, true.hidden):
        columns = {(int(y), int(x)) for x, y in cloud[:, :2]}
        assert {tuple(cell) for cell in occupied.nonzero().tolist()} == columns
        assert int(hidden.sum()) == int(share * len(columns))
        assert not (hidden & ~occupied).any()


def test_points_of_hidden_columns_and_no_others_are_kept_back():
    cloud = scan(60)
    outside = torch.tensor([[-0.1, 1, 1, 60.0], [4, 1, 1, 61], [1, 1, 3, 62]])
    mixed = torch.cat([outside[:2], cloud, outside[2:]])
    true = hide_columns(PointBatch.from_list([mixed, cloud[:20]]), GRID, 0.5, 4, generator())
    for found, hidden, given in zip(true.visible.split(), true.hidden, (cloud, cloud[:20])):
        cells = given[:, :2].long()
        seen = given[~hidden[cells[:, 1], cells[:, 0]]]
        assert torch.equal(torch.cat([found.xyz, found.features], 1), seen)


def test_points_and_counts_of_hidden_columns():
    """Five points in one column, two in another; k = 3 of them are spread over their order, and two come again."""
    x = torch.tensor([0.1, 2.2, 0.2, 0.3, 2.4, 0.4, 0.5])
    xyz = torch.stack([x, torch.full_like(x, 1.5), torch.arange(7) / 10], 1)
    true = hide_columns(PointBatch.from_list([xyz]), GRID, 1, 3)
    assert true.hidden.nonzero().tolist() == [[0, 1, 0], [0, 1, 2]]
    assert true.counts.tolist() == [5, 2]
    torch.testing.assert_close(true.centers, torch.tensor([[0.5, 1.5, 1], [2.5, 1.5, 1]]))
    expected = xyz[torch.tensor([[0, 2, 5], [1, 1, 4]])] - true.centers[:, None]  # the rows 0, 1 and 3; 0, 0 and 1
    torch.testing.assert_close(true.points, expected)
    assert len(true.visible.xyz) == 0


def test_the_generator_alone_decides():
    points = PointBatch.from_list([scan(200)])
    draws = [hide_columns(points, GRID, 0.5, 2, generator(seed)).hidden for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    often = torch.stack([hide_columns(points, GRID, 0.5, 2, generator(seed)).hidden[0] for seed in range(400)])
    assert (often.float().mean(0) - 0.5).abs().max() < 0.12  # each of 8 columns as often; deviation of a mean is 0.025


def test_faults_are_explained():
    points = PointBatch.from_list([scan(5)])
    with pytest.raises(ValueError, match=r"share of columns to hide must be in \[0, 1\], got 1.5"):
        hide_columns(points, GRID, 1.5, 2)
    with pytest.raises(ValueError, match="one cell high, the grid has 2"):
        hide_columns(points, Grid.from_range((0, 0, -1, 4, 2, 3), (1, 1, 2)), 0.5, 2)


# ---- losses ----------------------------------------------------------------------------------------------------------
def made_up(logits, predicted, log_counts, *, occupied, hidden, counts, points):
    none = PointBatch.from_list([torch.zeros(0, 3)] * len(logits))
    true = HiddenColumns(
        GRID, none, torch.tensor(occupied), torch.tensor(hidden), torch.zeros(len(counts), 3), torch.tensor(counts),
        torch.tensor(points),
    )  # fmt: skip
    return ColumnReconstruction(true, torch.tensor(logits), torch.tensor(predicted), torch.tensor(log_counts))


def test_losses_by_hand():
    """Two maps of 1 x 4 columns: hidden, hidden, seen, empty; and hidden, empty, empty, empty."""
    logit = math.log(3)  # a chance of 3 / 4
    found = made_up(
        [[[logit, -logit, -9.0, -logit]], [[0.0, logit, logit, -logit]]],
        [[[0.0, 0, 0], [0, 0, 0]], [[1, 0, 0], [1, 0, 0]], [[0, 0, 2], [0, 0, 2]]],
        [0.0, math.log(8), math.log(5)],
        occupied=[[[True, True, True, False]], [[True, False, False, False]]],
        hidden=[[[True, True, False, False]], [[True, False, False, False]]],
        counts=[1, 2, 5],
        points=[[[0.0, 0, 0], [0, 0, 0]], [[0, 0, 0], [1, 0, 0]], [[0, 0, 0], [0, 0, 0]]],
    )
    losses = column_losses(found)
    first = (math.log(4 / 3) + math.log(4)) / 2 / 2 + math.log(4 / 3) / 2
    second = math.log(2) / 2 + (2 * math.log(4) + math.log(4 / 3)) / 3 / 2
    assert losses["occupied"].item() == pytest.approx((first + second) / 2)
    # both made up lie on one of two true points, the other is 1 m away; in the second cloud all are 2 m away
    assert losses["chamfer"].item() == pytest.approx((((0 + (0 + 0.5)) / 2) + (4 + 4)) / 2)
    assert losses["count"].item() == pytest.approx(((0 + math.log(4) - 0.5) / 2 + 0) / 2)


def test_seen_columns_are_not_asked():
    kept = {"occupied": [[[True, True]]], "hidden": [[[True, False]]], "counts": [1], "points": [[[0.0, 0, 0]]]}
    one, other = (made_up([[[0.5, seen]]], [[[0.0, 0, 0]]], [0.0], **kept) for seen in (-7.0, 7.0))
    assert column_losses(one) == column_losses(other)


@pytest.mark.parametrize("sizes", [(0,), (1,), (0, 0), (1, 0, 30)])
def test_nothing_to_hide(sizes):
    """Of one column none is hidden; empty clouds still say where nothing is."""
    points = PointBatch.from_list([scan(n)[:, :3] for n in sizes])
    true = hide_columns(points, GRID, 0.7, 4, generator())
    head = ColumnReconstructionHead(6, cells=2, num_points=4)
    bev = BevMap(torch.randn(len(sizes), 6, 4, 8), Grid.from_range((0, 0, -1, 4, 2, 3), (0.5, 0.5, 4)))
    found = head(bev, true)
    losses = column_losses(found)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert head.occupied.weight.grad.abs().sum() > 0
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    if max(sizes) < 2:
        assert losses["chamfer"] == losses["count"] == 0


def test_the_head_gives_a_column_of_its_own_cells():
    """A change of the map is seen in one column only: row and column of the map are those of the columns."""
    points = PointBatch.from_list([scan(300)[:, :3]])
    true = hide_columns(points, GRID, 1, 4)
    assert true.hidden.all()
    head = ColumnReconstructionHead(6, cells=2, num_points=4)
    values = torch.randn(1, 6, 4, 8)
    changed = values.clone()
    changed[0, :, 3, 4] += 5  # of column (1, 2), the seventh
    grid = Grid.from_range((0, 0, -1, 4, 2, 3), (0.5, 0.5, 4))
    one, other = (head(BevMap(features, grid), true) for features in (values, changed))
    assert (one.occupied_logits != other.occupied_logits).nonzero().tolist() == [[0, 1, 2]]
    assert (one.log_counts != other.log_counts).nonzero().tolist() == [[6]]
    assert (one.predicted != other.predicted).flatten(1).any(1).nonzero().tolist() == [[6]]
    torch.testing.assert_close(one.predicted_xyz, one.predicted + true.centers[:, None])
