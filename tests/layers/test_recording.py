import pytest
import torch
from torch import nn

from pctransformer.heads.classification import ClassificationHead
from pctransformer.layers.attention import MultiHeadAttention
from pctransformer.layers.recording import AttentionMap, RecordedLayer, is_recorded, record_attention
from pctransformer.models import create_model
from pctransformer.models.pct import SelfAttention
from pctransformer.models.point_transformer import TransitionDown
from pctransformer.point_view.local_attention import VectorAttention
from pctransformer.point_view.patches import PatchEmbedding, make_patches
from pctransformer.points import PointBatch
from tests.ops.clouds import offsets_of

LENGTHS = [5, 0, 1, 9]


def matrix(found: AttentionMap, queries: int, keys: int) -> torch.Tensor:
    """The map as one (queries, keys) matrix, built from its pairs; no pair occurs twice in the layers tested here."""
    dense = torch.zeros(queries, keys)
    query, key, weight = found.pairs()
    return dense.index_put((query, key), weight, accumulate=True)


class Identity(MultiHeadAttention):
    """Attention of one head whose values are the tokens and whose output is the mean: the map applied to them."""

    def __init__(self, dim: int, **options) -> None:
        super().__init__(dim, 1, qkv_bias=False, **options)
        with torch.no_grad():
            self.key_value.weight[dim:] = torch.eye(dim)
            self.out.weight.copy_(torch.eye(dim))
            self.out.bias.zero_()


# ---- maps say what layers did ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("causal", [False, True])
def test_dense_padded_and_packed_maps_rebuild_the_output(causal):
    torch.manual_seed(0)
    attention = Identity(8, causal=causal)
    x, offsets = torch.randn(15, 8), offsets_of(LENGTHS)
    dense, valid = torch.randn(2, 6, 8), torch.arange(6) < torch.tensor([[4], [6]])
    with record_attention(attention) as maps:
        outputs = [attention(x, offsets=offsets), attention(dense).flatten(0, 1), attention(dense, valid).flatten(0, 1)]
    tokens = [x, dense.flatten(0, 1), dense.flatten(0, 1)]
    assert [(m.layer, m.keys, m.weights.shape[1]) for m in maps] == [("", "tokens", 1)] * 3
    for found, values, out in zip(maps, tokens, outputs):
        torch.testing.assert_close(matrix(found, len(out), len(values)) @ values, out, rtol=1e-5, atol=1e-6)
    assert matrix(maps[2], 12, 12)[:, 4:6].abs().sum() == 0  # padding gives nothing to anybody


