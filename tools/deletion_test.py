"""Take away the points that maps of a trained classifier mark, and as many at random, and compare its accuracy.

    python tools/deletion_test.py runs/modelnet10-0 runs/modelnet10-1 --shapes 300

Prints a table in Markdown. Where the map shows what the classifier decides by, it loses more without the points with
the highest values than without any others, and least without those with the lowest.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from pctransformer import load
from pctransformer.datasets import collate
from pctransformer.evaluation.deletion import Which, accuracy, rows_left
from pctransformer.training.data import testing_data
from pctransformer.visualization.looking import METHODS, Method, look

WITHOUT_VALUES = ("layer", "similarity", "features_pca")
DRAWS = 3


@dataclasses.dataclass(frozen=True)
class Row:
    """Accuracies of one run by one method, a share of the points taken away."""

    whole: float
    highest: float
    random: float
    lowest: float


def test_run(run: Path, methods: list[Method], shapes: int, shares: list[float]) -> dict[tuple[float, str], Row]:
    """Accuracies for each share and method, on so many shapes evenly spread over the test set."""
    predictor = load(run)
    data = testing_data(predictor.settings.data)  # type: ignore[arg-type]  # of a classifier
    chosen = torch.linspace(0, len(data) - 1, min(shapes, len(data))).round().long().tolist()
    samples = [data[i] for i in chosen]
    labels = [sample.label for sample in samples]
    clouds = [collate([sample])[0].xyz for sample in samples]

    def without(values: list[Tensor], share: float, which: Which, seed: int = 0) -> float:
        generator = torch.Generator().manual_seed(seed)
        left = [cloud[rows_left(of, share, which, generator)] for cloud, of in zip(clouds, values)]
        return accuracy(predictor.model, left, labels)

    nothing = [torch.zeros(len(cloud)) for cloud in clouds]
    whole = accuracy(predictor.model, clouds, labels)
    random = {share: mean(without(nothing, share, "random", seed) for seed in range(DRAWS)) for share in shares}
    found = {}
    for method in methods:
        try:
            values = [torch.from_numpy(look(predictor.model, cloud, method=method).maps[0].values) for cloud in clouds]
        except ValueError as error:
            print(f"{run}, {method}: {error}", flush=True)
            continue
        for share in shares:
            highest, lowest = (without(values, share, which) for which in ("highest", "lowest"))
            found[share, method] = Row(whole, highest, random[share], lowest)
            print(f"{run}, {method}, {share:.0%}: {found[share, method]}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs of classifiers without normals")
    parser.add_argument("--shapes", type=int, default=300, help="of the test set")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.5], help="of the points to take away")
    parser.add_argument("--methods", nargs="+", default=[m for m in METHODS if m not in WITHOUT_VALUES])
    arguments = parser.parse_args()
    tested = [test_run(run, arguments.methods, arguments.shapes, arguments.shares) for run in arguments.runs]
    print("\n| taken away | map | all points | without the highest | without random | without the lowest |")
    print("|--:|---|--:|--:|--:|--:|")
    for share in arguments.shares:
        for method in arguments.methods:
            rows = [found[share, method] for found in tested if (share, method) in found]
            if rows:
                numbers = [mean(getattr(row, field.name) for row in rows) for field in dataclasses.fields(Row)]
                print(f"| {share:.0%} | {method} | {' | '.join(f'{100 * number:.1f}' for number in numbers)} |")


if __name__ == "__main__":
    main()
