"""Sentences follow from numbers."""

import json

import pytest

from pctransformer.evaluation.mixers import (
    GRID_VIEW,
    POINT_VIEW,
    WITHOUT_ATTENTION,
    MixerResult,
    class_table,
    conclusions,
    markdown,
    table,
)
from pctransformer.layers.grid_mixers import grid_mixer_info, list_grid_mixers
from pctransformer.layers.mixers import list_mixers, mixer_info


def result(name: str, *percents: float, multiply_adds: int = 20_000_000, speed: float = 300, memory: int | None = 600):
    accuracies = tuple(percent / 100 for percent in percents)
    return MixerResult(
        name=name,
        family=mixer_info(name).family,
        seeds=tuple(range(len(accuracies))),
        scores={
            "overall_accuracy": accuracies,
            "mean_class_accuracy": tuple(accuracy - 0.01 for accuracy in accuracies),
        },
        parameters=481_898,
        multiply_adds=multiply_adds,
        train_samples_per_second=speed,
        test_samples_per_second=900,
        peak_memory_mb=memory,
        seconds=200,
    )


ATTENTION = result("self_attention", 92.0, 92.4, 92.2, multiply_adds=31_400_000)
LEVEL = result("gmlp", 91.9, 92.3, 92.1, multiply_adds=25_000_000)
WORSE = result("lstm", 90.9, 91.3, 91.1, speed=500)
BETTER = result("resmlp", 93.9, 94.3, 94.1)
FLOOR = result("mean_pool", 86.9, 87.3, 87.1)
EXTERNAL = result("external_attention", 95.0, 95.4, 95.2)


def said(*results: MixerResult) -> str:
    return "\n".join(conclusions(results, POINT_VIEW, 908))


def test_level_without_attention():
    text = said(LEVEL, ATTENTION, WORSE, FLOOR)
    assert "Best: self_attention with an overall accuracy of 92.2 ± 0.2 %." in text
    assert "scatter by 0.2 points" in text or "scatter by 0.20 points" in text
    assert "Level with the best: gmlp." in text
    assert "Attention is not necessary here, as far as can be told: gmlp reaches 92.1 ± 0.2 % without it" in text
    assert "is worth 5.1 points, more than noise" in text
    assert "gmlp computes least, 25.0 million multiply-adds for a shape" in text
    assert "908 shapes: an accuracy itself is known to 0.89 points" in text


def test_attention_is_better():
    text = said(ATTENTION, WORSE)
    assert (
        "Attention is necessary here: lstm reaches 91.1 ± 0.2 % without it, self_attention 92.2 ± 0.2 % with it" in text
    )
    assert "Level with the best: none." in text
    assert "computes least" not in text


def test_something_else_is_better():
    text = said(ATTENTION, BETTER, WORSE)
    assert "Attention is not necessary here: resmlp reaches 94.1 ± 0.2 % without it" in text
    assert "worse by more than noise" in text
    assert "Best: resmlp" in text


def test_external_attention_is_on_neither_side():
    text = said(ATTENTION, EXTERNAL, WORSE)
    assert "Best: external_attention" in text
    assert "Attention is necessary here: lstm" in text
    assert "necessary" not in said(ATTENTION, EXTERNAL)


def test_the_floor_may_be_as_good():
    text = said(ATTENTION, result("mean_pool", 92.1, 92.3, 92.1))
    assert "is worth 0.033 points, within noise" in text
    assert "giving each the mean" not in said(FLOOR, result("lstm", 80, 81, 82))  # the floor is the best


def test_one_training_each_decides_nothing():
    text = said(result("self_attention", 92.2), result("gmlp", 92.1), result("mean_pool", 87))
    assert "Best: self_attention with an overall accuracy of 92.2 %." in text
    assert "nothing is known of noise" in text
    assert "is not decided by one training each: gmlp reaches 92.1 % without it, self_attention 92.2 % with it." in text
    assert "is worth 5.2 points." in text
    assert "Level" not in text
    assert "computes least" not in text


def test_one_mixer():
    text = said(ATTENTION)
    assert text.startswith("Best: self_attention with an overall accuracy of 92.2 ± 0.2 %.\nThe test has 908 shapes")
    assert text.count("\n") == 1


def test_every_family_is_on_a_side_or_between():
    families = {mixer_info(name).family for name in list_mixers()}
    assert families - {"external attention"} <= {"attention", *WITHOUT_ATTENTION}
    on_grids = {name: grid_mixer_info(name).family for name in list_grid_mixers()}
    assert set(on_grids.values()) <= {"attention", *WITHOUT_ATTENTION}
    with_attention = {name for name, family in on_grids.items() if family == "attention"}
    assert with_attention == {"window_attention", "cross_shaped_windows", "global_attention"}


