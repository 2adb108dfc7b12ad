import pytest
import torch

from pctransformer.layers.recording import record_attention
from pctransformer.models import create_model
from pctransformer.models.point_transformer_unet import TransitionDown, TransitionUp, WholeCloud
from pctransformer.point_view.local_attention import GroupedVectorAttention
from pctransformer.points import PointBatch

DIMS = (32, 64, 128, 256, 512)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("point_transformer_50_seg", {"num_classes": 13}, 7_767_729),
        ("point_transformer_50_seg", {"num_classes": 20, "in_channels": 9}, 7_768_056),
        ("point_transformer_50_seg", {"num_classes": 50, "num_categories": 16}, 8_310_646),
        ("point_transformer_26_seg", {"num_classes": 50}, 4_855_366),
        ("point_transformer_26", {}, 2_159_778),
        ("point_transformer_50", {}, 5_073_362),
    ],
)
def test_sizes(name, options, count):
    """Segmentation as counted in Pointcept (Seg26, Seg50, PartSeg50); classification is its encoder and its head."""
    assert sum(p.numel() for p in create_model(name, **options).parameters()) == count


def randomize(module: torch.nn.Module) -> torch.nn.Module:
    """Norms that do something, in evaluation mode."""
    generator = torch.Generator().manual_seed(5)
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module.eval()


def test_grouped_attention_equals_the_formula():
    """Written out for every point, neighbour and channel; a missing neighbour counts for nothing."""
    torch.manual_seed(0)
    layer = randomize(GroupedVectorAttention(8, shared=4))
    x, xyz = torch.randn(5, 8), torch.randn(5, 3)
    index = torch.tensor([[0, 1, 2], [1, 0, -1], [2, 4, 3], [3, -1, -1], [4, 3, 0]])
    expected = torch.zeros(5, 8)
    for i in range(5):
        seen = [j for j in index[i].tolist() if j >= 0]
        delta = torch.cat([layer.position((xyz[j] - xyz[i])[None]) for j in seen])
        score = torch.cat([layer.weight(layer.key(x[j]) - layer.query(x[i]) + d[None]) for j, d in zip(seen, delta)])
        weight = score.softmax(0)  # (seen, two weights)
        for c in range(8):
            expected[i, c] = sum(weight[n, c % 2] * (layer.value(x[j]) + delta[n])[c] for n, j in enumerate(seen))
    torch.testing.assert_close(layer(x, xyz, index), expected)


def test_grouped_attention_hands_over_its_weights():
    torch.manual_seed(0)
    layer = randomize(GroupedVectorAttention(8))
    x, xyz, index = torch.randn(3, 8), torch.randn(3, 3), torch.tensor([[0, 1], [1, -1], [2, 0]])
    plain = layer(x, xyz, index)
    with record_attention(layer) as maps:
        torch.testing.assert_close(layer(x, xyz, index), plain)
    query, key, weight = maps[0].pairs()
    assert list(zip(query.tolist(), key.tolist())) == [(0, 0), (0, 1), (1, 1), (2, 2), (2, 0)]
    torch.testing.assert_close(torch.zeros(3).index_add(0, query, weight), torch.ones(3))


def test_transition_down_sees_relative_coordinates():
    torch.manual_seed(0)
    layer = randomize(TransitionDown(2, 6, k=3))
    cloud = torch.randn(8, 5)
    out = layer(PointBatch.from_dense(cloud[None]))
    assert out.xyz.shape == (2, 3)
    for xyz, features in zip(out.xyz, out.features):
        nearest = (cloud[:, :3] - xyz).norm(dim=1).topk(3, largest=False).indices
        grouped = torch.cat([cloud[nearest, :3] - xyz, cloud[nearest, 3:]], 1)
        torch.testing.assert_close(features, layer.layer(grouped).amax(0))


def test_way_up_by_formula():
    """Three points far from a fourth: it takes the mean of what they have, weighted by inverse distance."""
    torch.manual_seed(0)
    up, whole = randomize(TransitionUp(4, 2)), randomize(WholeCloud(4, 3))
    coarse, fine = PointBatch.from_list([torch.randn(3, 7)]), PointBatch.from_list([torch.randn(1, 5)])
    weight = 1 / (coarse.xyz - fine.xyz).norm(dim=1)
    carried = (up.coarse(coarse.features) * (weight / weight.sum())[:, None]).sum(0)
    torch.testing.assert_close(up(coarse, fine).features, up.fine(fine.features) + carried)

    code = torch.tensor([[0.0, 1, 0]])
    cloud = torch.cat([whole.mean(coarse.features.mean(0)), whole.category(code[0])])
    expected = whole.both(torch.cat([coarse.features, cloud.expand(3, -1)], 1))
    torch.testing.assert_close(whole(coarse, code).features, expected)


