"""Maps composed down to points: by hand, against matrices, on every classifier, and where it is known what matters."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pctransformer import record_attention
from pctransformer.layers.grid_mixers import create_grid_block
from pctransformer.layers.recording import AttentionMap
from pctransformer.layers.transformer import ClassToken, pre_norm_encoder
from pctransformer.models import list_models
from pctransformer.visualization.rollout import (
    attention_rollout,
    gradient_attention,
    half_of_weight,
    layer_attention,
    passed_over,
)
from pctransformer.visualization.sources import (
    Source,
    attention_layers,
    class_token,
    in_box,
    last_row,
    point,
    pooled_vector,
)
from tests.models.small import small


def dense(rows, keys="tokens", layer="") -> AttentionMap:
    """One matrix (queries, keys) as a map of one group and one head."""
    return AttentionMap(layer, keys, torch.tensor(rows, dtype=torch.float32)[None, None])


# ---- by hand ---------------------------------------------------------------------------------------------------------
FOUR_POINTS = [
    dense([[0.5, 0.5, 0, 0], [0, 0, 0.25, 0.75]], "children", "embedding"),
    dense([[0, 1], [0.5, 0.5]]),
    dense([[0, 1], [1, 0]]),
    dense([[0, 1]], "children", "head"),
]
"""Two tokens of two points each, two layers of attention, and a pooling that takes the second token."""


def test_two_layers_by_hand():
    """(0, 1) through (A2 + I) / 2 is (1/2, 1/2), through (A1 + I) / 2 it is (3/8, 5/8), then down to the points."""
    source = pooled_vector(FOUR_POINTS)
    assert attention_rollout(FOUR_POINTS, source, 4).tolist() == [3 / 16, 3 / 16, 5 / 32, 15 / 32]
    assert layer_attention(FOUR_POINTS, 2, source, 4).tolist() == [1 / 2, 1 / 2, 0, 0]
    assert layer_attention(FOUR_POINTS, 1, source, 4).tolist() == [1 / 4, 1 / 4, 1 / 8, 3 / 8]
    assert attention_layers(FOUR_POINTS) == [1, 2]


def test_from_a_point():
    """The nearest of two tokens in the middle of what they are made of, at 0.25 and 2.5; a learned token is nowhere."""
    xyz = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [4, 0, 0]])
    made = dense([[0.75, 0.25, 0, 0], [0, 0, 0.75, 0.25]], "children")
    in_front = dense([[0, 0], [1, 0], [0, 1]], "children")
    maps = [made, in_front, dense([[1, 0, 0], [0, 0, 1], [0, 0.5, 0.5]])]
    assert [point(maps, row, xyz).weights.tolist() for row in range(4)] == [[0, 1, 0]] * 2 + [[0, 0, 1]] * 2
    assert layer_attention(maps, 2, point(maps, 0, xyz), 4).tolist() == [0, 0, 0.75, 0.25]
    assert layer_attention(maps, 2, point(maps, 3, xyz), 4).tolist() == pytest.approx([0.375, 0.125, 0.375, 0.125])
    no_coarser = FOUR_POINTS[1:]
    assert layer_attention(no_coarser, 0, point(no_coarser, 1, xyz[:2]), 2).tolist() == [0.5, 0.5]
    assert point(no_coarser, 1, xyz[:2]).height == 2


def test_from_a_class_token():
    """What it keeps of itself is no point's, and the rest is made to add up to one."""
    maps = [
        dense([[0, 0], [1, 0], [0, 1]], "children", "class_token"),
        dense([[0.5, 0.2, 0.3], [0, 1, 0], [0, 0, 1]]),
        dense([[0.5, 0.5, 0]], "children", "head"),
    ]
    source = class_token(maps)
    assert (source.height, source.weights.tolist()) == (2, [1, 0, 0])
    assert attention_rollout(maps, source, 2).tolist() == pytest.approx([0.4, 0.6])
    assert attention_rollout(maps, pooled_vector(maps), 2).tolist() == pytest.approx([0.55 / 0.625, 0.075 / 0.625])


