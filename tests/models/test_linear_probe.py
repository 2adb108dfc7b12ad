import pytest
import torch
from torch import nn

from pctransformer.models import create_model, list_models
from pctransformer.models.linear_probe import LinearProbe
from pctransformer.points import PointBatch
from tests.models.small import SIZES, shapes, small


@pytest.mark.parametrize("name", list_models(task="classification"))
def test_only_the_layer_on_top_learns(name):
    probe = LinearProbe(small(name), 4)
    points = shapes(probe)
    before = {key: value.clone() for key, value in probe.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in probe.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        probe.train()
        nn.functional.cross_entropy(probe(points), torch.tensor([0, 1, 3])).backward()
        optimizer.step()
    after = probe.state_dict()
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert changed == {
        *("head.classifier.weight", "head.classifier.bias"),
        *("head.hidden.running_mean", "head.hidden.running_var", "head.hidden.num_batches_tracked"),
    }
    assert not any(module.training for module in probe.backbone.modules())
    assert probe.head.training
    assert not probe.eval().head.training


def test_it_sees_maximum_and_mean_of_tokens_at_the_same_scale():
    backbone = small("pct").eval()
    points = shapes(backbone, 8)
    tokens = backbone.forward_features(PointBatch.of(points, 3)).features.view(8, -1, backbone.num_features)
    pooled = torch.cat([tokens.amax(1), tokens.mean(1)], 1)
    probe = LinearProbe(backbone, 3)
    hidden = probe.forward_head(probe.forward_features(points), pre_logits=True)
    expected = (pooled - pooled.mean(0)) / (pooled.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(hidden, expected, atol=1e-4, rtol=1e-4)
    assert hidden.shape == (8, probe.head_hidden_size)
    torch.testing.assert_close(probe.forward_head(probe.forward_features(points)), probe.head.classifier(hidden))


def test_a_class_token_has_no_part_in_it():
    """It is learned with labels; what a new one makes of a cloud says nothing about pretraining."""
    probe = create_model("point_mae", num_classes=4, linear_probe=True, **SIZES["point_mae"]).eval()
    points = shapes(probe)
    before = probe(points)
    nn.init.normal_(probe.backbone.class_token.token)
    assert torch.equal(probe(points), before)


def test_it_is_made_by_name(tmp_path):
    torch.manual_seed(0)
    pretrained = create_model("point_gpt_pretraining", **SIZES["point_gpt"], generator_depth=1).eval()
    torch.save(pretrained.state_dict(), tmp_path / "a.pt")
    probe = create_model(
        "point_gpt", num_classes=4, pretrained=tmp_path / "a.pt", linear_probe=True, **SIZES["point_gpt"]
    )
    points = shapes(probe)
    assert torch.equal(probe.forward_features(points).features, pretrained.encode(points).features)
    assert probe(points).shape == (3, 4)
    assert create_model("pct_small", linear_probe=True).head.classifier.out_features == 40
    probe.reset_classifier(7)
    assert probe(points).shape == (3, 7)
    for name in ("pointnet2_ssg_seg", "point_mae_pretraining"):
        with pytest.raises(ValueError, match="a linear probe is made of one for classification"):
            create_model(name, linear_probe=True)
    with pytest.raises(TypeError, match="learns without classes"):
        create_model("point_mae_pretraining", num_classes=3)
