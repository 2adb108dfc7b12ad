import pytest
import torch

from pctransformer.models import create_model
from pctransformer.points import PointBatch

DIMS = [32] * 2 + [64] * 2 + [128] * 2 + [256] * 6 + [512] * 2


def size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_published_sizes():
    """Counted in Pointcept for 6 channels: 38 672 640 down, 46 166 272 down and up, without heads."""
    classifier = create_model("point_transformer_v3", position="convolution")
    assert size(classifier.encoder) == 38_672_640
    segmenter = create_model("point_transformer_v3_seg", position="convolution")
    assert size(segmenter) - size(segmenter.head) == 46_166_272


def test_convolutions_are_most_of_it():
    """In front of each block 3^3 cells with bias, a linear layer and a LayerNorm; 5^3 cells for a linear stem."""
    more = sum(27 * c * c + c + c * c + c + 2 * c for c in DIMS) + (5**3 - 1) * 6 * 32
    rotary = create_model("point_transformer_v3")
    assert size(rotary) == 11_912_616
    assert size(create_model("point_transformer_v3", position="convolution")) == 11_912_616 + more


def small(name: str = "point_transformer_v3", **options) -> torch.nn.Module:
    torch.manual_seed(0)
    shape = {"dims": (16, 32, 48), "depths": (1, 2, 1), "patch_size": 16, "cell_size": 0.1}
    return create_model(name, num_classes=5, in_channels=3, **(shape | options)).eval()


def test_levels_join_cells_of_twice_the_size():
    points = torch.rand(2, 300, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        levels, joined = small().encoder(PointBatch.from_dense(points))
    for level, found in enumerate(levels):
        cells = ((points / 0.1).floor() - (points / 0.1).floor().amin(1, keepdim=True)).long() >> level
        expected = [300, 300] if level == 0 else [len(torch.unique(cloud, dim=0)) for cloud in cells]
        assert found.points.lengths.tolist() == expected
    assert len(joined) == 2


def test_evaluation_repeats_and_training_shuffles():
    points = torch.rand(2, 100, 3, generator=torch.Generator().manual_seed(0))
    model = small(depths=(2, 2, 2), drop_path=0.0)
    assert torch.equal(model(points), model(points))
    model.encoder.train()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.eval()
    outputs = [model(points) for _ in range(4)]
    assert any(not torch.allclose(outputs[0], other) for other in outputs[1:])


def test_position_makes_the_difference():
    """The same points a little apart: attention without positions sees it in the stem only."""
    assert size(small(position="none")) == size(small())
    points = torch.rand(1, 100, 3, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(small(position="none")(points), small()(points))


@pytest.mark.parametrize("name", ["point_transformer_v3", "point_transformer_v3_seg"])
def test_convolution_as_position(name):
    """Clouds of any sizes, each as if alone; every weight learns, and all of it repeats exactly."""
    shape = {"up_dims": (16, 32), "up_depths": (1, 1)} if name.endswith("seg") else {}
    model = small(name=name, position="convolution", **shape)
    clouds = [torch.rand(n, 3, generator=torch.Generator().manual_seed(n)) for n in (90, 1, 30)]
    together = model(clouds)
    alone = torch.cat([model([cloud]) for cloud in clouds])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert model([clouds[0], clouds[0][:0]]).isfinite().all()
    torch.use_deterministic_algorithms(True)
    try:
        gradients = [torch.autograd.grad(model(clouds).square().sum(), [*model.parameters()]) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, *gradients))
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])


def test_cells_are_found_once_for_each_level(monkeypatch):
    """Blocks on the way up use what those on the way down found."""
    import pctransformer.point_view.serialization as module

    found, occupy = [], module.occupy
    monkeypatch.setattr(module, "occupy", lambda *of: found.append(of) or occupy(*of))
    model = small(name="point_transformer_v3_seg", position="convolution", up_dims=(16, 32), up_depths=(2, 1))
    model(torch.rand(1, 50, 3))
    assert len(found) == 3
    found.clear()
    small()(torch.rand(1, 50, 3))
    assert found == []