def test_up_and_down_a_unet_by_hand():
    """Two points, one coarse token of them (1/4, 3/4); then points again, half of the coarse token, half of themselves.
    The first point is 1/2 (1/4, 3/4) + 1/2 (1, 0), and attention on the way down counts for both."""
    down, up = dense([[0.25, 0.75]], "children", "down"), dense([[0.5], [0.5]], "children", "up")
    skip = AttentionMap("up", "skip", torch.full((2, 1, 1, 1), 0.5))
    maps = [down, up, skip]
    assert attention_rollout(maps, last_row(maps, 0), 2).tolist() == [0.625, 0.375]
    attended = [dense([[0, 1], [1, 0]]), *maps]
    assert attention_rollout(attended, last_row(attended, 0), 2).tolist() == [0.5, 0.5]
    deeper = [
        down,
        dense([[1]], "children"),
        dense([[0.75]], "children"),
        AttentionMap("", "skip", torch.full((1,) * 4, 0.25)),
        *maps[1:],
    ]
    assert attention_rollout(deeper, last_row(deeper, 0), 2).tolist() == [0.625, 0.375]
    with pytest.raises(ValueError, match="up comes back to finer tokens, which were never left"):
        attention_rollout([down, skip], Source(2, torch.ones(1)), 2)


def test_a_decoder_by_hand():
    """Three points are tokens; two queries begin as the first and the third. They look at each other, then at tokens.

    Query 0 is half of what it was, which is half query 0 and half query 1, and half tokens 1 and 2 alike: 1/4 of token
    0 and 1/4 of token 2 from where queries began, and 1/4 of token 1 and 1/4 of token 2."""
    maps = [
        dense([[1, 0, 0], [0, 0, 1]], "children", "queries"),
        dense([[0, 1], [1, 0]]),
        dense([[0, 0.5, 0.5], [1, 0, 0]], "context", "decoder"),
    ]
    assert attention_rollout(maps, last_row(maps, 0), 3).tolist() == [0.25, 0.25, 0.5]
    assert layer_attention(maps, 2, last_row(maps, 0), 3).tolist() == [0, 0.5, 0.5]
    assert layer_attention(maps, 1, last_row(maps, 0), 3).tolist() == [0, 0, 1]


def test_gradient_times_attention_by_hand():
    """One layer of two tokens with values 1 and -2, and a score that is the first token's mean: dscore / dA is (1, -2),
    of which the second lowers the score. v + v (1/2 * 1, 0) is (1.5, 0); with the sign turned (1, 1/2 * 2)."""
    for sign, expected in ((1.0, [1.0, 0.0]), (-1.0, [0.5, 0.5])):
        weights = torch.tensor([[[[0.5, 0.5], [0.5, 0.5]]]], requires_grad=True)
        maps = [AttentionMap("", "tokens", weights)]
        score = sign * (weights[0, 0] @ torch.tensor([1.0, -2.0]))[0]
        assert gradient_attention(maps, score, Source(1, torch.tensor([1.0, 0.0])), 2).tolist() == expected
    with pytest.raises(ValueError, match="no map has a gradient to the score"):
        gradient_attention([dense([[1.0]])], torch.ones((), requires_grad=True) * 1, Source(1, torch.ones(1)), 1)


def test_from_a_box():
    """The tokens in it alike, turned as it is; or the nearest."""
    xyz = torch.tensor([[0.0, 0, 0], [1, 1, 0], [2, 2, 0], [1, -1, 0]])
    still = [dense(torch.eye(4).tolist())]
    assert in_box(still, (1, 1, 0, 3.2, 0.5, 1, math.pi / 4), xyz).weights.tolist() == pytest.approx([1 / 3] * 3 + [0])
    assert in_box(still, (1, 1, 0, 3.2, 0.5, 1, -math.pi / 4), xyz).weights.tolist() == [0, 1, 0, 0]
    assert in_box(still, (5, -5, 0, 1, 1, 1, 0), xyz).weights.tolist() == [0, 0, 0, 1]


