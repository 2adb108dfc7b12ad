import pytest
import torch
import torch.nn.functional as F

from pctransformer.models import create_model
from pctransformer.models.point_mae import convert_point_mae, point_mae_pretraining
from pctransformer.models.point_mae_segmentation import convert_point_mae_parts, point_mae_seg
from pctransformer.ops import interpolate
from pctransformer.point_view.patches import make_patches
from pctransformer.points import PointBatch
from tests.models.test_point_mae import SMALL, Public, public_layout, saved, shapes, small_layout

CARRIED, HIDDEN, PARTS = (20, 12), (18, 10), 7
SIZES = {**SMALL, "depth": 4, "carried": CARRIED, "hidden": HIDDEN, "num_categories": 16}


def layout(dim: int, carried: tuple[int, int], hidden: tuple[int, int], parts: int, **encoder) -> dict:
    """Names and shapes of the authors' state dict for parts, with random values."""
    weights = {
        name: value
        for name, value in public_layout("classifier", decoder_depth=0, dim=dim, **encoder).items()
        if not name.startswith("cls_")
    }
    generator = torch.Generator().manual_seed(1)

    def convolution(name: str, out: int, inside: int, bias: bool = True) -> None:
        weights[f"{name}.weight"] = torch.randn(out, inside, 1, generator=generator) / inside**0.5
        if bias:
            weights[f"{name}.bias"] = torch.randn(out, generator=generator)

    def norm(name: str, channels: int) -> None:
        for value in ("weight", "bias", "running_mean", "running_var"):
            weights[f"{name}.{value}"] = torch.rand(channels, generator=generator) + 0.5
        weights[f"{name}.num_batches_tracked"] = torch.tensor(7)

    convolution("label_conv.0", 64, 16, bias=False)
    norm("label_conv.1", 64)
    for i, (inside, out) in enumerate(((3 * dim + 3, carried[0]), carried)):
        convolution(f"propagation_0.mlp_convs.{i}", out, inside)
        norm(f"propagation_0.mlp_bns.{i}", out)
    convolution("convs1", hidden[0], carried[1] + 6 * dim + 64)
    norm("bns1", hidden[0])
    convolution("convs2", hidden[1], hidden[0])
    norm("bns2", hidden[1])
    convolution("convs3", parts, hidden[1])
    return weights


def public_logits(weights: dict, points: torch.Tensor, category: int) -> torch.Tensor:
    """What the authors' network computes for one cloud, from their names of weights, in evaluation mode."""
    public = Public(weights)
    batch = PointBatch.from_dense(points[None])
    patches = make_patches(batch, 10, 6)
    centers = patches.centers.xyz
    x, code = torch.stack([public.token(patch) for patch in patches.points]), public.code("pos_embed", centers)
    levels = []
    for i in range(4):
        one = {
            name.replace(f"blocks.{i}.", "blocks.0."): value
            for name, value in weights.items()
            if f"blocks.{i}." in name
        }
        x = Public(one).blocks("blocks.blocks", x, code, depth=1, heads=3)
        if i in (1, 2, 3):  # of 12 layers the 4th, 8th and 12th: a third of 4 is rounded up
            levels.append(public.layer_norm("norm", x))
    tokens = torch.cat(levels, 1)
    x = interpolate(centers, torch.tensor([0, 10]), tokens, points, batch.offsets, power=2)
    x = torch.cat([points, x], 1)
    for i in (0, 1):
        x = public.linear(f"propagation_0.mlp_convs.{i}", x)
        x = public.batch_norm(f"propagation_0.mlp_bns.{i}", x).relu()
    told = public.linear("label_conv.0", F.one_hot(torch.tensor([category]), 16).float())
    told = F.leaky_relu(public.batch_norm("label_conv.1", told), 0.2)
    cloud = torch.cat([tokens.amax(0), tokens.mean(0), told[0]])
    x = torch.cat([x, cloud.expand(len(x), -1)], 1)
    for i in (1, 2):
        x = public.batch_norm(f"bns{i}", public.linear(f"convs{i}", x)).relu()
    return public.linear("convs3", x)


def test_public_weights_give_the_public_logits(tmp_path):
    sizes = {"dim": 24, "carried": CARRIED, "hidden": HIDDEN, "parts": PARTS}
    weights = layout(**sizes, depth=4, widths=(8, 16), patch_size=6)
    model = create_model(
        "point_mae_seg", num_classes=PARTS, **SIZES, pretrained=saved(weights, tmp_path / "a.pth")
    ).eval()
    category = torch.tensor([3, 0, 15])
    expected = torch.cat([public_logits(weights, *pair) for pair in zip(shapes(), category.tolist())])
    assert expected.std() > 0.1
    with torch.no_grad():
        torch.testing.assert_close(model(shapes(), category), expected, rtol=1e-4, atol=1e-4)


def test_the_published_size():
    """27.06 M, for 16 categories: the authors' code."""
    model = point_mae_seg(num_categories=16)
    weights = layout(384, (1536, 1024), (512, 256), 50, depth=12, widths=(128, 256), patch_size=32)
    assert len(weights) == 192
    assert sum(p.numel() for p in model.parameters()) == 27_063_730
    assert {name: value.shape for name, value in convert_point_mae_parts(weights).items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    assert model.taken == (4, 8, 12)


@pytest.mark.parametrize("origin", ["public", "own"])
def test_pretrained_encoder_joins_new_layers(tmp_path, origin):
    path = tmp_path / "a.pth"
    pretrained = point_mae_pretraining(**SMALL, decoder_depth=1)
    if origin == "public":
        saved(small_layout("pretraining"), path)
    else:
        torch.save({"model": pretrained.state_dict()}, path)
    model = create_model("point_mae_seg", num_classes=5, pretrained=path, **{**SIZES, "depth": 2}).eval()
    theirs = convert_point_mae(small_layout("pretraining")) if origin == "public" else pretrained.state_dict()
    shared = {name: value for name, value in model.state_dict().items() if name.startswith(("encoder.", "tokenizer."))}
    assert len(shared) == 2 * 12 + 2 + 4 * 2 + 2 * 5 + 4  # two layers, a norm; linear layers, batch norms; codes
    assert [name for name, value in shared.items() if not torch.equal(value, theirs[name])] == []
    assert model(shapes(), torch.tensor([0, 1, 2])).shape == (180, 5)
