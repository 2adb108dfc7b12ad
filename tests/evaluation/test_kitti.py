import dataclasses
import json
import math

import numpy as np
import pytest

from pctransformer.datasets.kitti import KittiObjects, read_objects
from pctransformer.evaluation.kitti import CLASSES, DIFFICULTIES, MIN_OVERLAP, choose_thresholds, evaluate_kitti
from tests.evaluation import kitti_by_the_letter
from tests.real_data import real_data

METRIC_OF_FILE = {"detection": "bbox", "detection_BEV": "bev", "detection_3D": "3d", "orientation": "aos"}


def objects(rows):
    """Frames of (type, x of the box in the image and in space, options): boxes 100 px wide and 60 high, cars of 4 m."""
    columns = {"types": [], "scores": []}
    for name in ("truncated", "occluded", "alpha", "boxes_2d", "dimensions", "locations", "rotation_y"):
        columns[name] = []
    for kind, x, options in rows:
        height = options.get("height", 60)
        columns["types"].append(kind)
        columns["truncated"].append(options.get("truncated", 0.0))
        columns["occluded"].append(options.get("occluded", 0))
        columns["alpha"].append(options.get("alpha", 0.0))
        columns["boxes_2d"].append([10 * x, 100, 10 * x + options.get("width", 100), 100 + height])
        columns["dimensions"].append(options.get("size", (1.5, 2.0, 4.0)))
        columns["locations"].append([x, options.get("y", 1.5), options.get("z", 20.0)])
        columns["rotation_y"].append(options.get("turn", 0.0))
        columns["scores"].append(options.get("score", 0.0))
    shapes = {"boxes_2d": (-1, 4), "dimensions": (-1, 3), "locations": (-1, 3)}
    arrays = {name: np.array(values, float) for name, values in columns.items() if name != "types"}
    arrays = {name: values.reshape(shapes.get(name, (-1,))) for name, values in arrays.items()}
    arrays["occluded"] = arrays["occluded"].astype(np.int64)
    return KittiObjects(types=np.array(columns["types"], dtype=np.str_), **arrays)


def labels(rows):
    return dataclasses.replace(objects(rows), scores=None)


def cars(n, spacing=30, **options):
    return [("Car", spacing * i, options) for i in range(n)]


def curve(label_rows, detection_rows, metric="bbox", difficulty="easy", name="Car", overlap="strict"):
    score = evaluate_kitti([labels(label_rows)], [objects(detection_rows)])
    return score.curves[name, metric, difficulty, overlap]


# ---- the official evaluator ------------------------------------------------------------------------------------------
def test_meets_the_official_evaluator_on_real_detections():
    """What the C++ evaluator printed, with 6 decimals, for 27 frames."""
    folder = real_data("kitti_evaluation", "mmdet3d_27_frames")
    names = sorted(path.stem for path in (folder / "label_2").glob("*.txt"))
    score = evaluate_kitti(
        [read_objects(folder / "label_2" / f"{name}.txt", scores=False) for name in names],
        [read_objects(folder / "detections" / f"{name}.txt", scores=True) for name in names],
    )
    expected = json.loads((folder / "expected.json").read_text())
    assert len(expected) == 12
    for key, values in expected.items():
        name, _, metric = key.partition("_")
        for difficulty, precision, r11, r40 in zip(
            DIFFICULTIES, values["precision41_easy_mod_hard"], values["AP11"], values["AP40"]
        ):
            found = score.curves[name.capitalize(), METRIC_OF_FILE[metric], difficulty, "strict"]
            np.testing.assert_allclose(found.precision, precision, atol=1e-6, err_msg=f"{key} {difficulty}")
            assert (found.r11, found.r40) == pytest.approx((r11, r40), abs=1e-4)