def test_maps_of_chosen_queries_are_followed_from_these_alone():
    maps = [
        AttentionMap(
            "a", "tokens", torch.tensor([[[[0.25, 0.75]]]]), torch.tensor([[1]]), torch.tensor([[0, 1]]), 2, True
        )
    ]
    assert layer_attention(maps, 0, Source(1, torch.tensor([0.0, 1.0])), 2).tolist() == [0.25, 0.75]
    with pytest.raises(ValueError, match="a was recorded for chosen queries, and others are looked from"):
        layer_attention(maps, 0, Source(1, torch.tensor([0.5, 0.5])), 2)


def test_memory_slots_are_passed_over():
    maps = [*FOUR_POINTS[:2], dense([[0.2, 0.8, 0, 0], [0, 0, 0, 1]], "memory"), *FOUR_POINTS[2:]]
    expected = attention_rollout(FOUR_POINTS, pooled_vector(FOUR_POINTS), 4)
    assert torch.equal(attention_rollout(maps, pooled_vector(maps), 4), expected)


@pytest.mark.parametrize(
    ("mixer", "seen"),
    [
        ("self_attention", True),
        ("pct_attention", True),
        ("mlp_mixer", False),
        ("lstm", False),
        ("external_attention", False),
    ],
)
def test_mixers_without_maps_of_tokens_are_named(mixer, seen):
    model = small("patch_mixer", mixer=mixer).eval()
    with torch.no_grad(), record_attention(model) as maps:
        model(torch.randn(1, 40, 3, generator=torch.Generator().manual_seed(0)))
    names = [f"encoder.layers.{i}.parts.0.mixer" for i in (0, 1)]
    assert passed_over(model, maps) == ([] if seen else names)
    assert passed_over(small("npct"), maps) == []


@pytest.mark.parametrize(("mixer", "seen"), [("window_attention", True), ("smlp", False)])
def test_grid_mixers_without_maps_are_named(mixer, seen):
    model = nn.Sequential(create_grid_block(mixer, dim=8, size=(4, 4)), create_grid_block("global_attention", dim=8))
    with torch.no_grad(), record_attention(model) as maps:
        model(torch.rand(2, 4, 4, 8))
    assert passed_over(model, maps) == ([] if seen else ["0.parts.0.mixer"])


def test_a_layer_that_gives_nothing():
    maps = [dense([[0, 0], [1, 0]]), dense([[1, 0]], "children")]
    assert layer_attention(maps, 0, pooled_vector(maps), 2).tolist() == [0, 0]
    assert attention_rollout(maps, pooled_vector(maps), 2).tolist() == [1, 0]


def test_equals_products_of_matrices():
    """With heads, padding, ragged clouds and groups of neighbours."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.stack([torch.randperm(9, generator=generator)[:4] for _ in range(6)])
    groups[2, 3] = -1
    pairs = groups[[0, 1, 3, 4, 0, 1, 3, 4, 5], :2]
    rows = torch.tensor([[0, 1, 2, 3], [4, 5, -1, -1]])

    def shares(*shape: int, valid: torch.Tensor) -> torch.Tensor:
        return torch.rand(*shape, generator=generator).masked_fill(~valid, -torch.inf).softmax(-1)

    maps = [
        AttentionMap("", "tokens", shares(9, 3, 1, 2, valid=(pairs >= 0)[:, None, None]), None, pairs),
        AttentionMap("", "children", shares(6, 1, 1, 4, valid=(groups >= 0)[:, None, None]), None, groups),
        AttentionMap("", "tokens", shares(2, 2, 4, 4, valid=(rows >= 0)[:, None, None]), rows, rows),
        AttentionMap("head", "children", shares(2, 1, 1, 4, valid=(rows >= 0)[:, None, None]), None, rows),
    ]  # fmt: skip

    def matrix(found: AttentionMap, queries: int, keys: int) -> torch.Tensor:
        query, key, weight = found.pairs()
        return torch.zeros(queries, keys).index_put((query, key), weight, accumulate=True)

    local, group, attend, pool = (matrix(m, *shape) for m, shape in zip(maps, [(9, 9), (6, 9), (6, 6), (2, 6)]))
    expected = pool @ ((attend + torch.eye(6)) / 2) @ group @ ((local + torch.eye(9)) / 2)
    for cloud in (0, 1):
        found = attention_rollout(maps, pooled_vector(maps, cloud), 9)
        torch.testing.assert_close(found, expected[cloud])
    torch.testing.assert_close(layer_attention(maps, 2, pooled_vector(maps, 1), 9), (pool @ attend @ group)[1])


class LargestIndices(TorchDispatchMode):
    """How many whole numbers one tensor holds at most."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.int64:
            self.count = max(self.count, out.numel())
        return out


