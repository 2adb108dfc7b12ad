"""Predictions equal the evaluation's, whatever form a cloud comes in; what cannot be predicted is explained."""

import dataclasses

import numpy as np
import pytest
import torch

from pctransformer.datasets import FileFormatError, Sample, read_points, write_ply
from pctransformer.evaluation import evaluate_classifier
from pctransformer.predict import load
from pctransformer.training import data
from tests.trained import CLASSES, write_checkpoint

BEST = "checkpoints/best.safetensors"
CUBE = """OFF
8 6 0
0 0 0
1 0 0
1 1 0
0 1 0
0 0 1
1 0 1
1 1 1
0 1 1
4 0 3 2 1
4 4 5 6 7
4 0 1 5 4
4 1 2 6 5
4 2 3 7 6
4 3 0 4 7
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_checkpoint(folder / BEST)
    return folder


@pytest.fixture(scope="module")
def predictor(run):
    return load(run)


@pytest.fixture(scope="module")
def with_normals(tmp_path_factory):
    return load(write_checkpoint(tmp_path_factory.mktemp("normals") / "model.safetensors", normals=True))


def cloud(n=100, columns=3, seed=0):
    points = np.random.default_rng(seed).normal(size=(n, columns)).astype(np.float32)
    if columns >= 6:
        points[:, 3:6] /= np.linalg.norm(points[:, 3:6], axis=1, keepdims=True)
    return points


def probabilities(prediction):
    found = dict(prediction.classes)
    return torch.tensor([found[name] for name in CLASSES])


# ---- the same as in the test -----------------------------------------------------------------------------------------
def test_predictions_are_those_of_the_test(tmp_path, predictor):
    """The test set of a folder of clouds, and the same files predicted: the very same numbers."""
    for label, name in enumerate(CLASSES):
        (tmp_path / name).mkdir()
        for i in range(5):
            np.savetxt(tmp_path / name / f"{i}.xyz", cloud(40 + 30 * i, seed=10 * label + i) * 7 + 3)
    samples = data.testing_data(dataclasses.replace(predictor.settings.data, data=str(tmp_path)))
    tested = evaluate_classifier(predictor.model, samples)
    predictions = predictor.predict([tmp_path / name for name in tested.names], top=3)
    assert len(tested.names) == 3
    assert torch.equal(torch.stack([probabilities(p) for p in predictions]), tested.probabilities)
    assert [p.label for p in predictions] == [CLASSES[i] for i in tested.predicted]
    assert [p.name for p in predictions] == [str(tmp_path / name) for name in tested.names]


def test_precision_is_that_of_the_training(tmp_path):
    both = [load(write_checkpoint(tmp_path / f"{p}.safetensors", precision=p)) for p in ("float32", "bf16")]
    exact, rough = (probabilities(predictor.predict(cloud())) for predictor in both)
    assert not torch.equal(exact, rough)
    sample = both[1].prepare(cloud())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = both[1].model(sample.points[None])
    torch.testing.assert_close(rough, logits.float().softmax(1)[0], rtol=1e-2, atol=1e-3)  # of 8 bits


def test_one_cloud_in_every_form(tmp_path, predictor):
    points = cloud()
    write_ply(tmp_path / "a.ply", points)
    np.save(tmp_path / "a.npy", np.concatenate([points, cloud(seed=1)], 1))  # further columns are left out
    forms = [
        str(tmp_path / "a.ply"),
        tmp_path / "a.npy",
        points,
        points.astype(np.float64),
        torch.from_numpy(points),
        torch.from_numpy(points).requires_grad_(),
        Sample(torch.from_numpy(points), features=torch.rand(100, 2)),
    ]
    expected = predictor.predict(points)
    for form in forms:
        found = predictor.predict(form)
        assert found.classes == expected.classes
        assert np.array_equal(found.xyz, expected.xyz)
    names = [str(tmp_path / "a.ply"), str(tmp_path / "a.npy"), *(f"cloud {i}" for i in range(2, 7))]
    assert [p.name for p in predictor.predict(forms)] == names
    assert expected.name == "cloud"


def test_arrays_of_several_clouds_and_none(predictor):
    points = np.stack([cloud(seed=i) for i in range(3)])
    expected = [p.classes for p in predictor.predict(list(points))]
    assert [p.classes for p in predictor.predict(points)] == expected
    assert [p.classes for p in predictor.predict(torch.from_numpy(points))] == expected
    assert predictor.predict([]) == []


def test_more_clouds_than_go_through_at_once(predictor):
    clouds = [cloud(10 + i, seed=i) for i in range(35)]
    together = predictor.predict(clouds)
    for points, prediction in zip(clouds, together):
        torch.testing.assert_close(
            probabilities(predictor.predict(points)), probabilities(prediction), rtol=1e-5, atol=1e-6
        )


def test_meshes_are_sampled_always_alike(tmp_path, predictor, with_normals):
    (tmp_path / "cube.off").write_text(CUBE)
    first, second = predictor.predict(tmp_path / "cube.off"), predictor.predict(tmp_path / "cube.off")
    assert np.array_equal(first.xyz, second.xyz)
    drawn = read_points(tmp_path / "cube.off", num_points=64)  # as many as the training draws
    assert first.classes == predictor.predict(drawn).classes
    drawn = read_points(tmp_path / "cube.off", features=("nx", "ny", "nz"), num_points=64)
    assert with_normals.predict(tmp_path / "cube.off").classes == with_normals.predict(drawn).classes


def test_normals_come_by_name_or_by_place(tmp_path, with_normals):
    points = cloud(columns=6)
    normals = {name: points[:, 3 + i] for i, name in enumerate(("nx", "ny", "nz"))}
    write_ply(tmp_path / "a.ply", points[:, :3], features={"intensity": points[:, 0], **normals})
    np.savetxt(tmp_path / "a.txt", points, delimiter=",")
    expected = with_normals.predict(points).classes
    assert with_normals.predict(tmp_path / "a.ply").classes == expected
    assert with_normals.predict(tmp_path / "a.txt").classes == expected
    flipped = points.copy()
    flipped[:, 3:] *= -1
    assert with_normals.predict(flipped).classes != expected


def test_a_cloud_far_away_keeps_its_details(predictor):
    near = np.round(cloud().astype(np.float64) * 100) / 128
    far = predictor.predict(near + np.array([500_000, 5_400_000, 300])).classes
    torch.testing.assert_close(dict(far), dict(predictor.predict(near).classes), rtol=1e-4, atol=1e-5)


@pytest.mark.cuda
def test_cuda_is_cpu(run, predictor):
    there = load(run, device="cuda")
    assert there.device.type == "cuda"
    for points in (cloud(), cloud(20)):
        expected = probabilities(predictor.predict(points))
        torch.testing.assert_close(probabilities(there.predict(points)), expected, rtol=1e-3, atol=1e-4)


# ---- what comes out --------------------------------------------------------------------------------------------------
def test_classes_are_sorted_and_add_up_to_one(predictor):
    points = cloud()
    whole = predictor.predict(points, top=99)
    values = [probability for _, probability in whole.classes]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1)
    assert {label for label, _ in whole.classes} == set(CLASSES)
    assert predictor.predict(points, top=2).classes == whole.classes[:2]
    assert (whole.label, whole.probability) == whole.classes[0]
    assert f"{whole.label} {whole.probability:.1%}" in repr(whole)
    with pytest.raises(ValueError, match="at least 1"):
        predictor.predict(points, top=0)


def test_points_that_come_out_are_those_the_model_saw(predictor):
    xyz = predictor.predict(cloud() * 5 + 2).xyz
    assert xyz.shape == (48, 3)
    assert np.linalg.norm(xyz, axis=1).max() <= 1
    assert predictor.predict(cloud(20)).xyz.shape == (20, 3)


def test_nothing_that_is_given_changes(predictor):
    points = cloud()
    sample = Sample(torch.from_numpy(points.copy()), name="mine")
    before = points.copy()
    assert predictor.predict([points, sample])[1].name == "mine"
    assert np.array_equal(points, before)
    assert torch.equal(sample.xyz, torch.from_numpy(before))


# ---- what cannot be predicted ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("points", "text"),
    [
        (np.zeros((0, 3)), "cloud: there are no points, so there is no shape"),
        (np.ones((1, 3)), "there is only one point"),
        (np.ones((9, 3)), "all 9 points lie in one place"),
        (np.array([[0, 0, 0], [1, np.nan, 0]]), "1 of 2 points are NaN or infinite, first in row 1.*not_finite='drop'"),
        (np.zeros((3, 100)), "columns are the points, transpose it"),
        (np.zeros((100, 2)), r"rows of numbers \(n, 3 \+ C\), got \(100, 2\)"),
        (np.zeros((3, 2)), "transpose it"),
        (np.zeros((6, 100)), "transpose it"),
        (np.zeros(3), r"got \(3,\)"),
        (np.array([["a", "b", "c"]]), "rows of numbers"),
        (Sample(torch.tensor([[0, 0, 0], [1, torch.inf, 0]]), name="mine"), "mine: it has points that are NaN"),
    ],
)
def test_clouds_without_a_shape(predictor, points, text):
    with pytest.raises(ValueError, match=text):
        predictor.predict(points)


def test_things_that_are_no_clouds(predictor):
    with pytest.raises(TypeError, match="must be a file, rows of points, a Sample, or a list of those, got"):
        predictor.predict(5)


def test_a_model_with_normals_wants_normals(tmp_path, with_normals):
    write_ply(tmp_path / "bare.ply", cloud())
    (tmp_path / "empty.ply").touch()
    np.save(tmp_path / "bare.npy", cloud())
    np.save(tmp_path / "colours.npy", np.concatenate([cloud(), np.full((100, 3), 200, np.float32)], 1))
    for name, text in {
        "bare.ply": "have no nx, ny, nz.*trained with normals",
        "bare.npy": "a point has 3 values; this model was trained with normals",
        "colours.npy": "no unit normals",
        "empty.ply": "the file is empty$",
        "none.ply": "there is no such file$",
    }.items():
        with pytest.raises(ValueError, match=text):
            with_normals.predict(tmp_path / name)
    with pytest.raises(ValueError, match="mine has none"):
        with_normals.predict(Sample(torch.rand(9, 3), name="mine"))


def test_files_that_cannot_be_used(tmp_path, predictor):
    (tmp_path / "cut.ply").write_bytes(b"ply\nformat ascii 1.0\nelement vertex 5\n")
    (tmp_path / "frame.bin").write_bytes(bytes(160))
    (tmp_path / "notes.docx").write_bytes(b"x")
    for name, text in {
        "cut.ply": "cut.ply: ",
        "frame.bin": "read_points",
        "notes.docx": "not read",
        ".": "this is a folder",
    }.items():
        with pytest.raises(FileFormatError, match=text):
            predictor.predict(tmp_path / name)


def test_points_that_are_not_finite_can_be_dropped(tmp_path, predictor):
    points = cloud()
    holes = np.insert(points, [0, 50], np.nan, axis=0)
    np.save(tmp_path / "holes.npy", holes)
    expected = predictor.predict(points).classes
    assert predictor.predict(holes, not_finite="drop").classes == expected
    assert predictor.predict(tmp_path / "holes.npy", not_finite="drop").classes == expected
    with pytest.raises(ValueError, match="no points"):
        predictor.predict(np.full((4, 3), np.nan), not_finite="drop")


def test_weights_that_are_not_finite_are_no_prediction(run):
    broken = load(run)
    torch.nn.init.constant_(broken.model.head.classifier.bias, torch.nan)
    with pytest.raises(ValueError, match="gives NaN for cloud: its weights are not finite"):
        broken.predict(cloud())
