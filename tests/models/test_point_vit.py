import itertools

import pytest
import torch

from pctransformer.layers.position import LearnedPosition, SinusoidalPosition
from pctransformer.layers.recording import record_attention
from pctransformer.models import create_model
from pctransformer.models.point_vit import PointViT
from pctransformer.point_view.curve_order import curve_order
from pctransformer.points import PointBatch

SMALL = {
    "num_classes": 5, "dim": 24, "depth": 2, "num_heads": 3, "num_patches": 10, "patch_size": 6, "widths": (8, 16),
}  # fmt: skip


def small(**options) -> PointViT:
    torch.manual_seed(0)
    model = create_model("point_vit", **{**SMALL, **options})
    assert isinstance(model, PointViT)
    return model


def shapes(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 60, 3, generator=torch.Generator().manual_seed(1)) / 2


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_size():
    """ViT-Base: 12 layers of 768 channels. Of its 86 567 656 parameters for images all but the layers and the norm are
    of 16 x 16 pixels, 197 places and 1000 classes."""
    with torch.device("meta"):
        model, least = create_model("point_vit"), create_model("point_vit_small")
    layer = 4 * (768**2 + 768) + (8 * 768**2 + 5 * 768) + 2 * 2 * 768
    assert parameters(model.encoder.layers) == 12 * layer == 85_054_464
    assert parameters(model.encoder.layers) + 2 * 768 == 86_567_656 - (768 * 768 + 768) - 198 * 768 - 769 * 1000
    patches = 4 * 128 + 2 * 128 + 129 * 256 + 513 * 512 + 2 * 512 + 513 * 768
    position, class_token, norm, head = 4 * 128 + 129 * 768, 2 * 768, 2 * 768, 769 * 40
    assert parameters(model) == patches + position + class_token + 12 * layer + norm + head == 85_879_336
    assert len(model.encoder.layers) == 12
    assert model.encoder.layers[0].parts[0].mixer.num_heads == 12
    assert parameters(least) == 851_368


@pytest.mark.parametrize(
    ("stem", "position", "pool"),
    [
        *itertools.product(["patches", "set_abstraction"], ["mlp"], ["class_token", "mean", "max", "max_mean"]),
        *itertools.product(["patches"], ["learnable", "sinusoidal", "fourier", "none"], ["class_token"]),
        ("set_abstraction", "learnable", "mean"),
        ("sparse_convolution", "mlp", "class_token"),
        ("sparse_convolution", "sinusoidal", "max"),
    ],
)
def test_every_part_that_can_be_chosen(stem, position, pool):
    """Gradients reach every parameter; clouds of other sizes are what they are alone."""
    model = small(stem=stem, position=position, pool=pool, drop_path=0.0)
    model(shapes()).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    model.eval()
    ragged = [shapes()[0], shapes()[1, :7], shapes()[2, :1]]
    together = model(ragged)
    for cloud, logits in zip(ragged, together):
        torch.testing.assert_close(model([cloud])[0], logits, rtol=1e-4, atol=1e-5)


def test_equations_1_to_4():
    """z0 = [x_class; x E] + E_pos, then z' = MSA(LN(z)) + z, z = MLP(LN(z')) + z', and y = LN(z of the class token)."""
    model = small().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    points = shapes()
    tokens = model.stem(PointBatch.from_dense(points))
    first = (model.class_token.token + model.class_token.code).expand(3, 1, 24)
    z = torch.cat([first, (tokens.features + model.position(tokens.xyz)).view(3, 10, 24)], 1)
    for layer in model.encoder.layers:
        attention, mlp = layer.parts
        z = attention.mixer(attention.residual.norm(z)) + z
        z = mlp.mlp(mlp.residual.norm(z)) + z
    y = model.encoder.norm(z[:, 0])
    torch.testing.assert_close(model(points), model.head.classifier(y))
    features = model.forward_features(points)
    assert features.features.shape == (3 * 11, 24)
    torch.testing.assert_close(features.xyz.view(3, 11, 3)[:, 1:].flatten(0, 1), tokens.xyz)


