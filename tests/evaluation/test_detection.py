"""Camera-free detection scores: by hand, by the letter, and for what must not change them."""

import json
import math

import numpy as np
import pytest
import torch

from pctransformer.boxes import BoxBatch
from pctransformer.evaluation.detection import count_points, evaluate_detection, recall_by_distance
from pctransformer.points import PointBatch
from tests.evaluation.detection_by_the_letter import averages, mean_errors, rows_of

NAMES = ("Car", "Cyclist")


def box(x, y=0.0, size=(4.0, 2.0, 1.5), heading=0.0, z=0.0):
    return [x, y, z, *size, heading]


def batch(*scans, scores=None):
    """Of scans of rows (box, label) or (box, label, score)."""
    boxes = [torch.tensor([row[0] for row in rows]).reshape(-1, 7) for rows in scans]
    labels = [torch.tensor([row[1] for row in rows], dtype=torch.int64) for rows in scans]
    with_scores = any(len(row) == 3 for rows in scans for row in rows)
    scores = [torch.tensor([row[2] for row in rows]) for rows in scans] if with_scores else None
    return BoxBatch.from_list(boxes, labels, scores)


def some(scans=8, seed=0, *, ignored=0.2):
    """Objects, and detections near some of them and elsewhere, in range of all criteria, no two scores alike."""
    generator = np.random.default_rng(seed)
    low, high = [5, -30, -1, 1, 0.6, 1, -3], [70, 30, 0, 4, 2, 2, 3]
    noise = [0.7, 0.4, 0.1, 0.1, 0.1, 0.1, 0.3]
    truth, found = [], []
    scores = generator.permutation(1000) / 1000 + 0.0005
    for _ in range(scans):
        boxes = generator.uniform(low, high, (generator.integers(0, 9), 7))
        labels = np.where(generator.uniform(size=len(boxes)) < ignored, -1, generator.integers(0, 2, len(boxes)))
        rows = np.repeat(np.flatnonzero(generator.uniform(size=len(boxes)) < 0.8), 2)
        near = boxes[rows] + generator.normal(size=(len(rows), 7)) * noise
        near[:, 3:6] = np.abs(near[:, 3:6])
        far = generator.uniform(low, high, (generator.integers(0, 6), 7))
        all_found = np.concatenate([near, far])
        kinds = generator.integers(0, 2, len(all_found))
        kinds[: len(near)] = np.where(labels[rows] >= 0, labels[rows], kinds[: len(near)])
        truth.append((boxes.astype(np.float32), labels))
        found.append((all_found.astype(np.float32), kinds))
    ends = np.cumsum([len(boxes) for boxes, _ in found])
    of_scan = [scores[end - len(boxes) : end].astype(np.float32) for end, (boxes, _) in zip(ends, found)]
    return BoxBatch.from_list(*zip(*truth)), BoxBatch.from_list(*zip(*found), of_scan)


# ---- by hand ---------------------------------------------------------------------------------------------------------
def test_three_detections_of_two_objects():
    """Right, wrong, right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1."""
    truth = batch([(box(10), 0)], [(box(20), 0)])
    found = batch([(box(10), 0, 0.9), (box(50), 0, 0.8)], [(box(20), 0, 0.7)])
    curve = evaluate_detection(truth, found, NAMES).curve("Car", "2 m")
    assert curve.count == 2
    assert curve.true_positives.tolist() == [1, 1, 2]
    assert curve.false_positives.tolist() == [0, 1, 1]
    np.testing.assert_allclose(curve.thresholds, [0.9, 0.8, 0.7], rtol=1e-6)
    assert curve.recall.tolist() == [0.5, 0.5, 1]
    assert curve.all_point == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert curve.r40 == pytest.approx((20 * 1 + 20 * 2 / 3) / 40)
    # precision less 0.1 at recall 0.11 to 0.49, at 0.50, and from 0.51 to 1, where it rises from 1/2 to 2/3
    assert curve.nuscenes == pytest.approx((39 * 0.9 + 0.4 + sum(0.4 + k / 50 / 6 for k in range(1, 51))) / 90 / 0.9)
    assert curve.best_recall == 1


