"""The command: every form, from where one asks, on classifiers, parts and scans, and what it refuses."""

import re

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from pctransformer import cli, load, record_attention
from pctransformer.datasets import read_points, write_ply
from pctransformer.evaluation.tiles import segment_scene
from pctransformer.models import create_model
from pctransformer.models.tensor_file import read_tensors, write_tensors
from pctransformer.training.serialization import to_json
from pctransformer.training.settings import DetectionTraining, ScanData
from pctransformer.visualization import maps_window
from pctransformer.visualization.map_view import MapView
from pctransformer.visualization.point_maps import PointMaps
from pctransformer.visualization.rollout import attention_rollout, half_of_weight, layer_attention
from pctransformer.visualization.sources import attention_layers, pooled_vector
from tests.datasets.kitti.files import BOXES, write_kitti
from tests.trained import ROOM_PARTS, write_checkpoint, write_part_checkpoint, write_scene_checkpoint

SCAN = {"point_range": [0, -8, -3, 16, 8, 1], "num_tokens": 64, "num_queries": 12}


@pytest.fixture
def run(tmp_path):
    write_checkpoint(tmp_path / "run" / "checkpoints" / "best.safetensors")
    return tmp_path / "run"


@pytest.fixture
def cup(tmp_path):
    write_ply(tmp_path / "cup.ply", np.random.default_rng(0).normal(size=(100, 3)))
    return tmp_path / "cup.ply"


@pytest.fixture
def detector(tmp_path):
    """A checkpoint of random weights, and a scan."""
    torch.manual_seed(0)
    weights = create_model("point_detr_small", num_classes=2, **SCAN).state_dict()
    about = {
        "task": "detection",
        "model": {"name": "point_detr_small", "options": SCAN, "num_classes": 2},
        "class_names": ["Car", "Cyclist"],
        "settings": to_json(DetectionTraining(model="point_detr_small", data=ScanData(camera_view=False))),
        "epoch": 1, "metrics": {}, "version": "0.1.0",
    }  # fmt: skip
    path = tmp_path / "streets" / "checkpoints" / "best.safetensors"
    path.parent.mkdir(parents=True)
    write_tensors(path, weights, about)
    scan = np.random.default_rng(0).uniform([0, -8, -3, 0], [16, 8, 1, 1], (400, 4)).astype(np.float32)
    scan.tofile(tmp_path / "scan.bin")
    return path, tmp_path / "scan.bin"


def show(*arguments):
    return cli.main(["show", *map(str, arguments)])


def test_files_say_what_the_maps_say(run, cup, capsys):
    assert show(cup, "--model", run, "--to", "png", "html", "ply", "npz") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert sorted(path.name for path in (run / "maps").iterdir()) == ["cup.html", "cup.npz", "cup.ply", "cup.png"]
    assert imread(run / "maps" / "cup.png").std() > 0.05

    predictor = load(run)
    sample = predictor.prepare(cup)
    with record_attention(predictor.model) as maps:
        (prediction,) = predictor.classify([sample])
    assert f"{cup}: {prediction.label} {prediction.probability:.1%}" in out.splitlines()
    expected = attention_rollout(maps, pooled_vector(maps), 48)
    columns = read_points(run / "maps" / "cup.ply", features=("rollout_all_layers",))
    np.testing.assert_allclose(columns[:, :3], sample.xyz, rtol=1e-6)
    np.testing.assert_allclose(columns[:, 3], expected, rtol=1e-4, atol=1e-7)


def test_colours_are_chosen(run, cup, tmp_path):
    for scaling in ("percentile", "sigmoid"):
        assert show(cup, "--model", run, "--to", "ply", "--scaling", scaling, "--out", tmp_path / scaling) == 0
    assert show(cup, "--model", run, "--to", "npz", "--out", tmp_path / "numbers") == 0
    (only,) = PointMaps.load_npz(tmp_path / "numbers" / "cup.npz").maps
    for scaling in ("percentile", "sigmoid"):
        written = read_points(tmp_path / scaling / "cup.ply", features=("red", "green", "blue"))[:, 3:]
        np.testing.assert_allclose(written, 255 * only.colors(scaling)[0], atol=0.5)


