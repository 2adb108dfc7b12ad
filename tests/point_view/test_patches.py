import pytest
import torch

from pctransformer.point_view.curve_order import curve_order
from pctransformer.point_view.patches import PatchEmbedding, PatchTokenizer, beside_class_token, make_patches
from pctransformer.points import PointBatch


def test_patches_by_hand():
    """Five points on a line, two patches of two: samples are the first point and the one farthest from it."""
    batch = PointBatch.from_dense(torch.tensor([[[x, 0.0, 0.0, 10 * x] for x in (0.0, 1.0, 2.0, 4.0, 7.0)]]))
    patches = make_patches(batch, 2, 2)
    assert patches.centers.xyz.tolist() == [[0, 0, 0], [7, 0, 0]]
    assert patches.index.tolist() == [[0, 1], [4, 3]]
    assert patches.points.tolist() == [[[0, 0, 0, 0], [1, 0, 0, 10]], [[0, 0, 0, 70], [-3, 0, 0, 40]]]
    assert patches.xyz[..., 0].tolist() == [[0, 1], [7, 4]]
    assert patches.centers.is_dense


def test_small_clouds_repeat():
    batch = PointBatch.from_list([torch.randn(40, 3), torch.randn(2, 3), torch.zeros(0, 3), torch.randn(1, 3)])
    patches = make_patches(batch, 4, 3)
    assert patches.centers.lengths.tolist() == [4, 4, 4, 4]
    two = patches.index[4:8]
    assert two.tolist() == [[40, 41, 40], [41, 40, 41], [40, 41, 40], [41, 40, 41]]
    assert (patches.index[8:12] == -1).all()
    assert (patches.points[8:12] == 0).all()
    assert (patches.centers.xyz[8:12] == 0).all()
    assert (patches.index[12:] == 42).all()


@pytest.mark.parametrize("order", ["morton", "hilbert"])
def test_order_sorts_the_same_patches(order):
    batch = PointBatch.from_list([torch.randn(n, 3) for n in (60, 30)])
    plain, sorted_ = make_patches(batch, 8, 4), make_patches(batch, 8, 4, order=order)
    assert (curve_order(sorted_.centers, order) == torch.arange(16)).all()
    permutation = curve_order(plain.centers, order)
    assert torch.equal(sorted_.index, plain.index[permutation])
    assert torch.equal(sorted_.points, plain.points[permutation])


def test_skipped_points_near_the_origin_are_made_up_for():
    """Every point but the start is too near the origin to be sampled there, so the start is taken again and again."""
    batch = PointBatch.from_dense(torch.rand(2, 20, 3) * 0.01)
    patches = make_patches(batch, 3, 2, skip_near_origin=True)
    assert torch.equal(patches.centers.xyz, batch.xyz[[0, 0, 0, 20, 20, 20]])


def published(embedding: PatchEmbedding, points: torch.Tensor) -> torch.Tensor:
    """The token as Point-BERT writes it: convolutions of width one over (B * G, C, k), the whole patch concatenated."""

    def layer(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        if isinstance(module, torch.nn.Linear):
            return torch.nn.functional.conv1d(x, module.weight[..., None], module.bias)
        return module(x)

    x = points.transpose(1, 2)
    for module in embedding.first:
        x = layer(module, x)
    x = torch.cat([x.amax(2, keepdim=True).expand_as(x), x], 1)
    for module in embedding.second:
        x = layer(module, x)
    return x.amax(2)


@pytest.mark.parametrize("training", [True, False])
def test_embedding_is_the_published_one(training):
    torch.manual_seed(0)
    embedding = PatchEmbedding(24, in_channels=5, widths=(8, 16)).train(training)
    batch = PointBatch.from_list([torch.randn(n, 5) for n in (50, 20)])
    patches = make_patches(batch, 6, 10)
    tokens = embedding(patches)
    torch.testing.assert_close(tokens.features, published(embedding, patches.points), rtol=1e-5, atol=1e-5)
    assert tokens.xyz is patches.centers.xyz


def test_published_size_and_names():
    """Point-MAE's encoder: 3-128-256 with one norm, then 512-512-384 with one norm."""
    weights = PatchEmbedding(384).state_dict()
    expected = {"first.0": (128, 3), "first.3": (256, 128), "second.0": (512, 512), "second.3": (384, 512)}
    assert {name: tuple(weights[f"{name}.weight"].shape) for name in expected} == expected
    assert {"first.1.running_mean", "second.1.running_mean"} < weights.keys()
    assert sum(p.numel() for p in PatchEmbedding(384).parameters()) == 3 * 128 + 128 + 256 + 128 * 256 + 256 + (
        512 * 512 + 512 + 1024 + 512 * 384 + 384
    )


def test_tokenizer_gives_tokens_and_codes_of_their_centres():
    torch.manual_seed(0)
    embedding, position = PatchEmbedding(6, widths=(4, 8)).eval(), torch.nn.Linear(3, 6)
    tokenizer = PatchTokenizer(embedding, position, num_patches=4, patch_size=5, order="hilbert")
    batch = PointBatch.from_list([torch.randn(n, 3) for n in (30, 3)])
    patches, tokens, code = tokenizer(batch)
    expected = make_patches(batch, 4, 5, order="hilbert")
    assert torch.equal(patches.index, expected.index)
    assert torch.equal(tokens, embedding(expected).features.view(2, 4, 6))
    assert torch.equal(code, position(expected.centers.xyz.view(2, 4, 3)))


def test_class_token_is_put_in_the_middle():
    centers = PointBatch.from_dense(torch.tensor([[[0.0, 0, 0], [2, 4, 6]], [[1, 1, 1], [3, 1, 1]]]))
    x = torch.arange(12.0).view(2, 3, 2)
    tokens = beside_class_token(centers, x)
    assert tokens.xyz.tolist() == [[1, 2, 3], [0, 0, 0], [2, 4, 6], [2, 1, 1], [1, 1, 1], [3, 1, 1]]
    assert tokens.features.tolist() == x.flatten(0, 1).tolist()
    assert tokens.offsets.tolist() == [0, 3, 6]
    assert tokens.is_dense


def test_gradients_repeat_exactly():
    torch.manual_seed(0)
    embedding = PatchEmbedding(8, in_channels=4, widths=(8, 8))
    cloud = torch.randn(2, 30, 4)

    def gradient() -> torch.Tensor:
        features = cloud[..., 3:].flatten(0, 1).requires_grad_()
        batch = PointBatch.from_dense(cloud[..., :3]).replace(features=features)
        embedding(make_patches(batch, 5, 6)).features.square().sum().backward()
        assert features.grad is not None
        return features.grad

    torch.use_deterministic_algorithms(True)
    try:
        first = gradient()
        assert first.abs().sum() > 0
        assert torch.equal(first, gradient())
    finally:
        torch.use_deterministic_algorithms(False)
