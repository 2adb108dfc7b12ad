"""What holds for every model that learns from shapes without labels, whatever its name; for those of scans see
`test_masked_columns.py`."""

import pytest
import torch

from pctransformer.models import create_model, list_models
from pctransformer.models.pretraining import Pretraining
from pctransformer.models.registry import pretrained_model
from pctransformer.points import PointBatch
from tests.models.small import SIZES, output, shapes, small

NAMES = [name for name in list_models(task="pretraining") if pretrained_model(name).task == "classification"]


@pytest.mark.parametrize("name", NAMES)
class TestEveryPretraining:
    def test_losses_and_their_gradients(self, name):
        model = small(name)
        assert isinstance(model, Pretraining)
        made_up = model(shapes(model))
        clouds, patches, points, _ = made_up.predicted.shape
        assert clouds == 3
        assert made_up.predicted.shape == made_up.target.shape
        assert made_up.centers.shape == (3, patches, 3)
        assert made_up.visible.shape[2:] == (points, 3)
        losses = model.loss(made_up)
        assert all(loss.dim() == 0 and loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()
        without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert without == []

    def test_a_cloud_alone_is_the_cloud_in_its_batch(self, name):
        """The first: what is hidden of it is drawn first. Packed, few points and one point included."""
        model = small(name).eval()
        clouds = [shapes(model, 1, n)[0] for n in (7, 64, 1)]
        together = output(model, clouds)
        assert together.isfinite().all()
        torch.testing.assert_close(output(model, clouds[:1])[0], together[0], rtol=1e-4, atol=1e-5)
        dense = shapes(model)
        torch.testing.assert_close(output(model, list(dense)), output(model, dense), rtol=1e-4, atol=1e-5)

    def test_order_of_points_does_not_matter(self, name):
        """Apart from the first point, at which sampling starts."""
        model = small(name).eval()
        points = shapes(model)
        order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(63)])
        torch.testing.assert_close(output(model, points[:, order]), output(model, points), rtol=1e-4, atol=1e-4)

    def test_protocol(self, name):
        """`encode` gives what the classifier of the same name makes of clouds, with the same weights."""
        model = small(name).eval()
        points = shapes(model)
        tokens = model.encode(points)
        assert isinstance(tokens, PointBatch)
        assert tokens.features.shape == (tokens.xyz.shape[0], model.num_features)
        classifier = name.removesuffix("_pretraining")
        assert classifier in list_models(task="classification")
        other = small(classifier).eval()
        report = other.load_state_dict(model.state_dict(), strict=False)
        assert all(key.startswith(other.lacking_in_pretraining) for key in report.missing_keys)
        assert all(key.startswith(other.only_in_pretraining) for key in report.unexpected_keys)
        torch.testing.assert_close(other.encode(points).features, tokens.features)

    def test_state_dict_round_trip(self, name):
        model, other = small(name).eval(), small(name).eval()
        for parameter in other.parameters():
            torch.nn.init.normal_(parameter)
        other.load_state_dict(model.state_dict())
        assert torch.equal(output(other, shapes(model)), output(model, shapes(model)))

    def test_bfloat16(self, name):
        model = small(name).eval()
        with torch.autocast("cpu", torch.bfloat16):
            assert all(loss.isfinite() for loss in model.loss(model(shapes(model))).values())

    def test_wrong_channels_are_explained(self, name):
        model = small(name)
        with pytest.raises(ValueError, match="in_channels=8"):
            model(torch.randn(2, 64, 8))
        with pytest.raises(ValueError, match="channels first"):
            model(shapes(model).transpose(1, 2))

    def test_there_are_no_classes(self, name):
        with pytest.raises(TypeError, match="leave num_classes out"):
            create_model(name, num_classes=5, **SIZES.get(name, {}))
