import numpy as np
import pytest

from pctransformer.datasets.scans import (
    Scan,
    ScanDataset,
    boxes_collide,
    collate_scans,
    in_box,
    joined_scans,
    points_in_boxes,
)
from pctransformer.evaluation.rotated_overlap import intersection_area

NAMES = ["a", "b", "c", "d", "e"]


def scan(index, boxes=1, label=0):
    """A scan of one point at x = index."""
    return Scan(
        np.array([[index, 0, 0, 0.5]], np.float32), np.ones((boxes, 7), np.float32), np.full(boxes, label, np.int64)
    )


def moved(scan, generator):
    import dataclasses

    import torch

    return dataclasses.replace(scan, points=scan.points + torch.rand(1, generator=generator).numpy())


def test_points_in_a_turned_box():
    """A box of 4 x 2 x 2 m that looks along +y."""
    box = np.array([1, 1, 0, 4, 2, 2, np.pi / 2])
    points = np.array([[1, 1, 0], [1, 2.9, 0.9], [1.9, 1, -1], [2.1, 1, 0], [1, 3.1, 0], [1, 1, 1.1], [2, 1, 1]])
    assert in_box(points, box).tolist() == [0, 1, 2, 6]  # the last is on the surface
    assert points_in_boxes(points, np.stack([box, [1, 1, 0, 9, 9, 9, 0]])).tolist() == [0, 0, 0, 1, 1, 1, 0]
    assert points_in_boxes(points, np.zeros((0, 7))).tolist() == [-1] * 7
    assert points_in_boxes(np.zeros((0, 3)), box[None]).tolist() == []


def test_boxes_collide_where_they_share_area():
    generator = np.random.default_rng(0)
    low, high = [-6, -6, -1, 0.3, 0.3, 1, -4], [6, 6, 1, 5, 2, 2, 4]
    a, b = generator.uniform(low, high, (60, 7)), generator.uniform(low, high, (70, 7))
    pairs = [np.repeat(a, len(b), axis=0)[:, [0, 1, 3, 4, 6]], np.tile(b, (len(a), 1))[:, [0, 1, 3, 4, 6]]]
    shared = intersection_area(*pairs).reshape(60, 70)
    np.testing.assert_array_equal(boxes_collide(a, b), shared > 1e-9)
    assert 0.05 < boxes_collide(a, b).mean() < 0.95


def test_touching_boxes_do_not_collide():
    box = np.array([[0, 0, 0, 4, 2, 1, 0.0]])
    assert not boxes_collide(box, box + np.eye(7)[0] * 4).any()
    assert boxes_collide(box, box + np.array([3.99, 0, 5, 0, 0, 0, 0])).all()  # whatever their heights are
    assert boxes_collide(box, np.zeros((0, 7))).shape == (1, 0)


def test_scans_are_checked():
    with pytest.raises(ValueError, match=r"points of scan 'x' must be \(n, 3 or more\), got \(4,\)"):
        Scan(np.zeros(4), np.zeros((0, 7)), np.zeros(0), name="x")
    with pytest.raises(ValueError, match=r"must be \(2, 7\) for its labels, got \(1, 7\)"):
        Scan(np.zeros((4, 3)), np.zeros((1, 7)), np.zeros(2))


def test_randomness_depends_on_seed_epoch_and_index_only():
    data = ScanDataset(NAMES, scan, ["Car"], transform=moved, seed=3)
    first = [data[i].points[0, 1] for i in range(5)]
    assert len(set(first)) == 5
    assert [data[i].points[0, 1] for i in reversed(range(5))] == first[::-1]
    data.set_epoch(1)
    assert data[0].points[0, 1] != first[0]
    data.set_epoch(0)
    assert data[-1].points[0, 1] == first[4]
    assert ScanDataset(NAMES, scan, ["Car"], transform=moved, seed=4)[0].points[0, 1] != first[0]
    assert data.with_transform(None)[2].points[0, 0] == 2
    with pytest.raises(IndexError, match="index 5 is outside a data set of 5 scans"):
        data[5]


def test_a_transform_for_later_epochs():
    data = ScanDataset(NAMES, scan, ["Car"]).with_transform(moved, seed=3, later=(2, None)).subset([1])
    shown = []
    for epoch in (0, 1, 2, 5):
        data.set_epoch(epoch)
        shown.append(data[0].points[0, 1])
    kept = scan(1).points[0, 1]
    assert [value == kept for value in shown] == [False, False, True, True]


def some_empty(index):
    """Scans without boxes at 0 and 1, with an ignored one at 2, with a car at 3."""
    return scan(index, boxes=int(index >= 2), label=-1 if index == 2 else 0)


def test_scans_without_boxes_are_replaced_if_wanted():
    data = ScanDataset(NAMES[:4], some_empty, ["Car"])
    assert [int(data[i].points[0, 0]) for i in range(4)] == [0, 1, 2, 3]
    training = ScanDataset(NAMES[:4], some_empty, ["Car"], only_with_boxes=True, seed=1)
    found = []
    for epoch in range(20):
        training.set_epoch(epoch)
        found += [int(training[i].points[0, 0]) for i in range(4)]
    assert found == [3] * 80
    none = ScanDataset(NAMES[:3], lambda index: scan(index, boxes=0), ["Car"], only_with_boxes=True)
    assert len(none[0].boxes) == 0  # after many draws


def test_parts_of_data_sets_and_data_sets_together():
    data = ScanDataset(NAMES, scan, ["Car"], transform=moved, seed=3)
    some = data.subset([4, -2, 4])
    assert some.names == ("e", "d", "e")
    assert [int(one.points[0, 0]) for one in some.with_transform(None)] == [4, 3, 4]
    assert some[0].points[0, 1] != some[2].points[0, 1]  # its transform draws by place
    both = joined_scans([some, data])
    assert [both.name_of(i) for i in range(8)] == ["e", "d", "e", *NAMES]
    assert [int(both[i].points[0, 0]) for i in range(8)] == [4, 3, 4, 0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="the same classes, got Car and Van"):
        joined_scans([data, ScanDataset(NAMES, scan, ["Van"])])
    with pytest.raises(ValueError, match="no data sets"):
        joined_scans([])


def test_what_is_held_out_is_always_the_same():
    data = ScanDataset([str(i) for i in range(40)], scan, ["Car"], seed=3)
    rest, held_out = data.held_out_rows(0.25)
    assert len(held_out) == 10
    assert sorted([*rest, *held_out]) == list(range(40))
    assert held_out.tolist() == data.with_transform(None, seed=9).held_out_rows(0.25)[1].tolist()
    assert held_out.tolist() != list(range(10))
    assert [len(data.held_out_rows(share)[1]) for share in (0, 0.001, 1)] == [0, 1, 40]


def test_scans_are_packed():
    points, boxes = collate_scans([scan(0, boxes=2), scan(1, boxes=0), scan(2, boxes=1, label=-1)])
    assert points.offsets.tolist() == [0, 1, 2, 3]
    assert points.features.tolist() == [[0.5]] * 3
    assert boxes.lengths.tolist() == [2, 0, 1]
    assert boxes.labels.tolist() == [0, 0, -1]
