"""Train PCT on ModelNet and look at what it gets wrong.

    python examples/modelnet.py PATH

PATH is a folder in one of ModelNet's layouts, an .npz, or `generated`. The same on the command line:
`pctransformer train classification --data PATH --num-points 1024`.
"""

import argparse

from pctransformer.training.classification import train
from pctransformer.training.run_folder import RESULTS
from pctransformer.training.settings import ClassificationTraining, DataSettings, SupervisedOptimization

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("--model", default="pct_small", help="pct is the published size, for a GPU")
parser.add_argument("--epochs", type=int, default=60)
parser.add_argument("--points", type=int, default=1024)
arguments = parser.parse_args()

folder = train(
    ClassificationTraining(
        model=arguments.model,
        data=DataSettings(data=arguments.data, num_points=arguments.points, eval_points=arguments.points),
        optimization=SupervisedOptimization(epochs=arguments.epochs, lr=1e-3, weight_decay=0.05),
    )
)

test = folder.read_json(RESULTS)["test"]
print(f"OA {test['overall_accuracy']:.3f}, mAcc {test['mean_class_accuracy']:.3f}")
for error in test["wrong"][:5]:
    print(f"{error['name']}: {error['true']}, taken for {error['predicted']} ({error['confidence']:.0%} sure)")