def test_errors_are_running_means_over_recall():
    """0.2 m at score 0.9 and 0.6 m at 0.5: the mean is 0.2 up to recall 1/2, and rises to 0.4 from there."""
    truth = batch([(box(10), 0), (box(20), 0)])
    found = batch([(box(10.2), 0, 0.9), (box(20.6), 0, 0.5)])
    curve = evaluate_detection(truth, found, NAMES).curve("Car", "2 m")
    expected = (40 * 0.2 + sum(0.2 + 0.2 * k / 50 for k in range(1, 51))) / 90
    assert curve.translation_error == pytest.approx(expected, rel=1e-5)
    assert curve.size_error == pytest.approx(0)
    assert curve.heading_error == 0


def test_errors_of_size_and_heading():
    truth = batch([(box(10, heading=3.0), 0)])
    found = batch([(box(10, size=(2, 2, 1.5), heading=-3.0, z=5), 0, 0.9)])
    curve = evaluate_detection(truth, found, NAMES).curve("Car", "2 m")
    assert curve.translation_error == 0  # seen from above
    assert curve.size_error == pytest.approx(0.5)
    assert curve.heading_error == pytest.approx(2 * math.pi - 6, rel=1e-5)


def test_the_best_detection_chooses_first_and_takes_the_nearest():
    truth = batch([(box(10), 0), (box(12), 0)])
    found = batch([(box(11.3), 0, 0.9), (box(12.1), 0, 0.8), (box(13.4), 0, 0.7)])
    score = evaluate_detection(truth, found, NAMES, distances=(1, 1.5, 2, 3))
    counts = {c: score.curve("Car", c).true_positives.tolist() for c in ("1 m", "1.5 m", "2 m", "3 m")}
    # the first takes the object at 12 m; the second may not have it, and is 2.1 m from the other
    assert counts == {"1 m": [1, 1, 1], "1.5 m": [1, 1, 1], "2 m": [1, 1, 1], "3 m": [1, 2, 2]}
    at_border = evaluate_detection(batch([(box(10), 0)]), batch([(box(12), 0, 0.5)]), NAMES)
    assert at_border.curve("Car", "2 m").best_recall == 0  # nearer than 2 m, not as near
    assert at_border.curve("Car", "4 m").best_recall == 1


def test_overlaps_by_hand():
    """Moved by 1 m along its 4 m: 3 / 5 seen from above; and by 0.5 m up its 1.5 m: 6 / (24 - 6) in space."""
    truth = batch([(box(10), 0)])
    found = batch([(box(11, z=0.5), 0, 0.5)])
    score = evaluate_detection(truth, found, NAMES, overlaps=(0.3, 0.35, 0.59, 0.61))
    found_at = {c.name: score.curve("Car", c.name).best_recall for c in score.criteria if c.kind != "distance"}
    assert found_at == {
        "BEV 0.3": 1, "BEV 0.35": 1, "BEV 0.59": 1, "BEV 0.61": 0,
        "3D 0.3": 1, "3D 0.35": 0, "3D 0.59": 0, "3D 0.61": 0,
    }  # fmt: skip


def test_classes_do_not_mix():
    truth = batch([(box(10), 0), (box(20), 1)])
    found = batch([(box(10), 1, 0.9), (box(20), 1, 0.8)])
    score = evaluate_detection(truth, found, NAMES)
    assert score.curve("Car", "3D 0.7").all_point == 0
    assert score.curve("Cyclist", "3D 0.7").all_point == pytest.approx(0.5)


