"""HDF5: arrays by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pctransformer.datasets.formats.common import FileFormatError

_LARGEST_RATIO = 64
"""Bytes of an array per byte of its file; compressed coordinates stay far below."""


def read_hdf5_arrays(path: str | Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The named arrays of a file.

    Raises:
        FileFormatError: the file is missing, damaged, lacks an array, or one claims a size that the file cannot hold.
    """
    import h5py  # here because few runs need it

    path = Path(path)
    if not path.is_file():
        raise FileFormatError(path, "there is no such file")
    if not path.stat().st_size:
        raise FileFormatError(path, "the file is empty")
    try:
        with h5py.File(path, "r") as file:
            absent = [name for name in names if not isinstance(file.get(name), h5py.Dataset)]
            if absent:
                raise FileFormatError(path, f"there is no array {absent[0]!r}, only {', '.join(map(str, file))[:200]}")
            for name in names:
                if file[name].nbytes > _LARGEST_RATIO * max(path.stat().st_size, 2**20):
                    raise FileFormatError(path, f"{name} promises {file[name].shape}, far more than the file can hold")
            return {name: np.asarray(file[name][()]) for name in names}
    except FileFormatError:
        raise
    except Exception as error:  # libhdf5 reports damage as OSError, RuntimeError, KeyError or ValueError, as it comes
        raise FileFormatError(path, f"this is not a readable HDF5 file: {str(error)[:200]}") from None
