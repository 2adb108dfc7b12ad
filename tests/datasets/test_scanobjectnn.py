from pathlib import Path

import h5py
import numpy as np
import pytest

from pctransformer.datasets import FileFormatError, scanobjectnn
from pctransformer.datasets.scanobjectnn import CLASSES

HARDEST = "main_split/training_objectdataset_augmentedrot_scale75.h5"


def h5_files(root: Path) -> Path:
    """Every file of the three variants, told apart by the number of its objects."""
    count = 0
    for folder, ending in (("main_split_nobg", ""), ("main_split", ""), ("main_split", "_augmentedrot_scale75")):
        (root / folder).mkdir(exist_ok=True)
        for split in ("training", "test"):
            count += 1
            with h5py.File(root / folder / f"{split}_objectdataset{ending}.h5", "w") as file:
                file["data"] = np.arange(count * 4 * 3, dtype=np.float32).reshape(count, 4, 3)
                file["label"] = np.arange(count) + 4
                file["mask"] = np.zeros((count, 4))
    return root


def test_variants_by_hand(tmp_path):
    root = h5_files(tmp_path)
    found = [
        len(scanobjectnn(root, split, variant=variant))
        for variant in ("obj_only", "obj_bg", "pb_t50_rs")
        for split in ("train", "test")
    ]
    assert found == [1, 2, 3, 4, 5, 6]
    data = scanobjectnn(root, num_points=2)
    assert data.class_names == CLASSES
    assert [CLASSES[label] for label in data.labels] == ["chair", "desk", "display", "door", "shelf"]
    assert data[1].xyz.tolist() == [[12, 13, 14], [15, 16, 17]]
    assert data[1].name == "training_objectdataset_augmentedrot_scale75[1]"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"label": np.arange(5) + 11}, "from 0 to 14"),
        ({"label": np.arange(4)}, "5 shapes, but label"),
        ({"data": np.ones((5, 4, 2), np.float32)}, r"floats \(N, n, 3\)"),
        ({"data": np.ones((5, 2, 3), np.float32)}, "3 points were asked for"),
        ({"data": np.full((5, 4, 3), np.nan, np.float32)}, "not finite"),
        ({"data": None}, "no array 'data'"),
    ],
)
def test_errors(tmp_path, change, text):
    root = h5_files(tmp_path)
    with h5py.File(root / HARDEST, "a") as file:
        for name, value in change.items():
            del file[name]
            if value is not None:
                file[name] = value
    with pytest.raises(FileFormatError, match=text):
        scanobjectnn(root, num_points=3)


def test_files_missing_or_cut(tmp_path):
    with pytest.raises(FileFormatError, match=f"{HARDEST}: there is no such file"):
        scanobjectnn(tmp_path)
    root = h5_files(tmp_path)
    content = (root / HARDEST).read_bytes()
    for length in (0, 100, len(content) // 2):
        (root / HARDEST).write_bytes(content[:length])
        with pytest.raises(FileFormatError, match="scale75"):
            scanobjectnn(root)
    with pytest.raises(ValueError, match="'pb_t50_rs', got 'hard'"):
        scanobjectnn(root, variant="hard")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'train' or 'test'"):
        scanobjectnn(root, "val")  # type: ignore[arg-type]
