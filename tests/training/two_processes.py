"""Train the small task in as many processes as torchrun starts; the first writes. Used by test_distributed.py."""

import sys
from pathlib import Path

from pctransformer.training.distributed import World, join_world
from tests.training.tasks import settings_in_parts, task, trainer


def train(folder: Path, world: World) -> None:
    for parts in (1, 2):
        # drop-out differs between processes by design, so it is off where processes are compared
        trainer(folder / str(parts), settings_in_parts(parts), world=world, of=task(dropout=0.0)).fit()
        world.wait()


if __name__ == "__main__":
    with join_world("cpu") as world:
        train(Path(sys.argv[1]), world)