def test_ignored_objects_are_neither_right_nor_wrong():
    truth = batch([(box(10), -1), (box(20), 0), (box(21), -1)])
    found = batch([(box(10), 0, 0.9), (box(10), 0, 0.8), (box(10), 1, 0.7), (box(20.6), 0, 0.6), (box(40), 0, 0.5)])
    score = evaluate_detection(truth, found, NAMES, ranges=())
    curve = score.curve("Car", "2 m")
    assert curve.count == 1
    assert curve.true_positives.tolist() == [1, 1]  # it is 0.4 m from an ignored one, but may be the other
    assert curve.false_positives.tolist() == [0, 1]
    assert curve.all_point == 1
    assert len(score.curve("Cyclist", "2 m").thresholds) == 0
    assert math.isnan(score.curve("Cyclist", "2 m").all_point)
    assert recall_by_distance(truth, found, bins=(0, 100)).counts.tolist() == [1]


def test_equal_scores_come_in_together():
    truth = batch([(box(10), 0)])
    for first, second in ((10, 50), (50, 10)):
        found = batch([(box(first), 0, 0.5), (box(second), 0, 0.5)])
        curve = evaluate_detection(truth, found, NAMES).curve("Car", "2 m")
        assert curve.true_positives.tolist() == [1]
        assert curve.false_positives.tolist() == [1]
        assert curve.all_point == curve.r40 == 0.5
        assert curve.nuscenes == pytest.approx(0.4 / 0.9)


def test_bands_of_distance():
    """A detection across a border goes with its object; a wrong one counts where it is."""
    truth = batch([(box(19.9), 0), (box(30), 0), (box(0, 70), 0)])
    found = batch([(box(20.1), 0, 0.9), (box(25), 0, 0.8), (box(0, 70), 0, 0.7)])
    score = evaluate_detection(truth, found, NAMES)
    assert score.bands == ("all", "0-20 m", "20-40 m", "40-60 m", "60+ m")
    state = {
        band: (c.count, c.true_positives.tolist(), c.false_positives.tolist())
        for band in score.bands
        for c in [score.curve("Car", "2 m", band)]
    }
    assert state == {
        "all": (3, [1, 1, 2], [0, 1, 1]), "0-20 m": (1, [1], [0]), "20-40 m": (1, [0], [1]), "40-60 m": (0, [], []),
        "60+ m": (1, [1], [0]),
    }  # fmt: skip
    assert score.curve("Car", "2 m", "20-40 m").all_point == 0


def test_bands_of_points():
    truth = batch([(box(10), 0), (box(20), 0)], [(box(10), 0)])
    found = batch([(box(10), 0, 0.9), (box(20), 0, 0.8)], [(box(30), 0, 0.7)])
    clouds = [torch.tensor([[10.0, 0, 0]] * 9 + [[20.0, 0, 0]] * 60), torch.tensor([[10.0, 0, 0.5]] * 20)]
    together = PointBatch.from_list(clouds)
    counts = count_points(together, truth), count_points(together, found)
    assert [count.tolist() for count in counts] == [[9, 60, 20], [9, 60, 0]]
    score = evaluate_detection(truth, found, NAMES, ranges=(), points=counts)
    assert score.bands == ("all", "1-9 points", "10-49 points", "50+ points")
    of_band = {band: score.curve("Car", "3D 0.5", band) for band in score.bands[1:]}
    assert {band: (c.count, c.true_positives.sum()) for band, c in of_band.items()} == {
        "1-9 points": (1, 1), "10-49 points": (1, 0), "50+ points": (1, 1),
    }  # fmt: skip
    assert sum(len(c.thresholds) for c in of_band.values()) == 2  # the one without points is in no band
    with pytest.raises(ValueError, match="of 2 objects and 3 detections, but there are 3 and 3"):
        evaluate_detection(truth, found, NAMES, points=(counts[0][:2], counts[1]))


