"""Parts of points: those of the evaluation, and for points that the model did not see those of the nearest it saw."""

import dataclasses

import numpy as np
import pytest
import torch

from pctransformer.datasets import CloudDataset, Sample, write_ply
from pctransformer.datasets.transforms import EvenSubset
from pctransformer.errors import UserError
from pctransformer.evaluation import part_logits, predict_parts
from pctransformer.predict import load
from pctransformer.predict_parts import PartPredictor
from pctransformer.training.data import evaluation_transform
from tests.test_predict_classes import CUBE, cloud
from tests.trained import CLASSES, PARTS, write_part_checkpoint


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    found = load(write_part_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints" / "best.safetensors"))
    assert isinstance(found, PartPredictor)
    return found


def as_data(predictor, clouds, labels) -> CloudDataset:
    """Clouds as the test of the model has them."""
    samples = [Sample(torch.from_numpy(points), label=label) for points, label in zip(clouds, labels)]
    transform = evaluation_transform(predictor.settings.data)
    return CloudDataset(samples, labels, CLASSES, part_names=PARTS, transform=transform)


def test_predictions_are_those_of_the_test(predictor):
    clouds = [cloud(20 + i, seed=i) * 7 + 3 for i in range(20)]  # fewer points than are seen in the test
    for label, name in enumerate(CLASSES):
        data = as_data(predictor, clouds, [label] * 20)
        expected = predict_parts(predictor.model, data)
        found = predictor.predict(clouds, name)
        for points, prediction, parts in zip(clouds, found, expected, strict=True):
            assert np.array_equal(prediction.parts, parts.numpy())
            assert np.array_equal(prediction.xyz, points)
            assert prediction.category == name
            assert {PARTS[part].split("/")[0] for part in prediction.parts} == {name}
        own = list(found[0].own)
        logits = next(part_logits(predictor.model, data))[1]
        torch.testing.assert_close(
            torch.from_numpy(found[0].probability), logits[:, own].softmax(1).amax(1), rtol=1e-4, atol=1e-5
        )


def test_every_point_gets_a_part(predictor):
    """Of 200 points the model sees 48; those keep what they have, a point beside one of them gets the same."""
    points = cloud(200) * 5 + 100
    prediction = predictor.predict(points, "vase")
    assert prediction.xyz.shape == (200, 3)
    assert np.array_equal(prediction.xyz, points)
    seen = EvenSubset(48)(Sample(torch.from_numpy(points), features=torch.arange(200)[:, None])).features[:, 0]
    expected = predict_parts(predictor.model, as_data(predictor, [points], [2]))[0]
    assert np.array_equal(prediction.parts[seen], expected.numpy())
    assert len(set(prediction.parts[seen])) > 1
    twins = points.copy()
    others = np.setdiff1d(np.arange(200), seen)
    twins[others[:48]] = points[seen] + 1e-4  # where it is normalised, this moves all points a little
    again = predictor.predict(twins, "vase")
    assert (again.parts[others[:48]] == again.parts[seen]).mean() > 0.95  # but where two parts are as probable


def test_what_it_says_in_words(predictor):
    prediction = predictor.predict(cloud(60), "cup")
    assert prediction.counts == {
        name: int((prediction.parts == 2 + i).sum()) for i, name in enumerate(("wall", "handle"))
    }
    assert sum(prediction.counts.values()) == 60
    assert repr(prediction).startswith("PartPrediction('cloud', cup: wall ")


def test_a_sample_knows_what_it_is(predictor):
    points = cloud()
    sample = Sample(torch.from_numpy(points), label=1, point_labels=torch.zeros(100), name="mine")
    assert predictor.predict(sample).category == "cup"
    assert np.array_equal(predictor.predict(sample).parts, predictor.predict(points, "cup").parts)
    assert predictor.predict(sample, "vase").category == "vase"  # what is said goes first


def test_what_it_is_has_to_be_known(tmp_path, predictor):
    with pytest.raises(ValueError, match=r"cloud: what is it.*give one of bowl, cup, vase"):
        predictor.predict(cloud())
    with pytest.raises(ValueError, match="no category 'cups'; did you mean 'cup'"):
        predictor.predict(cloud(), "cups")
    with pytest.raises(ValueError, match="what is it"):
        predictor.predict(Sample(torch.rand(9, 3), label=7))
    one = load(write_part_checkpoint(tmp_path / "one.safetensors", classes=("cup",), parts=("cup/wall", "cup/handle")))
    assert one.predict(cloud()).category == "cup"


def test_files_meshes_and_several_clouds(tmp_path, predictor):
    write_ply(tmp_path / "a.ply", cloud())
    (tmp_path / "cube.off").write_text(CUBE)
    ply, mesh = predictor.predict([tmp_path / "a.ply", tmp_path / "cube.off"], "cup")
    assert np.array_equal(ply.parts, predictor.predict(cloud(), "cup").parts)
    assert (ply.name, len(mesh.xyz)) == (str(tmp_path / "a.ply"), 2 * 64)  # twice as many as the training uses
    assert np.array_equal(mesh.parts, predictor.predict(tmp_path / "cube.off", "cup").parts)
    assert predictor.predict([], "cup") == []
    assert len(predictor.predict(np.stack([cloud(), cloud(seed=1)]), "cup")) == 2


def test_normals_are_wanted_where_they_were_in_training(tmp_path):
    predictor = load(write_part_checkpoint(tmp_path / "normals.safetensors", normals=True))
    assert predictor.predict(cloud(columns=6), "cup").parts.shape == (100,)
    with pytest.raises(ValueError, match="this model was trained with normals"):
        predictor.predict(cloud(), "cup")


def test_names_that_do_not_fit_the_model(tmp_path):
    with pytest.raises(UserError, match="has 6 part names, but its model has 7 classes"):
        load(write_part_checkpoint(tmp_path / "a.safetensors", kept_parts=PARTS[:-1]))


def test_nothing_that_is_given_changes(predictor):
    sample = Sample(torch.from_numpy(cloud()), label=0, name="mine")
    before = dataclasses.replace(sample, xyz=sample.xyz.clone())
    predictor.predict(sample)
    assert torch.equal(sample.xyz, before.xyz)
