import copy
import dataclasses
import pickle

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pctransformer.heads.classification import ClassificationHead
from pctransformer.layers.attention import MultiHeadAttention
from pctransformer.layers.attention_map import Choice
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


def test_copies_and_files_are_not_recorded():
    """A copy that is made while somebody looks, as of averaged weights, would keep all its maps for ever."""
    model, x = nn.Sequential(MultiHeadAttention(8, 2)), torch.randn(1, 3, 8)
    with record_attention(model) as maps:
        model(x)
        copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        assert is_recorded(model)
    for other in copies:
        assert not is_recorded(other)
        torch.testing.assert_close(other(x), model(x))
        with record_attention(other) as own:
            other(x)
        assert len(own) == len(maps) == 1


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


def test_wrapped_models_name_layers_as_the_model_does(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.Sequential(MultiHeadAttention(8, 2), MultiHeadAttention(8, 2))
        wrapped = nn.parallel.DistributedDataParallel(model)
        several = wrapped, nn.parallel.DistributedDataParallel(torch.compile(model, backend="eager"))
        for one in (*several, torch.compile(wrapped, backend="eager")):
            with torch.no_grad(), record_attention(one, layers="1") as maps:
                one(torch.randn(1, 3, 8))
            assert [found.layer for found in maps] == ["1"]
    finally:
        torch.distributed.destroy_process_group()


# ---- less of it ------------------------------------------------------------------------------------------------------
def pair_weights(found: AttentionMap) -> dict[tuple[int, int], float]:
    query, key, weight = found.pairs()
    return dict(zip(zip(query.tolist(), key.tolist()), weight.tolist()))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_chosen_heads_queries_and_keys_are_those_of_the_whole_map(packed, causal):
    """And the output is computed as if nobody looked: of dense tokens it is equal bit for bit."""
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 4, causal=causal)
    x = torch.randn(15, 8) if packed else torch.randn(3, 5, 8)
    options = {"offsets": offsets_of(LENGTHS)} if packed else {}
    plain = attention(x, **options)
    with record_attention(attention) as whole, record_attention(attention, heads=[2]) as one_head:
        attention(x, **options)
    with record_attention(attention, heads=[2], queries=[14, 3, 99]) as some:
        torch.testing.assert_close(
            attention(x, **options), plain, rtol=1e-5 if packed else 0, atol=1e-6 if packed else 0
        )
    with record_attention(attention, heads="mean", top_k=2) as top:
        torch.testing.assert_close(
            attention(x, **options), plain, rtol=1e-5 if packed else 0, atol=1e-6 if packed else 0
        )
    expected = dict(pair_weights(dataclasses.replace(whole[0], weights=whole[0].weights[:, 2:3])))
    assert pair_weights(one_head[0]) == pytest.approx(expected)
    assert pair_weights(some[0]) == pytest.approx({pair: w for pair, w in expected.items() if pair[0] in (3, 14)})
    assert some[0].weights.shape == (2, 1, 1, 9 if packed else 5)
    assert (some[0].is_partial, len(some[0])) == (True, 15)
    mean = matrix(whole[0], 15, 15)
    best = mean.topk(2)
    expected = torch.zeros(15, 15).scatter(1, best.indices, best.values)
    torch.testing.assert_close(matrix(top[0], 15, 15), expected)
    assert top[0].weights.shape[1:] == (1, 1, 2)


def test_top_keys_of_each_head():
    torch.manual_seed(0)
    layer = VectorAttention(8)
    x, xyz, index = torch.randn(5, 8), torch.randn(5, 3), torch.randint(0, 5, (5, 4))
    with record_attention(layer) as whole, record_attention(layer, top_k=1) as top:
        layer(x, xyz, index)
    assert top[0].weights.shape == (5, 8, 1, 1)
    torch.testing.assert_close(top[0].weights[..., 0], whole[0].weights.amax(3))
    torch.testing.assert_close(top[0].key_index[..., 0], index.gather(1, whole[0].weights[:, :, 0].argmax(2)))


def test_the_mean_of_heads_that_see_different_keys():
    found = AttentionMap("", "context", torch.tensor([[[[0.25, 0.75]], [[1.0, 0.0]]]]),
                         key_index=torch.tensor([[[0, 1], [2, -1]]]))  # fmt: skip
    mean = Choice(heads="mean").of(found)
    assert mean.weights.shape == (1, 1, 1, 4)
    assert torch.equal(matrix(mean, 1, 3), matrix(found, 1, 3))


def test_chosen_layers_and_the_others_do_not_notice():
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": MultiHeadAttention(4, 1), "b": MultiHeadAttention(4, 1), "c": VectorAttention(4)})
    for layers, names in (("a", "a"), (["b", "a"], "ab"), ("[ab]", "ab"), ("*", "abc")):
        with record_attention(model, layers=layers) as maps:
            assert "".join(name for name, layer in model.items() if layer.is_recorded) == names
        assert maps == []
    pooled = nn.Sequential(TransitionDown(4, 6, 5), MultiHeadAttention(6, 1))
    with record_attention(pooled, layers="1"):
        assert pooled[0].is_recorded  # what tokens are made of is always handed over


def test_memory_is_bounded_while_recording():
    """Never are there all weights of dense attention: no tensor as large is made."""
    attention, x = MultiHeadAttention(8, 1), torch.randn(1, 1024, 8)

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple) else (out,):
                if isinstance(tensor, torch.Tensor):
                    self.size = max(self.size, tensor.numel())
            return out

    for options, most in (({}, None), ({"top_k": 4}, 256 * 1024), ({"queries": [5, 900]}, 1024 * 24)):
        with torch.no_grad(), Largest() as largest, record_attention(attention, **options) as maps:
            attention(x)
        assert largest.size == 1024**2 if most is None else largest.size <= most
    assert maps[0].weights.shape == (2, 1, 1, 1024)


def test_tokens_through_a_memory():
    """Two tokens that use the same slot, and one that uses another; padding is none."""
    weights = torch.tensor([[[[1.0, 0], [1, 0], [0, 1], [0.5, 0.5]]]])
    found = AttentionMap("", "memory", weights, torch.tensor([[0, 1, 2, -1]])).through_memory()
    assert matrix(found, 3, 3).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    with pytest.raises(ValueError, match="attends to tokens, not to a memory"):
        found.through_memory()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"layers": "encoder.9"}, r"no attention layer is called encoder.9; there are 0$"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"heads": "max"}, "heads must be"),
        ({"heads": 0}, "heads must be"),
        ({"queries": [1, -1]}, "queries must be rows of queries, counted from 0, got -1"),
        ({"heads": [4]}, r"0 has heads 0 to 1, got \[4\]"),
    ],
)
def test_wrong_choices_are_explained(options, text):
    model = nn.Sequential(MultiHeadAttention(4, 2))
    with pytest.raises(ValueError, match=text), record_attention(model, **options):
        model[0](torch.zeros(1, 3, 4))