def test_recall_by_distance():
    truth = batch([(box(5), 0), (box(10), 1), (box(0, 19), 0)], [(box(25), 0), (box(25, 9), -1)])
    found = batch([(box(5.4), 0, 0.1), (box(10), 0, 0.9), (box(0, 19), 0, 0.5)], [(box(26.2), 0, 0.5)])
    result = recall_by_distance(truth, found, 0.5, (0, 10, 20, 30, 40))
    assert result.counts.tolist() == [1, 2, 1, 0]
    assert result.found.tolist() == [1, 1, 1, 0]
    np.testing.assert_array_equal(result.recall, [1, 0.5, 1, math.nan])
    assert recall_by_distance(truth, found, 0.7, (0, 10, 20, 30, 40)).found.tolist() == [1, 1, 0, 0]
    assert recall_by_distance(truth, found, 0.5, (0, math.inf), label=1).counts.tolist() == [1]
    assert recall_by_distance(truth, found, 0.5, (0, math.inf), label=1).found.tolist() == [0]
    assert recall_by_distance(truth, found, 0.5, (8, 12)).counts.tolist() == [1]
    lines = result.table().splitlines()
    assert lines[0].split() == ["distance", "objects", "found,", "%", "3D", "0.5"]
    assert [line.split() for line in lines[2:]] == [
        ["10-20", "m", "2", "50.0"], ["20-30", "m", "1", "100.0"], ["30-40", "m", "0", "-"],
    ]  # fmt: skip
    plain = json.loads(json.dumps(recall_by_distance(truth, found).as_dict(), allow_nan=False))
    assert plain["edges"][-1] is None
    assert plain["criterion"] == "3D 0.5"
    for wrong in ((0,), (0, 10, 10), (10, 0)):
        with pytest.raises(ValueError, match="borders of distance must rise"):
            recall_by_distance(truth, found, bins=wrong)


# ---- by the letter ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(4))
def test_as_the_definitions_say(seed):
    truth, found = some(seed=seed)
    score = evaluate_detection(truth, found, NAMES, distances=(0.5, 2.0), overlaps=(0.3, 0.6), ranges=())
    different = set()
    for label, name in enumerate(NAMES):
        count = int((truth.labels == label).sum())
        assert count > 3
        for criterion in score.criteria:
            rows = rows_of(truth, found, label, *criterion)
            curve = score.curve(name, criterion.name)
            assert curve.count == count
            np.testing.assert_allclose((curve.all_point, curve.r40, curve.nuscenes), averages(rows, count), atol=1e-9)
            errors = (curve.translation_error, curve.size_error, curve.heading_error)
            np.testing.assert_allclose(errors, mean_errors(rows, count), atol=1e-5)
            assert curve.true_positives[-1] == sum(true for _, true, _ in rows)
            assert curve.false_positives[-1] == sum(not true for _, true, _ in rows)
            different.add(curve.all_point)
    assert len(different) > 6


def test_order_of_scans_and_of_batches_makes_no_difference():
    """With scores of which many are equal."""
    truth, found = some(scans=8)
    found = found.replace(scores=(found.scores * 5).round() / 5)
    expected = evaluate_detection(truth, found, NAMES)
    a, b = truth.split(), found.split()
    order = np.random.default_rng(0).permutation(8)
    turned = evaluate_detection([a[i] for i in order], [b[i] for i in order], NAMES)
    for one, other in zip(turned.curves.values(), expected.curves.values()):
        errors = [(c.translation_error, c.size_error, c.heading_error) for c in (one, other)]
        np.testing.assert_allclose(*errors, rtol=1e-12, atol=1e-12)  # they are summed in another order
        np.testing.assert_array_equal(one.thresholds, other.thresholds)
        np.testing.assert_array_equal(one.true_positives, other.true_positives)
        np.testing.assert_array_equal(one.false_positives, other.false_positives)
    assert evaluate_detection(a, found, NAMES).as_dict() == expected.as_dict()


