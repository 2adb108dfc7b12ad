"""PointDETR: what becomes of points on the way to tokens, how far tokens see, and what stands behind them."""

import pytest
import torch

from pctransformer.heads.anchor import AnchorOutput
from pctransformer.heads.query import QueryOutput
from pctransformer.layers.recording import record_attention
from pctransformer.models import create_model
from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap
from tests.models.small import ANCHORS, small
from tests.models.test_detectors import scans, tensors


def test_sizes():
    """That of the paper, and one that trains on a CPU."""
    with torch.device("meta"):
        full, light = create_model("point_detr"), create_model("point_detr_small")
    assert (full.abstraction.num_samples, len(full.layers), len(full.head.layers)) == (2048, 3, 8)
    assert full.num_features == 256
    assert sum(parameter.numel() for parameter in full.parameters()) == 7_693_005
    assert sum(parameter.numel() for parameter in light.parameters()) == 217_885


def test_tokens_are_means_of_cells_far_from_each_other():
    model = small("point_detr_small", num_tokens=3).eval()
    points = torch.tensor(
        [[1.1, 0.1, 0, 0.2], [1.3, 0.3, 0.1, 0.4], [7.1, 3.2, 0, 1], [6.9, 3.1, 0, 1], [1.2, -3.6, 0, 0], [99, 0, 0, 0]]
    )
    tokens = model.forward_features([points])
    assert isinstance(tokens, PointBatch)
    assert tokens.is_dense
    # of cells of half a metre, four hold points, in the order of y, then x; the third is near the fourth
    expected = torch.tensor([[1.2, -3.6, 0], [7.1, 3.2, 0], [1.2, 0.2, 0.05]])
    torch.testing.assert_close(tokens.xyz, expected)


def test_points_of_one_cell_count_once():
    """So that what is near the sensor does not take all the tokens: ten thousand points in one cell change nothing."""
    model = small("point_detr_small").eval()
    cloud = torch.cat([scans((40,)).xyz, scans((40,)).features], 1)
    crowd = cloud[:1].expand(10_000, -1)
    for ours, theirs in zip(tensors(model([cloud])), tensors(model([torch.cat([cloud, crowd])]))):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("channels", [3, 4])
def test_tokens_know_their_surroundings_wherever_these_are(channels):
    """The same scene five cells further gives the same tokens there: coordinates themselves are no features."""
    torch.manual_seed(0)
    model = small("point_detr_small", in_channels=channels).eval()
    cloud = (
        torch.rand(200, 4)[:, :channels] * torch.tensor([4.0, 6, 3, 1])[:channels]
        - torch.tensor([0, 3, 2.5, 0])[:channels]
    )
    aside = torch.nn.functional.pad(torch.tensor([2.5, 0.5]), (0, channels - 2))
    tokens, moved = (model.forward_features([one]) for one in (cloud, cloud + aside))
    torch.testing.assert_close(moved.xyz, tokens.xyz + aside[:3], rtol=0, atol=1e-5)
    torch.testing.assert_close(moved.features, tokens.features, rtol=1e-3, atol=1e-4)


def features(model: torch.nn.Module, cloud: torch.Tensor) -> torch.Tensor:
    return model.forward_features([cloud]).features.detach()


def test_radii_say_how_far_tokens_see():
    """A point 3 m away changes what a token knows, unless no layer lets it see so far."""
    cloud = torch.tensor([[1.2, 0.2, 0, 0.5], [4.2, 0.2, 0, 0.5]])
    other = cloud.clone()
    other[1, 3] = 0.9
    for radii, changes in (((None, None), True), ((9.0, 9.0), True), ((2.0, 2.0), False), ((2.0, None), True)):
        model = small("point_detr_small", num_tokens=2, radii=radii).eval()
        before, after = features(model, cloud), features(model, other)
        assert not torch.equal(before[1], after[1])
        assert torch.equal(before[0], after[0]) != changes
    wide, plain = (small("point_detr_small", radii=radii).eval() for radii in ((99.0, 99.0), None))
    cloud = torch.cat([scans((300,)).xyz, scans((300,)).features], 1)
    torch.testing.assert_close(features(wide, cloud), features(plain, cloud), rtol=1e-4, atol=1e-5)


def test_tokens_behind_an_anchor_head_are_on_a_map():
    model = small("point_detr_small", head="anchor", anchors=ANCHORS).eval()
    bev = model.forward_features(scans())
    assert isinstance(bev, BevMap)
    assert bev.grid.voxel_size == (2, 2, 4)
    assert bev.features.shape == (4, 64, 4, 4)
    assert isinstance(model(scans()), AnchorOutput)
    # what is in one corner of the range is far from the other corner of the map
    near = model.forward_features([torch.tensor([[0.1, -3.9, 0, 1]])]).features
    nothing = model.forward_features([torch.zeros(0, 4)]).features
    assert (near - nothing).abs().amax(1)[0, 0, 0] > 0


def test_the_last_layer_of_queries_is_seen_to_look_at_tokens():
    model = small("point_detr_small").eval()
    output = model(scans())
    assert isinstance(output, QueryOutput)
    with record_attention(model) as maps:
        recorded = model(scans())
    for ours, theirs in zip(tensors(output), tensors(recorded)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    layers = [found.layer for found in maps]
    assert layers[:2] == ["", "abstraction"]  # the model itself leaves out what is out of range
    assert layers[-1] == "head.layers.2.cross_attention"
    assert maps[-1].weights.shape == (4, 4, 12, 64)


def test_what_is_refused():
    with pytest.raises(ValueError, match="radii must be one for each of 2 encoder layers"):
        small("point_detr_small", radii=(1.0,))
    with pytest.raises(ValueError, match="multiples of 4 cells"):
        small("point_detr_small", head="center", point_range=(0, -4, -3, 9, 4, 1))
    small("point_detr_small", point_range=(0, -4, -3, 9, 4, 1))