def test_without_a_class_token_all_tokens_count():
    for pool, vector in {"mean": lambda t: t.mean(1), "max": lambda t: t.amax(1)}.items():
        model = small(pool=pool).eval()
        assert model.class_token is None
        tokens = model.forward_features(shapes()).features.view(3, 10, 24)
        torch.testing.assert_close(model(shapes()), model.head.classifier(vector(tokens)))


@pytest.mark.parametrize("stem", ["patches", "set_abstraction", "sparse_convolution"])
def test_learnable_codes_belong_to_places_along_the_curve(stem):
    model = small(stem=stem, position="learnable", pool="mean").eval()
    assert isinstance(model.position, LearnedPosition)
    assert model.position.table.shape == (10, 24)
    tokens = model.stem(PointBatch.from_dense(shapes()))
    assert torch.equal(curve_order(tokens, "hilbert"), torch.arange(3 * 10))


def test_sinusoidal_codes_tell_centres_apart():
    """Centres a patch apart, 0.1 m, are no more alike than others; in what wavelengths of kilometres leave over."""
    position = small(position="sinusoidal").position
    assert isinstance(position, SinusoidalPosition)
    code = position(torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0.5, 0, 0]]))
    near, far = (code[1:] - code[:1]).norm(dim=1)
    assert near > 0.5 * far > 0.5


def test_the_hybrid_has_the_layers_of_set_abstraction_in_front():
    model = small(stem="set_abstraction").eval()
    fine, coarse = model.stem.levels
    assert (fine.num_samples, coarse.num_samples) == (40, 10)
    tokens = coarse(fine(PointBatch.from_dense(shapes())))
    assert tokens.features.shape == (30, 256)
    torch.testing.assert_close(
        model.stem(PointBatch.from_dense(shapes())).features, model.stem.project(tokens.features)
    )


def test_the_hybrid_has_sparse_convolutions_in_front():
    model = small(stem="sparse_convolution").eval()
    convolutions, coarse = model.stem.levels
    cells = convolutions(PointBatch.from_dense(shapes()))
    assert len(set(cells.lengths.tolist())) > 1
    tokens = coarse(cells)
    assert tokens.features.shape == (30, 256)
    torch.testing.assert_close(
        model.stem(PointBatch.from_dense(shapes())).features, model.stem.project(tokens.features)
    )


def test_layers_can_be_regularised_and_checkpointed():
    model = small(drop_path=0.4, layer_scale=0.1)
    last = model.encoder.layers[1].parts[1].residual
    assert last.drop_path.share == 0.4
    assert last.scale.factor.tolist() == pytest.approx([0.1] * 24)

    def gradients(checkpoint: bool) -> list[torch.Tensor]:
        model = small(drop_path=0.4, checkpoint=checkpoint)
        torch.manual_seed(1)
        return list(torch.autograd.grad(model(shapes()).square().sum(), list(model.parameters())))

    for ours, theirs in zip(gradients(True), gradients(False)):
        torch.testing.assert_close(ours, theirs)


def test_recorded_maps_lead_from_the_class_token_to_the_points():
    convolutions = [f"stem.levels.0.stages.{i}" for i in range(3) for _ in range(2)]
    for stem, below in (
        ("patches", ["stem.embedding"]),
        ("set_abstraction", ["stem.levels.0", "stem.levels.1"]),
        ("sparse_convolution", ["stem.levels.0", *convolutions, "stem.levels.1"]),
    ):
        model = small(stem=stem).eval()
        with record_attention(model) as maps:
            recorded = model(shapes())
        torch.testing.assert_close(recorded, model(shapes()), rtol=1e-4, atol=1e-5)
        layers = [f"encoder.layers.{i}.parts.0.mixer" for i in (0, 1)]
        assert [found.layer for found in maps] == [*below, "class_token", *layers, "head"]


def test_parts_that_there_are_not():
    with pytest.raises(ValueError, match=r'"set_abstraction" or "sparse_convolution", got \'patch\''):
        small(stem="patch")
    with pytest.raises(ValueError, match=r'"fourier" or "none", got \'learned\''):
        small(position="learned")