def test_layers_and_heads(run, cup, tmp_path):
    assert show(cup, "--model", run, "--method", "layer", "--to", "npz", "--out", tmp_path / "all") == 0
    found = PointMaps.load_npz(tmp_path / "all" / "cup.npz")
    predictor = load(run)
    with record_attention(predictor.model) as maps:
        predictor.classify([predictor.prepare(cup)])
    layers = attention_layers(maps)
    assert [one.layer for one in found.maps] == [maps[i].layer for i in layers]
    for i, one in zip(layers, found.maps):
        np.testing.assert_allclose(one.values, layer_attention(maps, i, pooled_vector(maps), 48), atol=1e-6)
    few = ["--method", "layer", "--layer", found.maps[1].layer, "--head", 0, "--to", "npz", "--out", tmp_path / "one"]
    assert show(cup, "--model", run, *few) == 0
    (one,) = PointMaps.load_npz(tmp_path / "one" / "cup.npz").maps
    assert (one.layer, one.head) == (found.maps[1].layer, 0)
    np.testing.assert_allclose(one.values, found.maps[1].values, atol=1e-6)  # there is one head


def test_layers_without_weights_of_pairs_are_named(tmp_path, cup, capsys):
    options = {"dim": 16, "depth": 2, "num_patches": 8, "patch_size": 4, "widths": [8, 8], "mixer": "lstm"}
    path = write_checkpoint(tmp_path / "checkpoints" / "best.safetensors", name="patch_mixer", options=options)
    assert show(cup, "--model", path, "--out", tmp_path / "out", "--to", "npz") == 0
    out, _ = capsys.readouterr()
    mixers = ", ".join(f"encoder.layers.{i}.parts.0.mixer" for i in (0, 1))
    assert f"not in it, since tokens mix there without weights of pairs: {mixers}\n" in out


def test_from_a_point(run, cup, tmp_path):
    """The same but for where it looks from: another point, other weights."""
    assert show(cup, "--model", run, "--query", 0, 1, "--out", tmp_path / "two", "--to", "npz") == 0
    first, second = PointMaps.load_npz(tmp_path / "two" / "cup.npz").maps
    assert (first.query, second.query) == (0, 1)
    assert np.abs(first.values - second.values).max() > 1e-3


def test_the_score_of_a_class(run, cup, tmp_path):
    values = []
    for name in ("bowl", "cup"):
        options = ["--method", "saliency", "--target", name, "--to", "npz", "--out", tmp_path / name]
        assert show(cup, "--model", run, *options) == 0
        values.append(PointMaps.load_npz(tmp_path / name / "cup.npz").maps[0].values)
    assert not np.allclose(values[0], values[1])


def test_parts(tmp_path, cup):
    path = write_part_checkpoint(tmp_path / "parts" / "checkpoints" / "best.safetensors")
    options = ["--category", "cup", "--query", 3, "--to", "npz", "--out", tmp_path / "out"]
    assert show(cup, "--model", path, *options) == 0
    found = PointMaps.load_npz(tmp_path / "out" / "cup.npz")
    assert found.maps[0].values.sum() == pytest.approx(1, abs=1e-4)
    nearness = np.linalg.norm(found.xyz - found.xyz[3], axis=1)
    assert found.maps[0].values @ nearness < nearness.mean()  # skips keep it near the point


@pytest.fixture
def room(tmp_path):
    """A checkpoint whose tiles are smaller than the room, and the room."""
    path = write_scene_checkpoint(tmp_path / "rooms" / "checkpoints" / "best.safetensors", tile_points=200)
    write_ply(tmp_path / "room.ply", np.random.default_rng(0).uniform(0, [5, 4, 2.5], (900, 3)))
    return path, tmp_path / "room.ply"


def test_a_room_from_the_surest_point_of_a_class(room, tmp_path, capsys):
    """By default of the class that most points have; all points that the model is shown are there, 200 have values."""
    model, file = room
    predictor = load(model)
    found = segment_scene(predictor.model, read_points(file), cell_size=0.2, tile_points=200)
    probability = found.logits.softmax(1)
    for name, options in ((ROOM_PARTS[found.labels.bincount().argmax()], []), ("chair", ["--target", "chair"])):
        out = tmp_path / name / str(len(options))
        out.parent.mkdir(exist_ok=True)
        assert show(file, "--model", model, *options, "--to", "npz", "--out", out) == 0
        maps = PointMaps.load_npz(out / "room.npz")
        (one,) = maps.maps
        assert one.query == int(probability[:, ROOM_PARTS.index(name)].argmax())
        np.testing.assert_allclose(maps.xyz, read_points(file)[found.rows], atol=1e-6)
        assert one.values.sum() == pytest.approx(1, abs=1e-4)
        assert 0 < (one.values > 0).sum() <= 200
        said = capsys.readouterr().out
        label = int(probability[one.query].argmax())
        assert f"looking from point {one.query}, {ROOM_PARTS[label]} {probability[one.query, label]:.1%}\n" in said
        assert "from a point the model sees the 200 that are nearest, and none of the others\n" in said
        share = 100 * half_of_weight(one.values)
        assert f"{one.name}: half of it on {share:.2g}% of {len(maps)} points\n" in said


