"""Generated streets in KITTI's folders, for everything that reads KITTI: `write_street`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pctransformer.datasets.kitti import KittiFrame
from pctransformer.datasets.kitti.writing import write_frames
from pctransformer.datasets.street.frames import frame_name, iterate_street_frames


def write_street(
    folder: str | Path,
    num_train: int,
    num_val: int,
    *,
    seed: int = 0,
    camera_view: bool = False,
    workers: int = 0,
    watch: Callable[[Iterator[KittiFrame]], Iterable[KittiFrame]] = iter,
) -> None:
    """Write generated streets in KITTI's folders, with splits train, val and trainval.

    Frames are those of `street_frames`, the training frames first; the readers of `datasets.kitti` give them back to
    the last bit, planes of roads to 1e-12.

    Args:
        folder: must not exist, or be empty. It appears when all is written, or not at all.
        num_train, num_val: frames of the splits.
        seed: of the streets.
        camera_view: only points that the camera sees, 0.3 MB a frame; by default whole sweeps, 2 MB.
        workers: processes that make them, see `street_frames`.
        watch: passes the frames on one by one, for a bar of progress.

    Raises:
        ValueError: a number is negative, or there are no frames at all.
        UserError: the folder holds something already, or Open3D is not installed.
    """
    if min(num_train, num_val) < 0 or num_train + num_val == 0:
        raise ValueError(f"a data set needs frames, got {num_train} to train and {num_val} to validate")
    names = [frame_name(index) for index in range(num_train + num_val)]
    made = iterate_street_frames(0, len(names), seed=seed, camera_view=camera_view, workers=workers)
    splits = {"train": names[:num_train], "val": names[num_train:], "trainval": names}
    write_frames(folder, watch(one.frame for one in made), splits)