def random_frame(generator):
    """Few places, scores and sizes, so that boxes compete, tie and hide in DontCare regions."""
    kinds = ["Car", "Van", "Pedestrian", "Person_sitting", "Cyclist", "DontCare", "Truck"]

    def rows(n, kinds):
        return [
            (
                str(generator.choice(kinds)),
                float(generator.choice([0, 0.3, 1, 5, 5.4])),
                {
                    "height": float(generator.choice([24, 25, 25.5, 40, 41, 60])),
                    "width": float(generator.choice([60, 100, 120])),
                    "truncated": float(generator.choice([0, 0.15, 0.2, 0.4, 0.6])),
                    "occluded": int(generator.integers(0, 4)),
                    "alpha": float(generator.uniform(-3, 3)),
                    "turn": float(generator.choice([0, 0.1, math.pi / 2, 3])),
                    "z": float(generator.choice([20, 20.2, 21])),
                    "y": float(generator.choice([1.5, 1.6])),
                    "score": float(generator.choice([0.1, 0.3, 0.5, 0.7, 0.9])),
                },
            )
            for _ in range(n)
        ]

    return labels(rows(generator.integers(0, 9), kinds)), objects(rows(generator.integers(0, 14), kinds[:5:2]))


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_rules_restated_frame_by_frame(seed):
    generator = np.random.default_rng(seed)
    frames = [random_frame(generator) for _ in range(16)]
    score = evaluate_kitti(*zip(*frames))
    seen = 0
    for (name, metric, difficulty, overlap), found in score.curves.items():
        if metric == "aos":
            continue
        limit = MIN_OVERLAP[overlap][name][("bbox", "bev", "3d").index(metric)]
        count, thresholds, precision, similarity = kitti_by_the_letter.curve(
            frames, name, DIFFICULTIES.index(difficulty), metric, limit
        )
        assert found.count == count
        np.testing.assert_array_equal(found.thresholds, thresholds)
        np.testing.assert_allclose(found.precision, precision, atol=1e-12)
        if metric == "bbox":
            orientation = score.curves[name, "aos", difficulty, overlap].precision
            np.testing.assert_allclose(orientation, similarity, atol=1e-12)
        seen += 0 < found.precision[0] < 1
    assert seen > 10  # the random scenes are neither trivial nor hopeless


# ---- labels as detections --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [0, 1, 2, 7, 40, 41, 42, 100])
def test_labels_as_detections(n):
    """100 from 41 labels on, else 2.5 for each but one, by the official choice of thresholds."""
    rows = cars(n)
    score = evaluate_kitti([labels(rows)], [objects(rows).with_scores(np.linspace(0.9, 0.1, n))])
    for metric in ("bbox", "bev", "3d", "aos"):
        found = score.curves["Car", metric, "easy", "strict"]
        assert found.count == n
        assert found.r40 == pytest.approx(100 if n >= 41 else 2.5 * max(n - 1, 0), abs=1e-12)
        assert found.r40 == pytest.approx(found.r40_bound, abs=1e-12)
    all_point = score.curves["Car", "3d", "easy", "strict"].all_point
    assert math.isnan(all_point) if n == 0 else all_point == pytest.approx(100)


def test_thresholds_never_exceed_41():
    for n in range(1, 300):
        assert len(choose_thresholds(np.linspace(1, 0, n), n)) == min(n, 41)
        assert len(choose_thresholds(np.linspace(1, 0, n), 3 * n)) <= 41


def test_real_labels_as_detections():
    """Boxes that are equal overlap wholly, at any rotation: some evaluators give 0.5 instead of 100 here."""
    folder = real_data("kitti_evaluation", "mmdet3d_27_frames", "label_2")
    frames = [read_objects(path, scores=False) for path in sorted(folder.glob("*.txt"))]
    detections = [frame.take(frame.types != "DontCare") for frame in frames]
    detections = [frame.with_scores(np.linspace(1, 0.5, len(frame))) for frame in detections]
    score = evaluate_kitti(frames, detections)
    for found in score.curves.values():
        assert found.r40 == pytest.approx(found.r40_bound, abs=1e-9)
    assert score.average_precision("Car", "3d") == pytest.approx(100, abs=1e-9)