def test_context_maps_rebuild_the_output():
    torch.manual_seed(0)
    attention = Identity(8)
    x, context = torch.randn(15, 8), torch.randn(9, 8)
    with record_attention(attention) as maps:
        out = attention(x, offsets=offsets_of(LENGTHS), context=context, context_offsets=offsets_of([2, 0, 3, 4]))
    assert maps[0].keys == "context"
    torch.testing.assert_close(matrix(maps[0], 15, 9) @ context, out, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lengths", [[9, 0, 1, 30], [12, 12]])
def test_pct_maps_are_the_effective_ones(lengths):
    """Token j receives row j: the transpose of what the softmax was taken of, each row adding up to one."""
    torch.manual_seed(0)
    layer = SelfAttention(16, offset=False).eval()
    batch = PointBatch.from_list([torch.randn(n, 3 + 16) for n in lengths])
    seen: list[torch.Tensor] = []
    layer.transform.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with record_attention(layer) as maps:
        recorded = layer(batch)
    rows = len(batch.xyz)
    weights = matrix(maps[0], rows, rows)
    torch.testing.assert_close(weights @ layer.value(batch.features), seen[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weights.sum(1), torch.ones(rows))
    torch.testing.assert_close(recorded.features, layer(batch).features)


def test_vector_attention_has_a_head_for_each_channel():
    torch.manual_seed(0)
    layer = VectorAttention(8)
    x, xyz = torch.randn(5, 8), torch.randn(5, 3)
    index = torch.tensor([[0, 1, 2], [1, 0, -1], [2, 4, 3], [3, -1, -1], [4, 3, 0]])
    with record_attention(layer) as maps:
        out = layer(x, xyz, index)
    torch.testing.assert_close(out, layer(x, xyz, index))
    (found,) = maps
    assert found.weights.shape == (5, 8, 1, 3)
    delta = layer.position(xyz[:, None] - xyz[index])  # rows at -1 have weight 0
    again = (found.weights[:, :, 0].mT * (layer.value(x)[index] + delta)).sum(1)
    torch.testing.assert_close(again, out)
    query, key, weight = found.pairs()
    assert list(zip(query.tolist(), key.tolist())) == [(i, j) for i in range(5) for j in index[i].tolist() if j >= 0]
    torch.testing.assert_close(weight.sum(), torch.tensor(5.0))


def test_a_maximum_gives_shares_of_channels():
    layer = RecordedLayer()
    candidates = torch.tensor([[[1.0, 5, 2, 0], [3, 4, 9, 1]], [[0, 0, 0, 0], [7, 7, 7, 7]]])
    with record_attention(layer) as maps:
        layer.record_maximum(candidates, torch.tensor([[4, 2], [3, -1]]))
    assert matrix(maps[0], 2, 5).tolist() == [[0, 0, 0.75, 0, 0.25], [0, 0, 0, 1, 0]]
    assert maps[0].keys == "children"


def test_layers_that_make_coarse_tokens_hand_over_their_children():
    torch.manual_seed(0)
    batch = PointBatch.from_list([torch.randn(n, 3 + 4) for n in (40, 3)])
    patches = make_patches(batch, 4, 8)
    down, patch, head = (
        TransitionDown(4, 6, 5),
        PatchEmbedding(6, in_channels=7),
        ClassificationHead(nn.Identity(), 4, 0),
    )
    for layer, run in ((down, lambda: down(batch)), (patch, lambda: patch(patches)), (head, lambda: head(batch))):
        with record_attention(layer) as maps:
            out = run()
        coarse = len(out.xyz) if isinstance(out, PointBatch) else len(out)
        shares = matrix(maps[0], coarse, 43)
        torch.testing.assert_close(shares.sum(1), torch.ones(coarse))
        assert maps[0].keys == "children"
    assert (shares[0, 40:] == 0).all()  # of the head: each cloud has its own points
    with record_attention(head := ClassificationHead(nn.Identity(), 4, 0, reduce="mean")) as maps:
        head(batch)
    assert matrix(maps[0], 2, 43).unique().tolist() == pytest.approx([0, 1 / 40, 1 / 3])


def test_heads_that_see_different_keys():
    """As deformable attention does: an index for each head."""
    found = AttentionMap(
        "", "context", torch.tensor([[[[0.25, 0.75]], [[1.0, 0.0]]]]), key_index=torch.tensor([[[0, 1], [2, -1]]])
    )
    assert matrix(found, 1, 3).tolist() == [[0.125, 0.375, 0.5]]


def test_memory_slots_are_the_same_for_all():
    found = AttentionMap("", "memory", torch.ones(2, 1, 3, 4) / 4)
    assert matrix(found, 6, 4).tolist() == [[0.25] * 4] * 6


# ---- models ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["npct", "pct", "point_transformer", "pointnet2_msg"])
def test_models_from_points_to_pooled_vector(name):
    """Logits stay the same, every row of every map adds up to one, and maps fit together: the keys of a layer are the
    queries of the one before."""
    torch.manual_seed(0)
    small = {"pct": {"dim": 32, "width": 64, "tokens": (32, 16), "k": 8}, "npct": {"dim": 16, "width": 32}}
    model = create_model(name, num_classes=5, **small.get(name, {})).eval()
    clouds = [torch.randn(n, model.in_channels) for n in (64, 20)]
    plain = model(clouds)
    with record_attention(model) as maps:
        torch.testing.assert_close(model(clouds), plain, rtol=1e-4, atol=1e-5)
    names = dict(model.named_modules())
    tokens = 84
    for found in maps:
        assert isinstance(names[found.layer], RecordedLayer)
        query, key, weight = found.pairs()
        assert key.max() < tokens
        tokens = int(query.max()) + 1
        total = torch.zeros(tokens).index_add(0, query, weight)
        torch.testing.assert_close(total, torch.ones(tokens), rtol=1e-4, atol=1e-4)
    assert tokens == 2
    assert maps[-1].layer == "head"


def test_gradients_by_weights():
    """Gradient times attention: maps are part of what the output was computed from, in every layout."""
    torch.manual_seed(0)
    model = nn.Sequential(VectorAttention(8))
    xyz, index = torch.randn(9, 3), torch.randint(0, 9, (9, 4))
    attention, pct = MultiHeadAttention(8, 2), SelfAttention(8, offset=True).eval()
    x = torch.randn(9, 8)
    ragged = PointBatch.from_list([torch.randn(n, 11) for n in (5, 4)])
    for layer, run in (
        (model, lambda: model[0](x, xyz, index)),
        (attention, lambda: attention(x[None])),
        (attention, lambda: attention(x, offsets=offsets_of([4, 5]))),
        (pct, lambda: pct(ragged).features),
    ):
        with record_attention(layer) as maps:
            out = run()
        (gradient,) = torch.autograd.grad(out.square().sum(), maps[0].weights)
        assert gradient.abs().sum() > 0


# ---- the block itself ------------------------------------------------------------------------------------------------
def record_and_fail(model: nn.Module, x: torch.Tensor, maps: list[AttentionMap]) -> None:
    with record_attention(model) as found:
        model(x)
        maps += found
        raise RuntimeError("on purpose")


def test_nothing_is_left_behind():
    model = nn.Sequential(MultiHeadAttention(8, 2), nn.Sequential(MultiHeadAttention(8, 2)))
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    maps: list[AttentionMap] = []
    with pytest.raises(RuntimeError, match="on purpose"):
        record_and_fail(model, torch.randn(1, 3, 8), maps)
    assert not is_recorded(model)
    model(torch.randn(1, 3, 8))
    assert [found.layer for found in maps] == ["0", "1.0"]
    for name, module in model.named_modules():
        assert {**vars(module), "_recorders": ()} == {**before[name], "_recorders": ()}


def test_blocks_within_blocks():
    model = nn.Sequential(MultiHeadAttention(8, 2), MultiHeadAttention(8, 2))
    x, inner = torch.randn(1, 3, 8), []
    with record_attention(model) as outer:
        model(x)
        with pytest.raises(RuntimeError, match="on purpose"):
            record_and_fail(model[1], x, inner)
        assert is_recorded(model[1])
        model(x)
    model(x)
    assert [found.layer for found in outer] == ["0", "1", "1", "0", "1"]
    assert [found.layer for found in inner] == [""]
    assert inner[0].weights is outer[2].weights


def test_blocks_that_end_in_another_order():
    model = nn.Sequential(MultiHeadAttention(8, 2))
    first, second = record_attention(model), record_attention(model)
    maps = first.__enter__(), second.__enter__()
    first.__exit__(None, None, None)
    model(torch.randn(1, 3, 8))
    second.__exit__(None, None, None)
    model(torch.randn(1, 3, 8))
    assert [len(found) for found in maps] == [0, 1]
    assert not is_recorded(model)


def test_one_model_does_not_disturb_another():
    model, other = MultiHeadAttention(8, 2), MultiHeadAttention(8, 2)
    with record_attention(model) as maps:
        other(torch.randn(1, 3, 8))
    assert maps == []


def test_a_model_without_attention():
    with (
        pytest.raises(ValueError, match="Linear has no layer whose attention can be recorded"),
        record_attention(nn.Linear(2, 2)),
    ):
        pass


def test_compiled_models():
    torch.manual_seed(0)
    model = nn.Sequential(MultiHeadAttention(8, 2), nn.GELU(), MultiHeadAttention(8, 2))
    compiled = torch.compile(model, backend="aot_eager")
    x = torch.randn(2, 5, 8)
    plain = model(x)
    torch.testing.assert_close(compiled(x), plain)
    with record_attention(compiled) as maps:
        torch.testing.assert_close(compiled(x), plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(compiled(x), plain)
    assert [found.layer for found in maps] == ["0", "2"]
    with record_attention(model) as expected:
        model(x)
    torch.testing.assert_close(maps[1].weights, expected[1].weights)
