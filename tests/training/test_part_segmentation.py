"""The command as a user runs it, on models of a few thousand weights."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from matplotlib.image import imread

from pctransformer import cli
from pctransformer.datasets.shapenet import CATEGORIES, PART_NAMES
from pctransformer.datasets.shapes import PART_NAMES as GENERATED_PARTS
from pctransformer.training import checkpoint, data, part_segmentation
from pctransformer.training.distributed import World
from pctransformer.training.settings import PartData, PartOptimization, PartSegmentationTraining
from tests.models.small import small
from tests.training.runs import assert_resumes, in_two_processes
from tests.training.test_pretraining import MAE, SIZE
from tests.training.test_pretraining import run as pretrain

DATA = [*("--num-shapes", "76", "--validation", "0.25"), *("--num-points", "64", "--eval-points", "64")]
V3 = ["--model", "point_transformer_v3_seg", "--model-options", "dims=[16,32]", "depths=[1,1]", "up_dims=[16]"]
V3 += ["up_depths=[1]", "patch_size=16", "cell_size=0.1"]
SIZE_SEG = [
    *(option for option in SIZE if "patches" not in option),
    "num_patches=14",
    "carried=[16,16]",
    "hidden=[16,8]",
]
MAE_SEG = ["--model", "point_mae_seg", "--model-options", *SIZE_SEG]


def run(*arguments: str | Path | float) -> int:
    return cli.main(["train", "part-segmentation", *map(str, arguments)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run("--out", folder, *V3, *DATA, "--batch-size", 19, "--epochs", 3, "--lr", 3e-3) == 0
    return folder


def test_the_folder_explains_itself(finished):
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert names == {
        *("settings.json", "environment.json", "log.txt", "metrics.jsonl", "metrics.csv", "results.json"),
        *("checkpoints/best.safetensors", "checkpoints/last.safetensors"),
        *("figures/training.png", "figures/classes.png", "figures/parts.png"),
    }
    for name in ("training", "classes", "parts"):
        assert imread(finished / "figures" / f"{name}.png").std() > 0.01
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((finished / "results.json").read_text())
    assert results["task"] == "part-segmentation"
    assert results["validation"]["instance_miou"] == max(row["validation_instance_miou"] for row in rows)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert (results["test"]["count"], len(results["test"]["worst"])) == (19, 19)
    assert 0 < results["test"]["worst"][0]["iou"] < results["test"]["instance_mean_iou"] < 1
    about = checkpoint.read(finished).about
    assert (len(about["class_names"]), tuple(about["part_names"])) == (19, GENERATED_PARTS)
    assert about["model"]["options"]["num_categories"] == 19
    log = (finished / "log.txt").read_text()
    assert f"57 shapes of 19 classes, 19 more held out; {len(GENERATED_PARTS)} parts" in log
    assert "test: instance mIoU 0." in log
    assert f"pctransformer predict FILE --model {finished} --category airplane" in log


def test_the_tested_model_is_the_one_in_the_checkpoint(finished, tmp_path, capsys):
    results = json.loads((finished / "results.json").read_text())
    assert cli.main(["evaluate", str(finished), "--out", str(tmp_path / "again"), "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert f"instance mIoU {results['test']['instance_mean_iou']:.4f}" in text
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert again["epoch"] == results["epoch"]
    assert again["result"] == results["test"]
    for name in ("classes", "parts"):
        assert imread(tmp_path / "again" / f"{name}.png").std() > 0.01
    assert cli.main(["evaluate", str(finished), "--votes", "2"]) == 2
    assert "--votes is for classifiers" in capsys.readouterr().err
    assert cli.main(["info", str(finished), "--num-points", "64"]) == 0
    assert f"{len(GENERATED_PARTS)}: airplane/fuselage, " in capsys.readouterr().out
    assert cli.main(["robustness", str(finished)]) == 2
    assert "is not of classification" in capsys.readouterr().err


@pytest.mark.parametrize("model", [V3, MAE_SEG], ids=["serialized", "patches"])
def test_killed_and_resumed_is_unbroken(tmp_path, model):
    """Curves that take turns by chance, drop path and the order of shapes go on as if nothing had happened."""
    assert_resumes(run, tmp_path, *model, *DATA, "--batch-size", 19, "--epochs", 2, "--ema", 0.9, at=(1, 2))
    found = [json.loads((tmp_path / name / "results.json").read_text())["test"] for name in ("killed", "whole")]
    assert found[0] == found[1]


# ---- the loss and the validation -------------------------------------------------------------------------------------
def test_loss_is_the_mean_over_labelled_points():
    """All parts compete; points without a label count neither in the loss nor in the accuracy."""
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0], [0.0, 9.0, 0.0]])
    told = []

    def model(points, category):
        told.append((points, category))
        return logits

    found = part_segmentation.part_loss(model, ("points", "category", torch.tensor([2, 1, -1])))
    assert told == [("points", "category")]
    first, second = math.log(1 + math.exp(-1) + math.exp(-2)), math.log(math.exp(3) + 2)
    assert found["loss"].item() == pytest.approx((first + second) / 2)
    assert found["accuracy"].item() == 0.5
    nothing = part_segmentation.part_loss(model, ("points", "category", torch.full((3,), -1)))
    assert (nothing["loss"].item(), nothing["accuracy"].item()) == (0, 0)


@dataclass(frozen=True)
class Part(World):
    """One of several processes, whose sums are put together by the test."""

    def total(self, values):
        self.seen.append(values)
        return torch.stack(self.seen).sum(0)

    @property
    def seen(self) -> list[torch.Tensor]:
        return SEEN


SEEN: list[torch.Tensor] = []


def test_validation_does_not_depend_on_the_number_of_processes():
    settings = PartSegmentationTraining(
        data=PartData(num_points=64, eval_points=64, num_shapes=76, validation=0.25),
        optimization=PartOptimization(batch_size=4, precision="float32"),
    )
    model = small("point_transformer_v3_seg", len(GENERATED_PARTS), in_channels=3, num_categories=19)
    held_out = data.training_data(settings.data, 0).held_out
    cpu = torch.device("cpu")
    whole = part_segmentation._Validation(held_out, settings.optimization, World(cpu))(model)
    SEEN.clear()
    for rank in range(3):
        last = part_segmentation._Validation(held_out, settings.optimization, Part(cpu, rank, 3))(model)
    assert last == pytest.approx(whole, rel=1e-6)
    nothing = part_segmentation._Validation(held_out, settings.optimization, Part(cpu, 19, 20))(model)
    assert nothing == pytest.approx(whole, rel=1e-6)  # nothing is left for it


def test_epochs_draw_other_points_of_generated_shapes():
    settings = PartData(num_points=32, eval_points=32, num_shapes=76)
    train = data.training_data(settings, 0).train
    assert len(train.samples[0]) == 64
    first = train[0]
    train.set_epoch(1)
    assert len(train[0]) == 32
    assert not torch.equal(train[0].point_labels, first.point_labels)


# ---- other data and other weights ------------------------------------------------------------------------------------
MUG, LAMP = CATEGORIES.index("mug"), CATEGORIES.index("lamp")


def shapenet_hdf5(root: Path) -> Path:
    """Mugs and lamps of 40 points in PointNet's layout."""
    rng = np.random.default_rng(0)
    root.mkdir()
    for split, count in (("train", 12), ("val", 4), ("test", 4)):
        label = np.array([MUG, LAMP] * (count // 2))
        first = np.array([PART_NAMES.index("mug/0"), PART_NAMES.index("lamp/0")])
        with h5py.File(root / f"ply_data_{split}0.h5", "w") as file:
            file["data"] = rng.normal(size=(count, 40, 3)).astype(np.float32)
            file["label"] = label[:, None]
            file["pid"] = first[(label == LAMP).astype(int)][:, None] + rng.integers(0, 2, (count, 40))
        (root / f"{split}_hdf5_file_list.txt").write_text(f"ply_data_{split}0.h5\n")
    return root


def shapenet_text(root: Path) -> Path:
    """The same in PointNet++'s layout, with normals."""
    rng = np.random.default_rng(0)
    folders = {"mug": "03797390", "lamp": "03636649"}
    (root / "train_test_split").mkdir(parents=True)
    (root / "synsetoffset2category.txt").write_text("".join(f"{k.title()}\t{v}\n" for k, v in folders.items()))
    for split, count in (("train", 12), ("val", 4), ("test", 4)):
        listed = []
        for i in range(count):
            name = ("mug", "lamp")[i % 2]
            (root / folders[name]).mkdir(exist_ok=True)
            first = PART_NAMES.index(f"{name}/0")
            normals = np.tile([0.0, 0.0, 1.0], (40, 1))
            rows = np.hstack([rng.normal(size=(40, 3)), normals, first + rng.integers(0, 2, (40, 1))])
            np.savetxt(root / folders[name] / f"{split}{i}.txt", rows, fmt="%.6f")
            listed.append(f"shape_data/{folders[name]}/{split}{i}")
        (root / "train_test_split" / f"shuffled_{split}_file_list.json").write_text(json.dumps(listed))
    return root


@pytest.mark.parametrize("layout", [shapenet_hdf5, shapenet_text])
def test_shapenet_from_a_model_of_other_parts(finished, tmp_path, layout):
    """All but the last layer, and what reads the category, starts where the other run ended."""
    root = layout(tmp_path / "shapenet")
    arguments = ["--data", root, *V3, "--num-points", 32, "--eval-points", 32, "--validation", 0.25, "--epochs", 1]
    arguments += ["--pretrained", finished, "--lr", 1e-9, "--weight-decay", 0, "--precision", "float32"]
    assert run("--out", tmp_path / "tuned", *arguments, "--batch-size", 4) == 0
    tuned, before = checkpoint.read(tmp_path / "tuned"), checkpoint.read(finished).weights
    assert (tuned.about["class_names"], tuned.about["part_names"]) == ([*CATEGORIES], [*PART_NAMES])
    new = {"head.classifier.weight": 50, "head.classifier.bias": 50, "category.weight": 32}
    for name, value in tuned.weights.items():
        if name in new:
            assert value.shape[0] == new[name]
        elif "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(value, before[name], atol=1e-6, rtol=0)
    assert tuned.weights["category.weight"].shape == (32, 16)
    results = json.loads((tmp_path / "tuned" / "results.json").read_text())["test"]
    counts = {one["name"]: one["count"] for one in results["classes"] if one["count"]}
    assert counts == {"lamp": 2, "mug": 2}


def test_normals_are_three_more_channels(tmp_path, capsys):
    shapenet_text(tmp_path / "text")
    arguments = [*V3, "--num-points", 32, "--eval-points", 32, "--batch-size", 4, "--epochs", 1, "--normals"]
    assert run("--data", tmp_path / "text", "--out", tmp_path / "run", *arguments) == 0
    assert checkpoint.read(tmp_path / "run").about["model"]["options"]["in_channels"] == 6
    assert run("--data", shapenet_hdf5(tmp_path / "hdf5"), "--out", tmp_path / "none", *arguments) == 2
    assert "have none; leave it out" in capsys.readouterr().err


def test_fine_tuning_begins_where_pretraining_ended(tmp_path, capsys):
    """With more patches than in pretraining, as the authors do it."""
    sizes = ["--num-shapes", 76, "--validation", 0.25, "--num-points", 64, "--batch-size", 19, "--epochs", 1]
    assert pretrain("--out", tmp_path / "pretrained", *MAE, *sizes) == 0
    arguments = [*DATA, "--batch-size", 19, "--epochs", 1, "--pretrained", tmp_path / "pretrained"]
    arguments += ["--lr", 1e-9, "--weight-decay", 0, "--precision", "float32"]
    assert run("--out", tmp_path / "tuned", *MAE_SEG, *arguments) == 0
    before, after = (checkpoint.read(tmp_path / name).weights for name in ("pretrained", "tuned"))
    parts = {"tokenizer", "encoder", "category", "propagation", "join", "head"}
    assert {name.split(".")[0] for name in after} == parts
    for name in after:
        if name.startswith(("tokenizer.", "encoder.")) and "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)
    capsys.readouterr()
    for model, text in (
        (V3, "was pretrained to become point_mae_seg, not point_transformer_v3_seg; give --model point_mae_seg"),
        ([*MAE_SEG, "num_heads=4"], "num_heads is given twice"),
        (["--model", "point_mae_seg", "--model-options", *SIZE_SEG[:2], *SIZE_SEG[3:]], "with num_heads 3, but"),
    ):
        try:
            code = run("--out", tmp_path / "none", *model, *arguments)
        except SystemExit as stopped:
            code = stopped.code
        assert code == 2
        assert text in " ".join(capsys.readouterr().err.split())


# ---- faults ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--data", "{own}"], "have no labels of parts; give `generated`, or a folder of ShapeNet parts"),
        (["--model", "pct"], "is for classification; for segmentation there are point_mae_seg"),
        (["--model", "point_mea_seg"], "did you mean 'point_mae_seg'"),
        ([*V3, "num_categories=3"], "has no option 'num_categories'"),
        (["--pretrained", "nowhere.pt"], "nowhere.pt does not exist"),
        (["--validation", "1"], "must lie between 0 and 1"),
        (["--num-points", "0"], "must be at least 1"),
    ],
)
def test_faults_of_the_user_leave_no_folder_behind(tmp_path, capsys, arguments, text):
    (tmp_path / "own" / "cup").mkdir(parents=True)
    for i in range(4):
        np.save(tmp_path / "own" / "cup" / f"{i}.npy", np.random.default_rng(i).normal(size=(50, 3)))
    filled = [argument.format(own=tmp_path / "own") for argument in arguments]
    assert run("--out", tmp_path / "run", *DATA, *filled) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_two_processes_by_torchrun(tmp_path):
    arguments = [*V3, *DATA, "--epochs", "2", "--batch-size", "8"]
    printed, results = in_two_processes("part-segmentation", tmp_path / "run", *arguments)
    assert printed.count("test: instance mIoU") == 1
    assert results["test"]["count"] == 19
