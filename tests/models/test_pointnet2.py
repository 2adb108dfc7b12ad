from pathlib import Path

import pytest
import torch

from pctransformer.models import create_model


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


@pytest.mark.parametrize(
    ("name", "channels", "count"),
    [
        ("pointnet2_ssg_seg", 3, 1_411_250),
        ("pointnet2_ssg_seg", 6, 1_411_826),
        ("pointnet2_msg_seg", 3, 1_740_958),
        ("pointnet2_msg_seg", 6, 1_741_822),
    ],
)
def test_published_sizes_of_segmentation(name, channels, count):
    """The port's last stage gets coordinates twice, which costs it 3 * 128 weights without use."""
    model = create_model(name, in_channels=channels, num_categories=16)
    assert sum(p.numel() for p in model.parameters()) == count - 3 * 128


class Public:
    """The public port's weights, made up layer by layer as they are first used, and what it computes with them."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.weights: dict[str, torch.Tensor] = {}

    def linear(self, name: str, x: torch.Tensor, out_dim: int, ones: int = 2) -> torch.Tensor:
        if f"{name}.weight" not in self.weights:
            shape = (out_dim, x.shape[-1], *[1] * ones)
            self.weights[f"{name}.weight"] = torch.randn(shape, generator=self.generator) / x.shape[-1] ** 0.5
            self.weights[f"{name}.bias"] = torch.randn(out_dim, generator=self.generator)
        return x @ self.weights[f"{name}.weight"].flatten(1).T + self.weights[f"{name}.bias"]

    def layer(self, conv: str, norm: str, x: torch.Tensor, out_dim: int, ones: int = 2) -> torch.Tensor:
        x = self.linear(conv, x, out_dim, ones)
        if f"{norm}.weight" not in self.weights:
            for part in ("weight", "bias", "running_mean", "running_var"):
                self.weights[f"{norm}.{part}"] = torch.rand(out_dim, generator=self.generator) + 0.5
            self.weights[f"{norm}.num_batches_tracked"] = torch.tensor(7)
        weight, bias, mean, var = (
            self.weights[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * weight + bias).relu()

    def perceptron(self, part: str, x: torch.Tensor, widths: tuple[int, ...], ones: int = 2) -> torch.Tensor:
        for i, out_dim in enumerate(widths):
            x = self.layer(f"{part}.mlp_convs.{i}", f"{part}.mlp_bns.{i}", x, out_dim, ones)
        return x

    def abstraction(self, part: str, xyz: torch.Tensor, x: torch.Tensor, samples: int, scales: tuple) -> tuple:
        """Dense balls of (radius, k, widths), padded with their first point; the start of sampling is point 0."""
        chosen = [0]
        nearest = (xyz - xyz[0]).square().sum(1)
        for _ in range(samples - 1):
            chosen.append(int(nearest.argmax()))
            nearest = torch.minimum(nearest, (xyz - xyz[chosen[-1]]).square().sum(1))
        outputs = []
        for scale, (radius, k, widths) in enumerate(scales):
            several = len(scales) > 1
            rows = []
            for center in xyz[chosen]:
                inside = ((xyz - center).square().sum(1) <= radius**2).nonzero()[:k, 0]
                inside = torch.cat([inside, inside[:1].expand(k - len(inside))])
                parts = [xyz[inside] - center, x[inside]]
                rows.append(torch.cat(parts[::-1] if several else parts, 1))
            hidden = torch.stack(rows)
            for i, out_dim in enumerate(widths):
                conv, norm = (f"conv_blocks.{scale}", f"bn_blocks.{scale}") if several else ("mlp_convs", "mlp_bns")
                hidden = self.layer(f"{part}.{conv}.{i}", f"{part}.{norm}.{i}", hidden, out_dim)
            outputs.append(hidden.amax(1))
        return xyz[chosen], torch.cat(outputs, 1)

    def down(self, xyz: torch.Tensor, x: torch.Tensor, levels: tuple) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(xyz, features) of every level, the points first, the whole cloud last."""
        found = [(xyz, x)]
        for level, (samples, scales) in enumerate(levels, 1):
            found.append(self.abstraction(f"sa{level}", *found[-1], samples, scales))
        whole = self.perceptron("sa3", torch.cat(found[-1], 1), (256, 512, 1024)).amax(0, keepdim=True)
        return [*found, (torch.zeros(1, 3), whole)]

    def classify(self, points: torch.Tensor, levels: tuple) -> torch.Tensor:
        _, x = self.down(points[:, :3], points[:, 3:], levels)[-1]
        x = self.layer("fc2", "bn2", self.layer("fc1", "bn1", x, 512, 0), 256, 0)
        return self.linear("fc3", x, 40, 0)

    def segment(self, points: torch.Tensor, category: int, levels: tuple, last: tuple[int, ...]) -> torch.Tensor:
        found = self.down(points[:, :3], points, levels)
        coarse, x = found.pop()
        for part, widths in (("fp3", (256, 256)), ("fp2", (256, 128)), ("fp1", last)):
            xyz, own = found.pop()
            if len(coarse) == 1:
                x = x.expand(len(xyz), -1)
            else:
                distance, nearest = torch.cdist(xyz, coarse).square().topk(3, largest=False)
                weight = 1 / (distance + 1e-8)
                x = (x[nearest] * (weight / weight.sum(1, keepdim=True))[..., None]).sum(1)
            if part == "fp1":
                code = torch.zeros(len(xyz), 16)
                code[:, category] = 1
                own = torch.cat([code, xyz, own], 1)
            coarse, x = xyz, self.perceptron(part, torch.cat([own, x], 1), widths, 1)
        return self.linear("conv2", self.layer("conv1", "bn1", x, 128, 1), 50, 1)