def test_pairs_are_not_listed_one_by_one():
    """In a scan that takes longer than the model itself. What a layer leaves in padding does not matter."""
    weights = torch.rand(5, 2, 30, 40).softmax(-1)
    query, key = torch.arange(150).view(5, 30), torch.arange(200).view(5, 40)
    weights[4, :, 20:], query[4, 20:] = torch.nan, -1
    weights[3, :, :, 35:], key[3, 35:] = torch.nan, -1
    maps = [AttentionMap("", "children", weights, query, key, 150)]
    source = Source(1, torch.full((150,), 1 / 140).index_fill(0, torch.arange(140, 150), 0))
    with LargestIndices() as largest:
        found = attention_rollout(maps, source, 200)
    assert largest.count == 200
    expected = weights.mean(1)
    expected = torch.cat([expected[:3].sum(1), expected[3:4].sum(1), expected[4:, :20].sum(1)]).nan_to_num(0)
    torch.testing.assert_close(found, (expected / expected.sum()).flatten())


# ---- models ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", list_models(task="classification"))
def test_weights_of_every_classifier(name):
    """They add up to one, all of them on the cloud that was asked for."""
    model = small(name).eval()
    sizes = (40, 64)
    with torch.no_grad(), record_attention(model) as maps:
        model([torch.randn(n, model.in_channels, generator=torch.Generator().manual_seed(n)) for n in sizes])
    for cloud, own in enumerate((slice(0, 40), slice(40, 104))):
        sources = [pooled_vector(maps, cloud)]
        if name.startswith(("point_mae", "point_vit")):
            sources.append(class_token(maps, cloud))
        for source in sources:
            found = [attention_rollout(maps, source, 104)]
            found += [layer_attention(maps, i, source, 104) for i in attention_layers(maps[: source.height])]
            for weights in found:
                assert weights.shape == (104,)
                assert (weights >= 0).all()
                assert weights[own].sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["npct", "pct", "point_mae", "point_transformer_v3", "voxel_transformer_cls"])
def test_a_point_looks_from_where_it_is(name):
    """With attention that leaves all as it is, what its token is made of lies round about the point."""
    model = small(name).eval()
    cloud = torch.randn(200, model.in_channels, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), record_attention(model) as maps:
        model([cloud])
    still = [found for found in maps if found.keys != "tokens"]
    xyz = cloud[:, :3]
    apart, all_apart = [], torch.cdist(xyz, xyz).mean().item()
    for row in range(0, 200, 10):
        source = point(maps, row, xyz)
        below = len([found for found in maps[: source.height] if found.keys != "tokens"])
        weights = attention_rollout(still, Source(below, source.weights), 200)
        apart.append(((weights @ xyz) - xyz[row]).norm().item())
    assert sum(apart) / len(apart) < 0.5 * all_apart


PART, POINTS = 6, 48


