import pytest
import torch

from pctransformer.models import create_model
from pctransformer.models.pointnet2 import convert_yanx27

SSG = (((64, 64, 128),), ((128, 128, 256),))
MSG = (((32, 32, 64), (64, 64, 128), (64, 96, 128)), ((64, 64, 128), (128, 128, 256), (128, 128, 256)))


@pytest.mark.parametrize(
    ("name", "channels", "count"),
    [
        ("pointnet2_ssg", 3, 1_475_688),
        ("pointnet2_ssg", 6, 1_475_880),
        ("pointnet2_msg", 3, 1_747_368),
        ("pointnet2_msg", 6, 1_747_848),
    ],
)
def test_published_sizes(name, channels, count):
    """Counted in yanx27/Pointnet_Pointnet2_pytorch, whose layers are those of the paper's appendix B."""
    model = create_model(name, num_classes=40, in_channels=channels)
    assert sum(p.numel() for p in model.parameters()) == count


def yanx27_layout(scales: tuple[tuple[tuple[int, ...], ...], ...], features: int) -> dict[str, torch.Tensor]:
    """Names and shapes of the public port's state dict, with random values."""
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, torch.Tensor] = {}

    def layer(conv: str, norm: str, in_dim: int, out_dim: int, ones: int = 2) -> None:
        weights[f"{conv}.weight"] = torch.randn(out_dim, in_dim, *[1] * ones, generator=generator) / in_dim**0.5
        weights[f"{conv}.bias"] = torch.randn(out_dim, generator=generator)
        for part in ("weight", "bias", "running_mean", "running_var"):
            weights[f"{norm}.{part}"] = torch.rand(out_dim, generator=generator) + 0.5
        weights[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    for level, widths in enumerate(scales, 1):
        for scale, outs in enumerate(widths):
            several = len(widths) > 1
            for i, (a, b) in enumerate(zip((features + 3, *outs), outs)):
                conv, norm = (f"conv_blocks.{scale}", f"bn_blocks.{scale}") if several else ("mlp_convs", "mlp_bns")
                layer(f"sa{level}.{conv}.{i}", f"sa{level}.{norm}.{i}", a, b)
        features = sum(outs[-1] for outs in widths)
    for i, (a, b) in enumerate(((features + 3, 256), (256, 512), (512, 1024))):
        layer(f"sa3.mlp_convs.{i}", f"sa3.mlp_bns.{i}", a, b)
    layer("fc1", "bn1", 1024, 512, 0)
    layer("fc2", "bn2", 512, 256, 0)
    weights["fc3.weight"] = torch.randn(40, 256, generator=generator)
    weights["fc3.bias"] = torch.randn(40, generator=generator)
    return weights


def by_public_layout(weights: dict[str, torch.Tensor], points: torch.Tensor, scales: tuple) -> torch.Tensor:
    """Logits of one cloud (n, 3 + C), computed from public names alone: dense balls, padded with their first point."""

    def layer(conv: str, norm: str, x: torch.Tensor) -> torch.Tensor:
        x = x @ weights[f"{conv}.weight"].flatten(1).T + weights[f"{conv}.bias"]
        mean, var = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        return ((x - mean) / (var + 1e-5).sqrt() * weights[f"{norm}.weight"] + weights[f"{norm}.bias"]).relu()

    xyz, x = points[:, :3], points[:, 3:]
    for level, (samples, radii, ks) in enumerate(scales, 1):
        chosen = [0]
        nearest = (xyz - xyz[0]).square().sum(1)
        for _ in range(samples - 1):
            chosen.append(int(nearest.argmax()))
            nearest = torch.minimum(nearest, (xyz - xyz[chosen[-1]]).square().sum(1))
        outputs = []
        for scale, (radius, k) in enumerate(zip(radii, ks)):
            several = len(radii) > 1
            rows = []
            for center in xyz[chosen]:
                inside = ((xyz - center).square().sum(1) <= radius**2).nonzero()[:k, 0]
                inside = torch.cat([inside, inside[:1].expand(k - len(inside))])
                parts = [xyz[inside] - center, x[inside]]
                rows.append(torch.cat(parts[::-1] if several else parts, 1))
            hidden = torch.stack(rows)
            for i in range(3):
                conv, norm = (f"conv_blocks.{scale}", f"bn_blocks.{scale}") if several else ("mlp_convs", "mlp_bns")
                hidden = layer(f"sa{level}.{conv}.{i}", f"sa{level}.{norm}.{i}", hidden)
            outputs.append(hidden.amax(1))
        xyz, x = xyz[chosen], torch.cat(outputs, 1)
    x = torch.cat([xyz, x], 1)
    for i in range(3):
        x = layer(f"sa3.mlp_convs.{i}", f"sa3.mlp_bns.{i}", x)
    x = layer("fc2", "bn2", layer("fc1", "bn1", x.amax(0)))
    return weights["fc3.weight"] @ x + weights["fc3.bias"]


@pytest.mark.parametrize(
    ("name", "widths", "scales"),
    [
        ("pointnet2_ssg", SSG, ((512, (0.2,), (32,)), (128, (0.4,), (64,)))),
        ("pointnet2_msg", MSG, ((512, (0.1, 0.2, 0.4), (16, 32, 128)), (128, (0.2, 0.4, 0.8), (32, 64, 128)))),
    ],
)
def test_public_weights_give_the_public_logits(tmp_path, name, widths, scales):
    weights = yanx27_layout(widths, features=3)
    torch.save({"epoch": 3, "model_state_dict": weights}, tmp_path / "best_model.pth")
    model = create_model(name, in_channels=6, closed=True, pretrained=tmp_path / "best_model.pth").eval()
    points = torch.randn(1, 600, 6, generator=torch.Generator().manual_seed(1))
    points[..., :3] /= points[..., :3].norm(dim=2).amax()
    with torch.no_grad():
        logits = model(points)[0]
        expected = by_public_layout(weights, points[0], scales)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_coordinates_come_first_here_and_last_in_public_multi_scale_layers():
    weights = {"sa1.conv_blocks.0.0.weight": torch.arange(6.0).view(1, 6, 1, 1)}
    renamed = convert_yanx27(weights)
    assert renamed["levels.0.scales.0.layers.0.weight"].tolist() == [[3, 4, 5, 0, 1, 2]]