def test_objects_found_as_they_are_are_perfect():
    truth, _ = some()
    kept = (truth.labels >= 0).nonzero()[:, 0]
    scans = torch.bincount(truth.batch_index[kept], minlength=len(truth))
    found = truth.take(kept, torch.cat([torch.zeros(1, dtype=torch.int64), scans.cumsum(0)]))
    found = found.replace(scores=torch.linspace(0.9, 0.1, len(kept)))
    score = evaluate_detection(truth, found, NAMES)
    for curve in score.curves.values():
        if curve.count:
            assert (curve.all_point, curve.r40, curve.best_recall) == (1, 1, 1)
            assert curve.nuscenes == pytest.approx(1)
            assert max(curve.translation_error, curve.size_error, curve.heading_error) < 1e-6
    assert score.mean_average_precision == pytest.approx(1)


# ---- edges -----------------------------------------------------------------------------------------------------------
def test_nothing_at_all():
    nothing, scored = batch([], []), batch([], []).replace(scores=torch.zeros(0))
    one = batch([(box(10), 0)], [])
    for found in (nothing, scored):
        score = evaluate_detection(one, found, NAMES)
        assert score.curve("Car", "2 m").all_point == score.curve("Car", "2 m").nuscenes == 0
        assert score.curve("Car", "2 m").r40 == score.curve("Car", "2 m").best_recall == 0
        assert math.isnan(score.curve("Car", "2 m").translation_error)
        assert math.isnan(score.curve("Cyclist", "2 m").all_point)
        assert score.mean_average_precision == 0
    only_false = evaluate_detection(nothing, batch([(box(10), 0, 0.5)], []), NAMES)
    assert math.isnan(only_false.mean_average_precision)
    assert only_false.curve("Car", "2 m").false_positives.tolist() == [1]
    empty = evaluate_detection([], [], NAMES)
    assert empty.num_scans == 0
    json.dumps(empty.as_dict(), allow_nan=False)
    assert "-" in empty.table()


def test_what_is_refused():
    truth, found = batch([(box(10), 0)]), batch([(box(10), 0, 0.5)])
    with pytest.raises(ValueError, match="objects of 1 scans, but detections of 2"):
        evaluate_detection(truth, [found, found], NAMES)
    with pytest.raises(ValueError, match="detections must have scores"):
        evaluate_detection(truth, truth, NAMES)
    with pytest.raises(ValueError, match="a detection has label -1"):
        evaluate_detection(truth, batch([(box(10), -1, 0.5)]), NAMES)
    with pytest.raises(ValueError, match="an object has label 2, but there are 2 class names"):
        evaluate_detection(batch([(box(10), 2)]), found, NAMES)
    with pytest.raises(ValueError, match="1 of 2 batches of boxes have scores"):
        evaluate_detection([truth, truth], [found, truth], NAMES)
    with pytest.raises(ValueError, match="neither a limit of distance nor one of overlap"):
        evaluate_detection(truth, found, NAMES, distances=(), overlaps=())
    with pytest.raises(ValueError, match="borders must rise"):
        evaluate_detection(truth, found, NAMES, ranges=(0, 20, 20))


def test_the_table_and_plain_values():
    truth, found = some()
    score = evaluate_detection(truth, found, NAMES)
    text = score.table()
    assert max(map(len, text.splitlines())) <= 120
    row = next(line for line in text.splitlines() if line.startswith("Car"))
    assert row.split()[1] == str(score.curve("Car", "2 m").count)
    assert f"{100 * score.curve('Car', '3D 0.7').r40:.1f}" in row.split()
    assert "20-40 m" in text
    plain = json.loads(json.dumps(score.as_dict(), allow_nan=False))
    assert plain["scans"] == 8
    assert len(plain["curves"]) == 2 * 8 * 5
    only_overlaps = evaluate_detection(truth, found, NAMES, distances=(), ranges=())
    assert "mAP" not in only_overlaps.table()
    assert math.isnan(only_overlaps.mean_average_precision)
