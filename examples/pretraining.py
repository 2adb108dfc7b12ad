"""What pretraining without labels is worth where labels are few: the same classifier with it and without.

    python examples/pretraining.py [PATH]

PATH is labelled data (see `pctransformer.datasets.open_dataset`), of which a tenth of the labels is used; all of its
training shapes, and generated ones, are there to learn from without labels. ModelNet10 takes about half an hour on two
cores.
"""

import argparse
from pathlib import Path

from pctransformer.training import classification, pretraining
from pctransformer.training.run_folder import RESULTS
from pctransformer.training.settings import (
    ClassificationTraining,
    DataSettings,
    Pretraining,
    PretrainingOptimization,
    SupervisedOptimization,
    UnlabelledData,
)

parser = argparse.ArgumentParser()
parser.add_argument("data", nargs="?", default="generated")
parser.add_argument("--epochs", type=int, default=20, help="of pretraining; twice as many of training")
parser.add_argument("--points", type=int, default=1024)
parser.add_argument("--shapes", type=int, default=2000, help="of generated data")
parser.add_argument("--fraction", type=float, default=0.1, help="of labels")
arguments = parser.parse_args()

sources = tuple(dict.fromkeys(("generated", arguments.data)))
pretrained = pretraining.train(
    Pretraining(
        data=UnlabelledData(data=sources, num_points=arguments.points, num_shapes=arguments.shapes),
        optimization=PretrainingOptimization(epochs=arguments.epochs),
    )
).path


def accuracy(start: Path | None) -> float:
    """Of a classifier that starts from these weights, or anew; on the test shapes."""
    data = DataSettings(
        data=arguments.data,
        num_points=arguments.points,
        eval_points=arguments.points,
        num_shapes=arguments.shapes,
        label_fraction=arguments.fraction,
    )
    optimization = SupervisedOptimization(epochs=2 * arguments.epochs, lr=5e-4)
    run = classification.train(
        ClassificationTraining(model="point_mae_small", pretrained=start, data=data, optimization=optimization)
    )
    return run.read_json(RESULTS)["test"]["overall_accuracy"]


with_pretraining, without = accuracy(pretrained), accuracy(None)
print(f"OA {with_pretraining:.3f} pretrained, {without:.3f} not")
