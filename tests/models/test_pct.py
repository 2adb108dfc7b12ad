import pytest
import torch

from pctransformer.models import create_model
from pctransformer.models.pct import SelfAttention, convert_pct_pytorch
from pctransformer.points import PointBatch


@pytest.mark.parametrize(("name", "count"), [("npct", 1_360_552), ("spct", 1_360_552), ("pct", 2_876_136)])
def test_published_sizes(name, count):
    assert sum(p.numel() for p in create_model(name, num_classes=40).parameters()) == count


def test_attention_equals_the_formula_on_every_cloud():
    torch.manual_seed(0)
    batch = PointBatch.from_list([torch.randn(n, 3 + 16) for n in (9, 0, 1, 30)])
    layer = SelfAttention(16, offset=True).eval()
    for cloud, out in zip(batch.split(), layer(batch).split()):
        x = cloud.features
        energy = layer.query_key(x) @ layer.query_key(x).T
        attention = energy.softmax(1)
        attention = attention / (1e-9 + attention.sum(0, keepdim=True))
        expected = x + layer.transform(x - attention.T @ layer.value(x)) if len(x) else x
        torch.testing.assert_close(out.features, expected)
        torch.testing.assert_close(attention.sum(0), torch.ones(len(x)))


def pct_pytorch_layout() -> dict[str, torch.Tensor]:
    """Names and shapes of the public port's state dict, with random values; buffers of norms included."""
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, torch.Tensor] = {}

    def layer(name: str, *shape: int, bias: bool = False) -> None:
        weights[f"module.{name}.weight"] = torch.randn(*shape, generator=generator)
        if bias:
            weights[f"module.{name}.bias"] = torch.randn(shape[0], generator=generator)

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            weights[f"module.{name}.{part}"] = torch.rand(channels, generator=generator)
        weights[f"module.{name}.num_batches_tracked"] = torch.tensor(7)

    layer("conv1", 64, 3, 1)
    layer("conv2", 64, 64, 1)
    norm("bn1", 64)
    norm("bn2", 64)
    for i, c in ((0, 128), (1, 256)):
        for j in (1, 2):
            layer(f"gather_local_{i}.conv{j}", c, c, 1)
            norm(f"gather_local_{i}.bn{j}", c)
    for j in (1, 2):
        layer(f"pt_last.conv{j}", 256, 256, 1)
        norm(f"pt_last.bn{j}", 256)
    for j in (1, 2, 3, 4):
        layer(f"pt_last.sa{j}.q_conv", 64, 256, 1)
        weights[f"module.pt_last.sa{j}.k_conv.weight"] = weights[f"module.pt_last.sa{j}.q_conv.weight"]
        layer(f"pt_last.sa{j}.v_conv", 256, 256, 1, bias=True)
        layer(f"pt_last.sa{j}.trans_conv", 256, 256, 1, bias=True)
        norm(f"pt_last.sa{j}.after_norm", 256)
    layer("conv_fuse.0", 1024, 1280, 1)
    norm("conv_fuse.1", 1024)
    layer("linear1", 512, 1024)
    norm("bn6", 512)
    layer("linear2", 256, 512, bias=True)
    norm("bn7", 256)
    layer("linear3", 40, 256, bias=True)
    return weights


def test_public_layout_loads(tmp_path):
    weights = pct_pytorch_layout()
    assert len(weights) == 113
    torch.save(weights, tmp_path / "model.t7")
    model = create_model("pct", pretrained=tmp_path / "model.t7")
    # the first embedding layer and the last attention layer, to tell the order of layers
    assert torch.equal(model.embedding.points.layers[0][0].weight, weights["module.conv1.weight"][..., 0])
    assert torch.equal(model.attention[3].query_key.weight, weights["module.pt_last.sa4.q_conv.weight"][..., 0])
    assert torch.equal(model.head.hidden[0][1].running_mean, weights["module.bn6.running_mean"])
    assert torch.equal(model.head.classifier.bias, weights["module.linear3.bias"])
    assert create_model("pct", num_classes=7, pretrained=tmp_path / "model.t7").head.classifier.out_features == 7


def test_keys_that_differ_from_queries_are_another_model():
    weights = pct_pytorch_layout()
    weights["module.pt_last.sa2.k_conv.weight"] = weights["module.pt_last.sa2.k_conv.weight"] + 1
    with pytest.raises(ValueError, match="shares them"):
        convert_pct_pytorch(weights)


def test_grouped_layer_before_the_gather_is_the_published_one():
    """The embedding applies its first layer per point; published is: to (x_j - x_i, x_i) per neighbour."""
    torch.manual_seed(0)
    model = create_model("pct", dim=32, width=32, tokens=(16, 8), k=4).eval()
    stage = model.embedding.groups[0]
    batch = PointBatch.from_dense(torch.randn(2, 40, 3 + 8))
    out = stage(batch)
    for b in range(2):
        xyz, x = batch.split()[b].xyz, batch.split()[b].features
        centres = out.split()[b].xyz
        nearest = torch.cdist(centres, xyz).topk(4, largest=False).indices
        own = torch.cdist(centres, xyz).argmin(1)
        grouped = torch.cat([x[nearest] - x[own][:, None], x[own][:, None].expand(-1, 4, -1)], 2).flatten(0, 1)
        expected = stage.second(stage.first(grouped)).view(16, 4, -1).amax(1)
        torch.testing.assert_close(out.split()[b].features, expected, rtol=1e-4, atol=1e-5)