# ---- detectors -------------------------------------------------------------------------------------------------------
def detector(name: str, *percents: float) -> MixerResult:
    aps = tuple(percent / 100 for percent in percents)
    return MixerResult(
        name=name,
        family=grid_mixer_info(name).family,
        seeds=tuple(range(len(aps))),
        scores={"ap_bev": aps, "ap_3d": tuple(ap / 2 for ap in aps)},
        class_scores={"Car": {"ap_bev": aps, "ap_3d": aps}, "Tram": {"ap_bev": aps, "ap_3d": (0.5,) * len(aps)}},
        parameters=600_000,
        multiply_adds=230_000_000,
        train_samples_per_second=12.34,
        test_samples_per_second=125.6,
        peak_memory_mb=900,
        seconds=90,
    )


def test_detectors_are_compared_by_their_mean_ap():
    results = [
        detector("window_attention", 20, 21, 22),
        detector("smlp", 20.5, 21.5, 22.5),
        detector("identity", 4, 5, 6),
    ]
    text = "\n".join(conclusions(results, GRID_VIEW, 375))
    assert "Best: smlp with a mean AP from above of 21.5 ± 1.0 %." in text
    assert "From seed to seed APs scatter by 1.0 points" in text
    assert "Attention is not necessary here, as far as can be told: smlp reaches 21.5 ± 1.0 % without it" in text
    assert (
        "To mix cells in the blocks, instead of leaving each to itself, is worth 16.5 points, more than noise." in text
    )
    assert "The test has 375 scans, which all mixers share" in text
    assert "standard error" not in text  # of an AP it is not that of a share
    assert "230.0 million multiply-adds for a scan" in text
    assert "12.3 scans per second" in text


def test_attention_may_be_better_on_the_grid():
    text = "\n".join(
        conclusions([detector("global_attention", 30, 31), detector("spatial_shift", 9, 10)], GRID_VIEW, 9)
    )
    assert "Attention is necessary here: spatial_shift reaches 9.5 ± 0.7 % without it" in text


def test_nothing_found_says_so():
    (said_,) = conclusions([detector("smlp", 0, 0), detector("window_attention", 0, 0)], GRID_VIEW, 9)
    assert said_ == "All APs are 0: nothing was learnt yet that could be compared; train with more --epochs."


def test_table_of_classes():
    results = [detector("identity", 4, 6), detector("smlp", 20, 22)]
    header, rows = table(results, GRID_VIEW)
    assert header[:5] == ("mixer", "family", "AP BEV %", "AP 3D %", "runs")
    assert header[7:9] == ("training, scans/s", "test, scans/s")
    assert rows[0][:5] == ("smlp", "MLP", "21.0 ± 1.4", "10.5 ± 0.7", "2")
    assert rows[0][7:9] == ("12.3", "126")
    by_class = class_table(results, GRID_VIEW)
    assert by_class is not None
    assert by_class[0] == ("mixer", "Car BEV %", "Car 3D %", "Tram BEV %", "Tram 3D %")
    assert by_class[1][0] == ("smlp", "21.0 ± 1.4", "21.0 ± 1.4", "21.0 ± 1.4", "50.0 ± 0.0")
    values = json.loads(json.dumps(results[1].as_dict(GRID_VIEW)))
    assert values["ap_bev"]["values"] == pytest.approx([0.2, 0.22])
    assert values["classes"]["Tram"]["ap_3d"]["mean"] == pytest.approx(0.5)
    assert values["train_scans_per_second"] == 12.34
    assert class_table([ATTENTION], POINT_VIEW) is None


# ---- the table -------------------------------------------------------------------------------------------------------
def test_table():
    header, rows = table([WORSE, ATTENTION, result("rnn", 90, memory=None)], POINT_VIEW)
    assert [row[0] for row in rows] == ["self_attention", "lstm", "rnn"]  # the best first
    assert rows[0] == (
        *(
            "self_attention",
            "attention",
            "92.2 ± 0.2",
            "91.2 ± 0.2",
            "3",
            "481 898",
            "31.4",
            "300",
            "900",
            "600",
            "3.3",
        ),
    )
    assert rows[2][2:5] == ("90.0", "89.0", "1")
    assert rows[2][header.index("peak memory, MB")] == "-"
    lines = markdown(*table([WORSE, ATTENTION], POINT_VIEW), words=2).splitlines()
    assert lines[1] == "| --- | --- |" + " ---: |" * 9
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {len(header) + 1}
    assert lines[2].startswith("| self_attention | attention | 92.2 ± 0.2 |")


def test_as_json():
    values = json.loads(json.dumps(ATTENTION.as_dict(POINT_VIEW)))
    assert values["overall_accuracy"]["mean"] == pytest.approx(0.922)
    assert values["overall_accuracy"]["std"] == pytest.approx(0.002)
    assert values["overall_accuracy"]["values"] == pytest.approx([0.92, 0.924, 0.922])
    assert values["seeds"] == [0, 1, 2]
    assert values["train_shapes_per_second"] == 300
    assert "classes" not in values
    assert result("lstm", 90).as_dict(POINT_VIEW)["overall_accuracy"]["std"] is None
