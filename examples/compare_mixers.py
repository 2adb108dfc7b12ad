"""Is attention necessary? One backbone, trained with attention in its blocks and with something else in that place.

    python examples/compare_mixers.py [PATH] [--mixers self_attention mlp_mixer mean_pool]

PATH is labelled data (see `pctransformer.datasets.open_dataset`). `pctransformer compare-mixers` does the same with
several seeds, says which differences are noise, and draws them; this script is to copy from, for a backbone or a mixer
of your own. Three mixers on ModelNet10 take about six minutes on one core.
"""

import argparse

from pctransformer.layers.mixers import list_mixers
from pctransformer.training import classification
from pctransformer.training.run_folder import RESULTS
from pctransformer.training.settings import ClassificationTraining, DataSettings, SupervisedOptimization

parser = argparse.ArgumentParser()
parser.add_argument("data", nargs="?", default="generated")
parser.add_argument("--mixers", nargs="+", choices=list_mixers(), default=["self_attention", "mlp_mixer", "mean_pool"])
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--points", type=int, default=1024)
parser.add_argument("--shapes", type=int, default=2000, help="of generated data")
arguments = parser.parse_args()

BACKBONE = {"dim": 96, "depth": 4, "num_patches": 32, "patch_size": 32, "widths": [16, 32], "pool": "max_mean"}

accuracies = {}
for mixer in arguments.mixers:
    run = classification.train(
        ClassificationTraining(
            model="patch_mixer",
            model_options={"mixer": mixer, **BACKBONE},
            data=DataSettings(
                data=arguments.data,
                num_points=arguments.points,
                eval_points=arguments.points,
                num_shapes=arguments.shapes,
            ),
            optimization=SupervisedOptimization(
                epochs=arguments.epochs, batch_size=16, warmup_epochs=min(1, arguments.epochs / 2), ema=0.99
            ),
        )
    )
    accuracies[mixer] = run.read_json(RESULTS)["test"]["overall_accuracy"]

for mixer, accuracy in sorted(accuracies.items(), key=lambda item: -item[1]):
    print(f"{mixer:30} OA {accuracy:.3f}")