class TellsByClassToken(nn.Module):
    """Points as tokens, one layer of attention, and a class told from the class token alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(4, 32), nn.GELU(), nn.Linear(32, 16))
        self.token, self.encoder = ClassToken(16), pre_norm_encoder(16, depth=1, num_heads=2)
        self.out = nn.Linear(16, 2)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        x, _ = self.token(self.stem(points), points.new_zeros(*points.shape[:2], 16))
        return self.out(self.encoder(x)[:, 0])


def clouds_with_a_part(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random points with a random sign each; those of a part, which sticks out, have the sign of the class."""
    labels = torch.randint(2, (count,), generator=generator)
    points = torch.rand(count, POINTS, 4, generator=generator) * 2 - 1
    points[..., 3] = points[..., 3].sign()
    points[:, :PART, :3] = torch.tensor([0, 0, 1.6]) + 0.05 * torch.randn(count, PART, 3, generator=generator)
    points[:, :PART, 3] = labels[:, None] * 2.0 - 1
    return points, labels


def test_the_part_that_decides_gets_the_most_weight():
    """An eighth of the points says all there is to know; the rest is noise, which attention has to learn to leave."""
    torch.manual_seed(0)
    model, generator = TellsByClassToken(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(100):
        points, labels = clouds_with_a_part(32, generator)
        loss = nn.functional.cross_entropy(model(points), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    points, labels = clouds_with_a_part(20, generator)
    with torch.no_grad(), record_attention(model) as maps:
        assert (model(points).argmax(1) == labels).all()
    for cloud in range(20):
        weights = attention_rollout(maps, class_token(maps, cloud), 20 * POINTS).view(20, POINTS)[cloud]
        assert weights[:PART].sum() > 0.35  # 0.125 if it looked everywhere alike
        assert weights.argmax() < PART


def test_half_of_the_weight():
    assert half_of_weight(np.ones(10)) == 0.5
    assert half_of_weight(np.array([0.1, 0.6, 0.1, 0.2])) == 0.25
    assert half_of_weight(np.array([0.3, 0.2, 0.3, 0.2])) == 0.5
    assert half_of_weight(np.zeros(4)) == 0


# ---- faults ----------------------------------------------------------------------------------------------------------
def test_faults_are_explained():
    with pytest.raises(ValueError, match="cloud must be at least 0 and below 1, got 1"):
        pooled_vector(FOUR_POINTS, 1)
    with pytest.raises(ValueError, match="last of the maps must be a pooling"):
        pooled_vector(FOUR_POINTS[:3])
    with pytest.raises(ValueError, match="no class token; look from its pooled vector"):
        class_token(FOUR_POINTS)
    with pytest.raises(ValueError, match="no attention among tokens was recorded"):
        class_token([FOUR_POINTS[0], FOUR_POINTS[3]])
    with pytest.raises(ValueError, match="row must be at least 0 and below 4, got 4"):
        point(FOUR_POINTS, 4, torch.zeros(4, 3))
    with pytest.raises(ValueError, match="there are 1 tokens, but the source has weights of 2"):
        attention_rollout(FOUR_POINTS, Source(4, torch.tensor([0.5, 0.5])), 4)
    with pytest.raises(ValueError, match="map 0 is no attention among tokens"):
        layer_attention(FOUR_POINTS, 0, pooled_vector(FOUR_POINTS), 4)
    with pytest.raises(ValueError, match="embedding does not fit the 3 tokens below it"):
        attention_rollout(FOUR_POINTS, pooled_vector(FOUR_POINTS), 3)
    with pytest.raises(ValueError, match="does not fit the 2 tokens below it"):  # a second call of the model
        attention_rollout([*FOUR_POINTS[:2], *FOUR_POINTS], pooled_vector(FOUR_POINTS * 2), 4)
    with pytest.raises(ValueError, match="decoder attends to another sequence"):
        attention_rollout([dense([[1.0]], "context", "decoder")], Source(1, torch.ones(1)), 1)
    learned = [dense([[0.0]], "children"), dense([[1.0]]), dense([[1.0]], "children")]
    with pytest.raises(ValueError, match="the source is made of learned tokens alone"):
        attention_rollout(learned, class_token(learned), 1)