# ---- by hand ---------------------------------------------------------------------------------------------------------
def test_a_curve_by_hand():
    """2 of 4 cars found, at scores 0.9 and 0.5; a false one at 0.7: precision 1, then 2/3."""
    found = curve(
        cars(4), [("Car", 0, {"score": 0.9}), ("Car", 500, {"score": 0.7}), ("Car", 30, {"score": 0.5})], "3d"
    )
    np.testing.assert_array_equal(found.thresholds, [0.9, 0.5])
    np.testing.assert_array_equal(found.true_positives, [1, 2])
    np.testing.assert_array_equal(found.false_positives, [0, 1])
    np.testing.assert_array_equal(found.false_negatives, [3, 2])
    np.testing.assert_allclose(found.recall, [0.25, 0.5])
    np.testing.assert_allclose(found.precision, [1, 2 / 3, *[0] * 39])
    assert found.r40 == pytest.approx(100 * 2 / 3 / 40)
    assert found.r11 == pytest.approx(100 / 11)
    assert found.all_point == pytest.approx(100 * (1 + 2 / 3) / 4)
    assert found.r40_bound == 7.5


@pytest.mark.parametrize(
    ("options", "counted"),
    [
        ({"height": 40}, (0, 1, 1)),  # a label must be higher than the limit
        ({"height": 40.01}, (1, 1, 1)),
        ({"height": 25}, (0, 0, 0)),
        ({"occluded": 1}, (0, 1, 1)),
        ({"occluded": 2}, (0, 0, 1)),
        ({"occluded": 3}, (0, 0, 0)),
        ({"truncated": 0.15}, (1, 1, 1)),
        ({"truncated": 0.31}, (0, 0, 1)),
        ({"truncated": 0.51}, (0, 0, 0)),
    ],
)
def test_which_labels_count(options, counted):
    score = evaluate_kitti([labels(cars(1, **options))], [objects(cars(1))])
    assert tuple(score.curves["Car", "3d", difficulty, "strict"].count for difficulty in DIFFICULTIES) == counted


@pytest.mark.parametrize(("name", "neighbour"), [("Car", "Van"), ("Pedestrian", "Person_sitting")])
def test_a_detection_on_a_neighbouring_class_costs_nothing(name, neighbour):
    rows = [(name, 0, {"score": 0.5}), (name, 30, {"score": 0.9})]
    assert curve([(name, 0, {}), (neighbour, 30, {})], rows, name=name).precision[0] == 1
    assert curve([(name, 0, {}), ("Cyclist", 30, {})], rows, name=name).precision[0] == 0.5


def test_dont_care_excuses_false_detections_in_the_image_only():
    rows = [("Car", 0, {"score": 0.5}), ("Car", 30, {"score": 0.9})]
    region = ("DontCare", 25, {"width": 400, "size": (-1, -1, -1)})
    assert curve([("Car", 0, {}), region], rows, "bbox").precision[0] == 1
    assert curve([("Car", 0, {}), region], rows, "bev").precision[0] == 0.5
    # the share of the detection that lies in the region must exceed 0.7
    assert curve([("Car", 0, {}), ("DontCare", 25, {"width": 121})], rows, "bbox").precision[0] == 1
    assert curve([("Car", 0, {}), ("DontCare", 25, {"width": 120})], rows, "bbox").precision[0] == 0.5


def test_a_low_detection_of_any_class_may_take_a_label_that_is_then_not_missed():
    """It is neither right nor wrong, and the label neither found nor missed."""
    rows = [("Car", 0, {"score": 0.9}), ("Pedestrian", 30, {"height": 24, "score": 0.9})]
    found = curve(cars(2), rows, "3d", "moderate")
    assert (found.true_positives, found.false_positives, found.false_negatives) == ([1], [0], [0])
    found = curve(cars(2), rows[:1], "3d", "moderate")
    assert found.false_negatives == [1]


