"""A data set from one word, as a command line has it: `generated`, a file, or a folder in any layout that is known."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pctransformer.datasets.files import FileFormatError
from pctransformer.datasets.folder import folder_dataset, unlabelled_folder
from pctransformer.datasets.modelnet import modelnet_hdf5, modelnet_npz, modelnet_off, modelnet_resampled
from pctransformer.datasets.samples import CloudDataset
from pctransformer.datasets.scanobjectnn import scanobjectnn
from pctransformer.datasets.shapenet import shapenet_parts_hdf5, shapenet_parts_text
from pctransformer.datasets.shapes import generated_shapes

GENERATED = "generated"


def open_dataset(
    source: str | Path,
    split: Literal["train", "test"],
    *,
    num_points: int = 1024,
    normals: bool = False,
    num_shapes: int = 2000,
    labelled: bool = True,
) -> CloudDataset:
    """Labelled clouds, whatever holds them.

    - `generated`: generated shapes, `num_shapes` to train on and a quarter as many to test on;
    - a file `.npz`: `modelnet_npz`;
    - a folder with `modelnet40_shape_names.txt`: `modelnet_resampled`, its 40 classes;
    - a folder with `ply_data_train0.h5`: `modelnet_hdf5`;
    - a folder with `chair/train/*.off`: `modelnet_off`;
    - a folder with `synsetoffset2category.txt`: `shapenet_parts_text`, "train" with its validation shapes;
    - a folder with `train_hdf5_file_list.txt`: `shapenet_parts_hdf5`, likewise;
    - a folder with `main_split`, or with `h5_files/main_split`: `scanobjectnn`, its hardest variant;
    - any other folder: `folder_dataset`, one folder per class, below `train` and `test` or not.

    Args:
        source: the word.
        split: which part.
        num_points: points that are drawn from a mesh, or taken from the beginning of ModelNet's ordered files. A .npz
            and clouds of your own keep all they have.
        normals: whether normals are wanted too, where the reader has to be told.
        num_shapes: how many shapes to generate.
        labelled: False where classes are of no interest: a folder of files without folders will do, too, all of which
            are to train on (`unlabelled_folder`).

    Raises:
        FileFormatError: it is not there, or it holds something else.
    """
    if str(source) == GENERATED:
        count = num_shapes if split == "train" else num_shapes // 4
        return generated_shapes(split, num_shapes=count, num_points=num_points)
    path = Path(source)
    if not path.exists():
        hint = " (`generated` stands for generated shapes)" if len(path.parts) == 1 else ""
        raise FileFormatError(path, f"there is no such file or folder{hint}")
    if path.is_file():
        if path.suffix != ".npz":
            raise FileFormatError(path, "a data set is a .npz file, or a folder with one folder per class")
        return modelnet_npz(path, split)
    if (path / "modelnet40_shape_names.txt").is_file():
        return modelnet_resampled(path, split, num_points=num_points)
    if (path / "synsetoffset2category.txt").is_file():
        return shapenet_parts_text(path, "trainval" if split == "train" else split)
    if (path / "train_hdf5_file_list.txt").is_file():  # ModelNet's has the same .h5 files, and another list
        return shapenet_parts_hdf5(path, "trainval" if split == "train" else split)
    for folder in (path, path / "h5_files"):
        if (folder / "main_split").is_dir():
            return scanobjectnn(folder, split)
    if any(path.glob("ply_data_*.h5")):
        return modelnet_hdf5(path, split, num_points=num_points, normals=normals)
    if any(path.glob("*/train/*.off")):
        return modelnet_off(path, split, num_points=num_points, normals=normals)
    if split == "train" and not labelled and not any(inside.is_dir() for inside in path.iterdir()):
        return unlabelled_folder(path, num_points=num_points)
    return folder_dataset(path, split, num_points=num_points)
