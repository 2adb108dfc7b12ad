import pytest
import torch
from torch import nn

from pctransformer.evaluation.deletion import accuracy, rows_left


def test_rows_that_stay_by_hand():
    values = torch.tensor([0.3, 0.1, 0.9, 0.5, 0.7])
    assert rows_left(values, 0.4, "highest").tolist() == [0, 1, 3]
    assert rows_left(values, 0.4, "lowest").tolist() == [2, 3, 4]
    assert rows_left(torch.zeros(4), 0.5, "highest").tolist() == [0, 1]
    assert rows_left(values, 0.99, "highest").tolist() == [1]
    drawn = rows_left(values, 0.4, "random", torch.Generator().manual_seed(1))
    assert len(drawn) == 3
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    with pytest.raises(ValueError, match="share must be at least 0 and below 1, got 1"):
        rows_left(values, 1, "highest")


class Upper(nn.Module):
    """Class 1 where a cloud has a point above 0."""

    def forward(self, points):
        top = torch.stack([cloud[:, 2].max() for cloud in points.xyz.split(points.lengths.tolist())])
        return torch.stack([-top, top], 1)


def test_without_what_it_decides_by_a_classifier_errs():
    """One point in ten tells; of forty clouds, more than a batch."""
    clouds = [torch.cat([torch.full((9, 3), -1.0), torch.ones(1, 3)]) for _ in range(40)]
    labels = [1] * 40
    assert accuracy(Upper(), clouds, labels) == 1
    for which, expected in (("highest", 0), ("lowest", 1)):
        left = [cloud[rows_left(cloud[:, 2], 0.1, which)] for cloud in clouds]
        assert accuracy(Upper(), left, labels) == expected