def test_overlap_must_exceed_the_limit():
    label = [("Car", 0, {"width": 100})]
    assert curve(label, [("Car", 0, {"width": 70, "score": 1})]).precision[0] == 0
    assert curve(label, [("Car", 0, {"width": 71, "score": 1})]).precision[0] == 1


def test_of_two_detections_of_one_car_one_is_false():
    rows = [("Car", 0, {"score": 0.9}), ("Car", 0.2, {"score": 0.8}), ("Car", 30, {"score": 0.7})]
    found = curve(cars(2), rows, "bev")
    np.testing.assert_array_equal(found.false_positives, [0, 1])
    assert found.all_point == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_orientation_similarity():
    found = curve(cars(1, alpha=0.4), cars(1, alpha=0.4 + math.pi / 2, score=1), "aos")
    assert found.precision[0] == pytest.approx(0.5)
    assert curve(cars(1, alpha=0.4), cars(1, alpha=0.4 + math.pi, score=1), "aos").precision[0] == pytest.approx(0)
    score = evaluate_kitti([labels(cars(2))], [objects([*cars(1), ("Pedestrian", 30, {"alpha": -10})])])
    assert ("Car", "aos", "easy", "strict") not in score.curves
    assert math.isnan(score.average_precision("Car", "aos"))
    assert "aos  AP: -, -, -" in score.table()


def test_a_higher_box_of_the_same_ground_overlaps_less_in_space():
    rows = cars(1, score=1, y=1.0)
    assert curve(cars(1), rows, "bev").precision[0] == 1
    assert curve(cars(1), rows, "3d").precision[0] == 0  # 1 m of 1.5 m: 1 / 2
    assert curve(cars(1), cars(1, score=1, y=1.3), "3d", overlap="loose").precision[0] == 1


def test_case_of_classes_does_not_matter():
    assert curve([("car", 0, {})], [("CAR", 0, {"score": 1})]).count == 1


# ---- borders ---------------------------------------------------------------------------------------------------------
def test_nothing_at_all():
    for frames in (0, 2):
        score = evaluate_kitti([labels([])] * frames, [objects([])] * frames)
        assert score.average_precision("Car", "3d") == 0
        assert json.loads(json.dumps(score.as_dict()))["frames"] == frames
        assert "Cyclist     hard" in score.table()


def test_no_detections_and_no_labels():
    assert curve(cars(3), []).r40 == 0
    assert curve(cars(3), []).all_point == 0
    assert curve([], cars(3)).r40 == 0


def test_faults():
    with pytest.raises(ValueError, match="labels of 1 frames, but detections of 0"):
        evaluate_kitti([labels([])], [])
    with pytest.raises(ValueError, match="must have scores"):
        evaluate_kitti([labels(cars(1))], [labels(cars(1))])
    with pytest.raises(ValueError, match="not Tram"):
        evaluate_kitti([], [], classes=["Tram"])


def test_order_of_frames_does_not_matter():
    generator = np.random.default_rng(7)
    frames = [random_frame(generator) for _ in range(20)]
    one, other = evaluate_kitti(*zip(*frames)), evaluate_kitti(*zip(*frames[::-1]))
    for key, found in one.curves.items():
        np.testing.assert_allclose(found.precision, other.curves[key].precision, atol=1e-12)


def test_the_table_and_json_say_the_same():
    rows = cars(3)
    score = evaluate_kitti([labels(rows)], [objects(rows).with_scores(np.array([0.9, 0.8, 0.7]))])
    text = score.table()
    assert "Car AP_R40@0.70, 0.50, 0.50:\nbbox AP: 5.0000, 5.0000, 5.0000" in text
    assert "Car         easy              3         5.00" in text
    curves = score.as_dict()["curves"]
    assert len(curves) == len(CLASSES) * len(DIFFICULTIES) * 6
    assert {
        (c["R40"], c["R40_bound"], c["all_point"]) for c in curves if c["class"] == "Car" and c["metric"] == "3d"
    } == {(5.0, 5.0, 100.0)}