def test_features_of_a_whole_room(room, tmp_path, capsys):
    model, file = room
    options = ["--method", "features_pca", "--to", "npz", "ply", "--out", tmp_path / "out"]
    assert show(file, "--model", model, *options) == 0
    (one,) = PointMaps.load_npz(tmp_path / "out" / "room.npz").maps
    assert one.is_color
    assert np.linalg.matrix_rank(one.values) == 3
    said = capsys.readouterr().out
    assert "looking from" not in said
    assert "none of the others" not in said
    colors = read_points(tmp_path / "out" / "room.ply", features=("red", "green", "blue"))[:, 3:]
    np.testing.assert_allclose(colors, 255 * one.colors()[0], atol=0.51)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--query", 5000], "--query must be the row of one of "),
        (["--query", 5, "--method", "features_pca"], "features_pca is from no point; leave --query out"),
        (["--up", "y"], "--up y: scenes must stand upright along z, as in training"),
        (["--category", "chair"], "--category is not for a model of scenes"),
        (["--target", "chiar"], "--target: there is no 'chiar'; did you mean 'chair'?"),
    ],
)
def test_rooms_that_are_refused(room, tmp_path, capsys, options, text):
    model, file = room
    assert show(file, "--model", model, *options, "--out", tmp_path / "out") == 2
    assert text in capsys.readouterr().err


def test_a_scan_without_a_calibration_is_said(detector, tmp_path, capsys):
    """Only where the detector knows no more than what a camera sees."""
    model, scan = detector
    assert show(scan, "--model", model, "--score", 0, "--to", "npz", "--out", tmp_path / "a") == 0
    assert capsys.readouterr().err == ""
    about = DetectionTraining(model="point_detr_small", data=ScanData(camera_view=True))
    weights, known = read_tensors(model)
    write_tensors(model, weights, {**known, "settings": to_json(about)})
    assert show(scan, "--model", model, "--score", 0, "--to", "npz", "--out", tmp_path / "b") == 0
    assert "scan.bin: no calibration lies beside it, so that all points" in capsys.readouterr().err


def test_a_box_of_a_scan(detector, tmp_path, capsys):
    model, scan = detector
    options = ["--query", 2, 5, "--score", 0, "--to", "npz", "png", "--out", tmp_path / "out"]
    assert show(scan, "--model", model, *options) == 0
    found = PointMaps.load_npz(tmp_path / "out" / "scan.npz")
    assert len(found.boxes.found) == 12
    assert [(one.method, one.box) for one in found.maps] == [("rollout", 2), ("rollout", 5)]
    for one in found.maps:
        assert one.values.sum() == pytest.approx(1, abs=1e-4)
    assert np.abs(found.maps[0].values - found.maps[1].values).max() > 1e-5
    said = capsys.readouterr().out
    assert "looking from box 2, C" in said
    assert "; box 5, C" in said
    assert show(scan, "--model", model, "--query", 40, "--score", 0, "--out", tmp_path / "no") == 2
    assert "--query 40: in " in (err := capsys.readouterr().err)
    assert "the model found boxes 0 to 11" in err
    assert show(scan, "--model", model, "--score", 1, "--out", tmp_path / "no") == 2
    assert "the model found nothing; try a lower --score" in capsys.readouterr().err


def test_nothing_is_overwritten(run, cup, capsys):
    for name in ("maps", "maps-2"):
        assert show(cup, "--model", run, "--to", "npz") == 0
        assert (run / name / "cup.npz").is_file()
    assert show(cup, "--model", run, "--out", run / "maps") == 2
    assert "is not overwritten" in capsys.readouterr().err


