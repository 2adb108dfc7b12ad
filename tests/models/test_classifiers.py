"""What holds for every classifier, whatever its name."""

import pytest
import torch

from pctransformer.models import create_model, list_models
from pctransformer.points import PointBatch
from tests.models.small import shapes, small


@pytest.mark.parametrize("name", list_models(task="classification"))
class TestEveryClassifier:
    def test_logits_and_their_gradients(self, name):
        model = small(name)
        logits = model(shapes(model))
        assert logits.shape == (3, 5)
        assert logits.isfinite().all()
        logits.square().sum().backward()
        without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert without == []

    def test_a_sample_alone_is_the_sample_in_its_batch(self, name):
        model = small(name).eval()
        points = shapes(model)
        together = model(points)
        for i, cloud in enumerate(points):
            torch.testing.assert_close(model(cloud[None])[0], together[i], rtol=1e-5, atol=1e-5)

    def test_packed_clouds_of_other_sizes(self, name):
        """A list is the packed form: each cloud gives what it gives alone, few points and one point included."""
        model = small(name).eval()
        clouds = [shapes(model, 1, n)[0] for n in (64, 7, 1)]
        together = model(clouds)
        assert together.isfinite().all()
        for cloud, logits in zip(clouds, together):
            torch.testing.assert_close(model([cloud])[0], logits, rtol=1e-5, atol=1e-5)
        dense = shapes(model)
        torch.testing.assert_close(model(list(dense)), model(dense), rtol=1e-5, atol=1e-5)

    def test_order_of_points_does_not_matter(self, name):
        """Apart from the first point, at which sampling starts."""
        model = small(name).eval()
        points = shapes(model)
        order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(63)])
        torch.testing.assert_close(model(points[:, order]), model(points), rtol=1e-4, atol=1e-4)

    def test_protocol(self, name):
        model = small(name).eval()
        points = shapes(model)
        tokens = model.forward_features(points)
        assert isinstance(tokens, PointBatch)
        assert tokens.features.shape == (tokens.xyz.shape[0], model.num_features)
        assert model.forward_head(tokens, pre_logits=True).shape == (3, model.head_hidden_size)
        torch.testing.assert_close(model.forward_head(tokens), model(points))
        model.reset_classifier(9)
        assert model(points).shape == (3, 9)
        model.reset_classifier(0)
        assert model(points).shape == (3, model.head_hidden_size)

    def test_state_dict_round_trip(self, name):
        model, other = small(name).eval(), small(name).eval()
        for parameter in other.parameters():
            torch.nn.init.normal_(parameter)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(shapes(model)), model(shapes(model)))

    def test_bfloat16(self, name):
        model = small(name).eval()
        with torch.autocast("cpu", torch.bfloat16):
            assert model(shapes(model)).isfinite().all()

    def test_wrong_channels_are_explained(self, name):
        model = small(name)
        with pytest.raises(ValueError, match="in_channels=8"):
            model(torch.randn(2, 64, 8))
        with pytest.raises(ValueError, match="channels first"):
            model(shapes(model).transpose(1, 2))


def test_names():
    assert "pct" in list_models()
    assert list_models("*pct") == ["npct", "pct", "spct"]
    assert list_models("pointnet2_ssg*") == ["pointnet2_ssg", "pointnet2_ssg_seg"]
    assert list_models("pointnet2_ssg*", task="classification") == ["pointnet2_ssg"]
    with pytest.raises(ValueError, match="did you mean 'point_transformer'"):
        create_model("point_transfomer")
    with pytest.raises(TypeError, match=r"'widht'; did you mean 'width'\? its options are in_channels, dim, width$"):
        create_model("npct", widht=64)
    with pytest.raises(TypeError, match="npct has no option 'num_clases'; did you mean 'num_classes'"):
        create_model("npct", num_clases=4)
    with pytest.raises(TypeError, match="npct has no option 'zzz'; its options are"):
        create_model("npct", zzz=4)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PCT", "pct"),
        ("Point-Transformer V3", "point_transformer_v3"),
        ("pointnet++", "pointnet2_ssg"),
        ("PointMAE", "point_mae"),
    ],
)
def test_names_as_others_spell_them(name, meant):
    with pytest.raises(ValueError, match=f"did you mean .*'{meant}'"):
        create_model(name)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_classes": -3}, "num_classes must be a whole number, or 0 for no last layer, got -3"),
        ({"num_classes": "4"}, "got '4'"),
        ({"in_channels": 2}, "in_channels counts x, y and z as well, so that it is at least 3, got 2"),
        ({"pretrained": "nowhere.pt"}, "nowhere.pt does not exist or is not a file$"),
    ],
)
def test_options_that_no_model_can_have(options, text):
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        create_model("npct", **options)