def public_layout(transformer: str) -> dict[str, torch.Tensor]:
    """Names and shapes of the authors' state dict, numbered: every tensor is filled with a value of its own."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out_dim: int, in_dim: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (out_dim, in_dim)
        if bias:
            shapes[f"{name}.bias"] = (out_dim,)

    def norm(name: str, dim: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (dim,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def block(name: str, dim: int) -> None:
        linear(f"{name}.linear1", dim, dim, bias=False)
        linear(f"{name}.linear3", dim, dim, bias=False)
        for i in (1, 2, 3):
            norm(f"{name}.bn{i}", dim)
        attention = f"{name}.{transformer}"
        for part in "qkv":
            linear(f"{attention}.linear_{part}", dim, dim)
        linear(f"{attention}.linear_p.0", 3, 3)
        norm(f"{attention}.linear_p.1", 3)
        linear(f"{attention}.linear_p.3", dim, 3)
        norm(f"{attention}.linear_w.0", dim)
        linear(f"{attention}.linear_w.2", dim // 8, dim)
        norm(f"{attention}.linear_w.3", dim // 8)
        linear(f"{attention}.linear_w.5", dim // 8, dim // 8)

    for level, (dim, depth) in enumerate(zip(DIMS, (1, 2, 3, 5, 2)), 1):
        linear(f"enc{level}.0.linear", dim, 6 if level == 1 else 3 + dim // 2, bias=False)
        norm(f"enc{level}.0.bn", dim)
        for i in range(depth):
            block(f"enc{level}.{i + 1}", dim)
        linear(f"dec{level}.0.linear1.0", dim, dim if level < 5 else 2 * dim)
        norm(f"dec{level}.0.linear1.1", dim)
        linear(f"dec{level}.0.linear2.0", dim, 2 * dim if level < 5 else dim)
        if level < 5:
            norm(f"dec{level}.0.linear2.1", dim)
        block(f"dec{level}.1", dim)
    linear("cls.0", 32, 32)
    norm("cls.1", 32)
    linear("cls.3", 13, 32)
    return {name: torch.full(shape, number) for number, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("transformer", ["transformer", "transformer2"])
def test_public_layout_loads(tmp_path, transformer):
    """The names of Pointcept, and of POSTECH-CVLab, which also puts `module.` in front."""
    weights = public_layout(transformer)
    assert len(weights) == 932
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, tmp_path / "model.pth")
    model = create_model("point_transformer_50_seg", num_classes=13, pretrained=tmp_path / "model.pth")
    for ours, public in (
        (model.encoder.stem[0].weight, "enc1.0.linear.weight"),
        (model.encoder.down[3].layer[1].running_var, "enc5.0.bn.running_var"),
        (model.encoder.blocks[3].layers[4].attention.query.weight, f"enc4.5.{transformer}.linear_q.weight"),
        (model.encoder.blocks[3].layers[4].attention.key.bias, f"enc4.5.{transformer}.linear_k.bias"),
        (model.encoder.blocks[0].layers[0].linear_in[0].weight, "enc1.1.linear1.weight"),
        (model.encoder.blocks[0].layers[0].linear_out.weight, "enc1.1.linear3.weight"),
        (model.blocks[1].layers[0].norm.weight, "dec2.1.bn2.weight"),
        (model.blocks[4].layers[0].norm_out.bias, "dec5.1.bn3.bias"),
        (model.whole.mean[0].weight, "dec5.0.linear2.0.weight"),
        (model.up[0].fine[0].weight, "dec1.0.linear1.0.weight"),
        (model.up[3].coarse[1].bias, "dec4.0.linear2.1.bias"),
        (model.head.hidden[0].weight, "cls.0.weight"),
        (model.head.classifier.weight, "cls.3.weight"),
    ):
        assert torch.equal(ours, weights[public].float()), public
