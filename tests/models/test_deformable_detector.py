"""What is the deformable detector's own; what holds for every detector is in test_detectors.py."""

import pytest
import torch

from pctransformer.heads.deformable import DeformableQueryHead
from pctransformer.heads.query import as_tokens
from pctransformer.layers.deformable import MapLevels
from pctransformer.layers.recording import record_attention
from pctransformer.models import create_model
from pctransformer.voxels import BevMap
from tests.models.small import small
from tests.models.test_detectors import detector, scans


def test_parameters():
    def count(name: str) -> int:
        return sum(parameter.numel() for parameter in create_model(name).parameters())

    assert count("deformable_detector") == 4_204_336
    assert count("deformable_detector_small") == 685_408


def test_maps_are_halved_again_and_again():
    model = detector("deformable_detector_small", "query").eval()
    levels = model.forward_features(scans())
    assert isinstance(levels, MapLevels)
    assert levels.shapes == [(8, 8), (4, 4), (2, 2)]  # 16 x 16 pillars
    pillars = BevMap.from_voxels(model.pillars(scans()))
    grids, bev, maps = [], pillars, []
    for stage in model.stages:
        bev = stage(bev)
        maps.append(bev)
        grids.append(bev.grid.flattened())
    assert list(levels.grids) == grids
    assert torch.equal(model.encoder(MapLevels.from_maps(maps)).cells, levels.cells)


@pytest.mark.parametrize("head", ["anchor", "center"])
def test_other_heads_stand_on_the_finest_map(head):
    queries, other = detector("deformable_detector_small", "query"), detector("deformable_detector_small", head)
    shared = {name: value for name, value in queries.state_dict().items() if not name.startswith("head.")}
    other.load_state_dict(shared, strict=False)
    finest = queries.eval().forward_features(scans()).to_maps()[0]
    bev = other.eval().forward_features(scans())
    assert isinstance(bev, BevMap)
    assert bev.grid == finest.grid
    assert torch.equal(bev.features, finest.features)


def test_queries_move_to_where_they_found_their_objects():
    """Layer by layer by what the box codes say, and the decoder looks around there."""
    model = detector("deformable_detector_small", "query").eval()
    head = model.head
    assert isinstance(head, DeformableQueryHead)
    levels = model.forward_features(scans())
    output = head(levels)
    first = levels.to_maps()[0]
    begun = head.queries(first, as_tokens(first, 64))
    assert torch.equal(output.references[:, 0], begun.references)
    moved = output.references[:, :-1] + output.box_codes[:, :-1, :, :3]
    torch.testing.assert_close(output.references[:, 1:], moved)
    assert (output.references[:, 1] - output.references[:, 0]).abs().max() > 1e-3
    x = begun.content + head.position(begun.references)
    for layer, references in zip(head.decoder.layers, output.references.unbind(1), strict=True):
        x = layer(x, references, levels)
    torch.testing.assert_close(output.class_logits[:, -1], head.classify(head.norm(x)))


def test_its_attention_can_be_looked_at():
    """Of cells to cells, of queries among themselves, and of queries to cells."""
    model = small("deformable_detector").eval()
    with record_attention(model) as maps, torch.no_grad():
        model(scans())
    attention = [record for record in maps if record.layer.endswith("attention")]
    assert [(record.layer, record.keys) for record in attention] == [
        ("encoder.layers.0.attention", "tokens"),
        *(
            (f"head.decoder.layers.{layer}.{part}_attention", keys)
            for layer in range(2)
            for part, keys in (("self", "tokens"), ("cross", "context"))
        ),
    ]
    cells = 8 * 8 + 4 * 4
    query, key, weight = attention[-1].pairs()
    assert (query // 12 == key // cells).all()
    assert (weight >= 0).all()


def test_queries_have_no_anchors():
    with pytest.raises(ValueError, match='"query" has no anchors'):
        create_model("deformable_detector", anchors=[(3.9, 1.6, 1.56, -1.78, 0.6, 0.45)] * 3)