def public_names(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights of a segmentation network as Pointcept names and lays them out, random."""
    weights = {}

    def layer(public: str, ours: torch.nn.Module) -> None:
        for name, value in ours.state_dict().items():
            weights[f"backbone.{public}.{name}"] = torch.rand(value.shape).to(value.dtype)

    def block(public: str, ours: torch.nn.Module) -> None:
        layer(f"{public}.cpe.0", ours.position.convolution.conv)
        layer(f"{public}.cpe.1", ours.position.proj)
        layer(f"{public}.cpe.2", ours.position.norm)
        layer(f"{public}.norm1.0", ours.attention_residual.norm)
        layer(f"{public}.attn", ours.attention)
        layer(f"{public}.norm2.0", ours.mlp_residual.norm)
        layer(f"{public}.mlp.0", ours.mlp)

    layer("embedding.stem.conv", model.encoder.convolution.conv)
    layer("embedding.stem.norm", model.encoder.stem[0])
    for s, blocks in enumerate(model.encoder.blocks):
        if s:
            layer(f"enc.enc{s}.down.proj", model.encoder.down[s - 1].proj)
            layer(f"enc.enc{s}.down.norm.0", model.encoder.down[s - 1].norm[0])
        for i, of_level in enumerate(blocks.blocks):
            block(f"enc.enc{s}.block{i}", of_level)
    for s, (up, blocks) in enumerate(zip(reversed(model.up), reversed(model.blocks))):
        for public, ours in (("proj", up.coarse), ("proj_skip", up.fine)):
            layer(f"dec.dec{s}.up.{public}.0", ours[0])
            layer(f"dec.dec{s}.up.{public}.1", ours[1])
        for i, of_level in enumerate(blocks.blocks):
            block(f"dec.dec{s}.block{i}", of_level)
    weights["seg_head.weight"], weights["seg_head.bias"] = torch.rand(5, 16), torch.rand(5)
    return weights


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_public_weights_find_their_places(tmp_path, prefix):
    options = {"name": "point_transformer_v3_seg", "position": "convolution", "up_dims": (16, 32), "up_depths": (2, 1)}
    public = public_names(small(**options))
    assert {name.split(".", 1)[1] for name in public} >= {  # as published, a few of each kind
        "embedding.stem.conv.weight", "enc.enc2.block0.cpe.0.bias", "enc.enc1.block1.norm1.0.weight",
        "enc.enc1.down.norm.0.running_mean", "dec.dec0.block1.attn.qkv.bias", "dec.dec1.up.proj_skip.1.weight",
        "dec.dec0.block0.mlp.0.fc2.weight",
    }  # fmt: skip
    file = tmp_path / "public.pt"
    torch.save({"state_dict": {prefix + name: value for name, value in public.items()}}, file)
    model = small(**options, pretrained=file)
    assert torch.equal(model.blocks[1].blocks[1].attention.qkv.bias, public["backbone.dec.dec0.block1.attn.qkv.bias"])
    assert torch.equal(model.up[0].fine[0].weight, public["backbone.dec.dec1.up.proj_skip.0.weight"])
    assert torch.equal(model.head.classifier.weight, public["seg_head.weight"])
    # kernels of theirs run over x, y, z
    kernel = model.encoder.blocks[1].blocks[0].position.convolution.conv.weight
    theirs = public["backbone.enc.enc1.block0.cpe.0.weight"]
    assert torch.equal(kernel[:, 0, 1, 2], theirs[:, 2, 1, 0])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"position": "sine"}, 'position must be "rotary", "convolution" or "none"'),
        ({"dims": (16, 40, 48)}, "multiples of 16"),
        ({"cell_size": -1.0}, "cell_size"),
    ],
)
def test_errors(options, text):
    with pytest.raises(ValueError, match=text):
        small(**options)(torch.rand(1, 10, 3))


def test_gradients_repeat_exactly():
    points = torch.rand(2, 200, 3, generator=torch.Generator().manual_seed(0))

    def gradient() -> list[torch.Tensor]:
        model = small()
        model(points).square().sum().backward()
        return [parameter.grad for parameter in model.parameters()]

    torch.use_deterministic_algorithms(True)
    try:
        assert all(map(torch.equal, gradient(), gradient()))
    finally:
        torch.use_deterministic_algorithms(False)


def test_norms_of_the_small_size_follow_short_trainings():
    model = create_model("point_transformer_v3_small_seg", num_classes=2, in_channels=3)
    momenta = {module.momentum for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)}
    assert momenta == {0.1}
    published = create_model("point_transformer_v3_seg", num_classes=2, in_channels=3)
    assert {m.momentum for m in published.modules() if isinstance(m, torch.nn.BatchNorm1d)} == {0.01}
