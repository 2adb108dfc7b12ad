import pytest
import torch
from torch import nn

from pctransformer.heads.classification import ClassificationHead, pool
from pctransformer.layers.recording import record_attention
from pctransformer.points import PointBatch


def tokens(*clouds: list[list[float]]) -> PointBatch:
    batch = PointBatch.from_list([torch.zeros(len(cloud), 3) for cloud in clouds])
    return batch.replace(features=torch.tensor([row for cloud in clouds for row in cloud]).float())


TWO = tokens([[1, 9], [5, 2], [3, 4]], [[0, 0], [7, 1], [2, 8]])


def test_pooling_by_hand():
    assert pool(TWO, "max").tolist() == [[5, 9], [7, 8]]
    assert pool(TWO, "mean").tolist() == [[3, 5], [3, 3]]
    assert pool(TWO, "max_mean").tolist() == [[5, 9, 3, 5], [7, 8, 3, 3]]
    assert pool(TWO, "first").tolist() == [[1, 9], [0, 0]]
    assert pool(TWO, "first_max").tolist() == [[1, 9, 5, 4], [0, 0, 7, 8]]
    assert pool(TWO, "last_max").tolist() == [[3, 4, 5, 9], [2, 8, 7, 1]]
    ragged = tokens([[1.0, 2]], [], [[3, 4], [5, 0]])
    assert pool(ragged, "max").tolist() == [[1, 2], [0, 0], [5, 4]]


@pytest.mark.parametrize("reduce", ["first_max", "last_max"])
def test_one_token_and_the_others_need_equally_many(reduce):
    for batch in (tokens([[1.0, 2]], [[3, 4], [5, 0]]), tokens([[1.0, 2]], [[3, 4]])):
        with pytest.raises(ValueError, match="equally many tokens, at least two"):
            pool(batch, reduce)
    with pytest.raises(ValueError, match="first needs clouds with equally many tokens, at least one"):
        pool(tokens([[1.0, 2]], [[3, 4], [5, 0]]), "first")


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [
        ("max", [0.5, 0.5, 0]),
        ("mean", [1 / 3, 1 / 3, 1 / 3]),
        ("max_mean", [5 / 12, 5 / 12, 2 / 12]),
        ("first", [1, 0, 0]),
        ("first_max", [0.5, 0.25, 0.25]),
        ("last_max", [0.25, 0.25, 0.5]),
    ],
)
def test_shares_of_tokens_are_recorded(reduce, expected):
    head = ClassificationHead(nn.Identity(), 2, 0, reduce)
    with record_attention(head) as maps:
        head(TWO)
    query, key, weight = maps[0].pairs()
    assert query.tolist() == [0, 0, 0, 1, 1, 1]
    assert key.tolist() == [0, 1, 2, 3, 4, 5]
    assert weight[:3].tolist() == pytest.approx(expected)