def test_a_window_without_a_display(run, cup, monkeypatch, capsys):
    """It says what to do instead, and writes nothing."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert show(cup, "--model", run, "--to", "window") == 2
    err = capsys.readouterr().err
    assert "a window needs Open3D" in err or "there is no display" in err
    assert not (run / "maps").exists()


def test_a_window_looks_from_points_that_are_clicked(run, cup, detector, room, tmp_path, monkeypatch):
    """As --query does; of a detector from points too, not only from boxes."""
    opened = []
    monkeypatch.setattr(maps_window, "show_window", lambda maps, **options: opened.append((maps, options["look_from"])))
    for model, file, options in ((run, cup, []), (*detector, ["--score", 0]), (*room, [])):
        assert show(file, "--model", model, *options, "--to", "window") == 0
        maps, look_from = opened.pop()
        (clicked,) = look_from(7).maps
        assert (clicked.query, clicked.box, clicked.values.shape) == (7, None, (len(maps),))
        assert clicked.values.sum() == pytest.approx(1, abs=1e-4)
    assert show(cup, "--model", run, "--query", 7, "--to", "npz", "--out", tmp_path / "out") == 0
    assert show(cup, "--model", run, "--to", "window") == 0
    (expected,), (clicked,) = PointMaps.load_npz(tmp_path / "out" / "cup.npz").maps, opened.pop()[1](7).maps
    np.testing.assert_array_equal(clicked.values, expected.values)
    assert show(cup, "--model", run, "--method", "saliency", "--to", "window") == 0
    with pytest.raises(ValueError, match="is from no point"):
        opened.pop()[1](7)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere.ply"], "there is no such file"),
        (["{cup}/.."], " is a folder; show looks at one file"),
        (["{cup}", "--method", "class_token"], "the model has no class token"),
        (["{cup}", "--query", "48"], "--query must be the row of one of 48 points, got 48"),
        (["{cup}", "--method", "saliency", "--target", "cop"], "--target: there is no 'cop'; did you mean 'cup'?"),
        (["{cup}", "--target", "cup"], "--target: rollout asks for no score; those that do are --method gradient_at"),
        (["{cup}", "--head", "1"], "rollout takes no --head; those that do are --method layer, last_layer, class_tok"),
        (["{cup}", "--layer", "attention.0"], "rollout takes no --layer; those that do are --method layer, grad_cam"),
        (["{cup}", "--method", "similarity"], "similarity is to the features at a point; give its row by --query"),
        (["{cup}", "--category", "cup"], "--category is not for a classifier"),
        (["{cup}", "--method", "layer", "--layer", "nothing"], "no attention layer below is called nothing"),
        (["{holes}"], "--not-finite drop leaves such points out"),
    ],
)
def test_faults_of_the_user(run, cup, tmp_path, capsys, arguments, text):
    np.save(tmp_path / "holes.npy", np.insert(np.random.default_rng(0).normal(size=(50, 3)), 7, np.nan, axis=0))
    filled = [a.replace("{cup}/..", str(tmp_path)).format(cup=cup, holes=tmp_path / "holes.npy") for a in arguments]
    assert show(*filled, "--model", run) == 2
    assert text in capsys.readouterr().err
    assert not (run / "maps").exists()


def test_labels_beside_a_scan_are_shown_with_what_was_found(detector, tmp_path):
    model, _ = detector
    file = write_kitti(tmp_path / "kitti") / "training" / "velodyne" / "000001.bin"
    assert show(file, "--model", model, "--score", 0, "--to", "npz", "--out", tmp_path / "out") == 0
    found = PointMaps.load_npz(tmp_path / "out" / "000001.npz").boxes
    np.testing.assert_allclose(found.true, [box for _, box, _ in BOXES["000001"]], atol=0.02)
    assert found.true_labels.tolist() == [1, -1]  # a cyclist, and a van, which is no class of the detector


def test_the_whole_scan_or_what_is_near_a_box(detector, tmp_path):
    model, scan = detector
    radii = []
    for extra in ([], ["--whole"]):
        out = tmp_path / f"out{len(extra)}"
        options = [
            "--model",
            model,
            "--score",
            0,
            "--method",
            "similarity",
            "--to",
            "npz",
            "html",
            "--out",
            out,
            *extra,
        ]
        assert show(scan, *options) == 0
        maps = PointMaps.load_npz(out / "scan.npz")
        page = (out / "scan.html").read_text()
        radii.append(float(re.search(r'"radius":([0-9.e-]+)', page)[1]))
        assert radii[-1] == pytest.approx(MapView.of(maps, whole=bool(extra)).radius)
    assert radii[0] != radii[1]
