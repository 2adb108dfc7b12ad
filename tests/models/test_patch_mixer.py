import pytest
import torch
from torch import nn

from pctransformer.layers.mixers import list_mixers
from pctransformer.layers.mixers.resmlp import Affine, fold
from pctransformer.layers.recording import record_attention
from pctransformer.models import create_model
from pctransformer.models.cost import cost
from pctransformer.point_view.curve_order import curve_order

SMALL = {"dim": 16, "depth": 2, "num_patches": 8, "patch_size": 4, "widths": (8, 8), "num_classes": 3}


def small(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("patch_mixer", **{**SMALL, **options})


def clouds() -> torch.Tensor:
    return torch.randn(4, 40, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("block", ["transformer", "published"])
@pytest.mark.parametrize("mixer", list_mixers())
class TestEveryMixer:
    def test_gradients_reach_every_parameter(self, mixer, block):
        model = small(mixer=mixer, block=block)
        logits = model(clouds())
        assert logits.shape == (4, 3)
        logits.square().sum().backward()
        without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert without == []

    def test_clouds_of_other_sizes(self, mixer, block):
        """Fewer points than patches, too: patches repeat, so that there are always as many tokens."""
        model = small(mixer=mixer, block=block).eval()
        ragged = [clouds()[0], clouds()[1, :5], clouds()[2, :1]]
        together = model(ragged)
        for cloud, logits in zip(ragged, together):
            torch.testing.assert_close(model([cloud])[0], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mixer", list_mixers())
def test_only_the_mixer_differs(mixer):
    """In transformer blocks all other parameters are those of the model with attention, by name and shape."""

    def others(model: torch.nn.Module) -> dict[str, torch.Size]:
        return {n: p.shape for n, p in model.named_parameters() if ".mixer." not in n}

    assert others(small(mixer=mixer)) == others(small())


def test_published_size():
    """Point-MAE's parts: embedding, position code, 12 blocks of 384 channels with 6 heads, a norm; and our head."""
    model = create_model("patch_mixer", num_classes=40)
    block = (4 * 384**2 + 4 * 384) + (8 * 384**2 + 5 * 384) + 4 * 384
    embedding = sum(p.numel() for p in model.stem.parameters())
    position = 3 * 128 + 128 + 128 * 384 + 384
    head = 384**2 + 384 + 384 * 40 + 40
    total = sum(p.numel() for p in model.parameters())
    assert total == embedding + position + 12 * block + 2 * 384 + head == 22_002_088
    assert model.encoder.layers[0].parts[0].mixer.attention.num_heads == 6
    assert sum(p.numel() for p in create_model("patch_mixer_small").parameters()) == 867_624


def test_tokens_follow_the_curve():
    tokens = small().eval().forward_features(clouds())
    assert torch.equal(curve_order(tokens, "hilbert"), torch.arange(4 * 8))


def test_pooling():
    vectors = {"mean": lambda t: t.mean(1), "max": lambda t: t.amax(1)}
    vectors["max_mean"] = lambda t: torch.cat([t.amax(1), t.mean(1)], 1)
    for pool, vector in vectors.items():
        model = small(pool=pool).eval()
        tokens = model.forward_features(clouds()).features.view(4, 8, -1)
        torch.testing.assert_close(model(clouds()), model.head.classifier(model.head.hidden(vector(tokens))))


def test_blocks_and_options():
    published = small(mixer="gmlp", block="published")
    assert len(published.encoder.layers[0].parts) == 1
    assert len(small(mixer="gmlp").encoder.layers[0].parts) == 2
    heads = small(mixer="mlp_mixer", mixer_options={"num_heads": 4}).encoder.layers[0].parts[0].mixer.f1.weight
    assert heads.shape == (4, 8, 8)
    with pytest.raises(ValueError, match="did you mean 'resmlp'"):
        small(mixer="res_mlp")


def test_resmlp_folds_in_the_whole_network():
    model = small(mixer="resmlp", block="published").eval()
    for parameter in model.encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    plain = model(clouds())
    model.encoder.layers = nn.ModuleList(map(fold, model.encoder.layers))
    assert not any(isinstance(module, Affine) for module in model.modules())
    torch.testing.assert_close(model(clouds()), plain, rtol=1e-4, atol=1e-5)


def test_costs_differ_by_the_mixer():
    """Attention over 8 tokens of 16 channels, by hand: four linear layers, scores, weighted sums. The floor: none."""
    whole, _ = cost(small(), clouds()[:1])
    floor, _ = cost(small(mixer="mean_pool"), clouds()[:1])
    assert whole.parameters - floor.parameters == 2 * (4 * 16**2 + 4 * 16)
    assert whole.multiply_adds - floor.multiply_adds == 2 * (8 * 4 * 16**2 + 2 * 8 * 8 * 16)


@pytest.mark.parametrize("mixer", [name for name in list_mixers() if "attention" in name or name == "mean_pool"])
def test_recorded_maps(mixer):
    """Patches from points, then each block, then the pooled vector from patches; the outputs stay."""
    model = small(mixer=mixer).eval()
    with record_attention(model) as maps:
        recorded = model(clouds())
    torch.testing.assert_close(recorded, model(clouds()), rtol=1e-4, atol=1e-5)
    keys = "memory" if "external" in mixer else "tokens"
    assert [found.keys for found in maps] == ["children", keys, keys, "children"]
    assert all(name in maps[i].layer for i, name in enumerate(("stem.embedding", "layers.0", "layers.1", "head")))