def shape() -> torch.Tensor:
    points = torch.randn(600, 6, generator=torch.Generator().manual_seed(1))
    points[:, :3] /= points[:, :3].norm(dim=1).amax()
    return points


def load(name: str, public: Public, folder: Path, **options) -> torch.nn.Module:
    torch.save({"epoch": 3, "model_state_dict": public.weights}, folder / "best_model.pth")
    return create_model(name, closed=True, pretrained=folder / "best_model.pth", **options).eval()


SSG = ((512, ((0.2, 32, (64, 64, 128)),)), (128, ((0.4, 64, (128, 128, 256)),)))
MSG = (
    (512, ((0.1, 16, (32, 32, 64)), (0.2, 32, (64, 64, 128)), (0.4, 128, (64, 96, 128)))),
    (128, ((0.2, 32, (64, 64, 128)), (0.4, 64, (128, 128, 256)), (0.8, 128, (128, 128, 256)))),
)
MSG_PARTS = (
    (512, ((0.1, 32, (32, 32, 64)), (0.2, 64, (64, 64, 128)), (0.4, 128, (64, 96, 128)))),
    (128, ((0.4, 64, (128, 128, 256)), (0.8, 128, (128, 196, 256)))),
)


@pytest.mark.parametrize(("name", "levels"), [("pointnet2_ssg", SSG), ("pointnet2_msg", MSG)])
@torch.no_grad()
def test_public_weights_give_the_public_logits(tmp_path, name, levels):
    public = Public()
    expected = public.classify(shape(), levels)
    model = load(name, public, tmp_path, in_channels=6)
    assert expected.std() > 0.1
    torch.testing.assert_close(model(shape()[None]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "levels", "last"),
    [("pointnet2_ssg_seg", SSG, (128, 128, 128)), ("pointnet2_msg_seg", MSG_PARTS, (128, 128))],
)
@torch.no_grad()
def test_public_weights_give_the_public_logits_of_points(tmp_path, name, levels, last):
    public = Public()
    expected = public.segment(shape(), 4, levels, last)
    model = load(name, public, tmp_path, in_channels=6, num_categories=16)
    assert expected.std(0).mean() > 0.01
    torch.testing.assert_close(model(shape()[None], torch.tensor([4])), expected, rtol=1e-3, atol=1e-3)
