"""Train a model to tell the parts of ShapeNet's objects and look at which shapes it is worst at.

    python examples/shapenet_parts.py PATH

PATH is a folder of ShapeNet parts in either of its layouts (see data/README.md), or `generated`. The same on the
command line: `pctransformer train part-segmentation --data PATH --num-points 2048 --eval-points 2048`.
"""

import argparse
from pathlib import Path

import pctransformer
from pctransformer.datasets import open_dataset
from pctransformer.training.part_segmentation import train
from pctransformer.training.run_folder import RESULTS
from pctransformer.training.settings import PartData, PartOptimization, PartSegmentationTraining

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("--model", default="point_transformer_v3_small_seg", help="point_mae_seg for a GPU, for instance")
parser.add_argument("--pretrained", type=Path, help="a run of `pctransformer train pretraining`, or a file of weights")
parser.add_argument("--epochs", type=int, default=60)
parser.add_argument("--points", type=int, default=2048)
parser.add_argument("--shapes", type=int, default=2000, help="of generated data")
arguments = parser.parse_args()

data = PartData(
    data=arguments.data,
    num_points=arguments.points,
    eval_points=arguments.points,
    num_shapes=arguments.shapes,
    augmentation="pointnet2_parts",
)
folder = train(
    PartSegmentationTraining(
        model=arguments.model,
        pretrained=arguments.pretrained,
        data=data,
        optimization=PartOptimization(epochs=arguments.epochs, lr=1e-3, weight_decay=0.05),
    )
)

test = folder.read_json(RESULTS)["test"]
print(f"instance mIoU {test['instance_mean_iou']:.3f}, class mIoU {test['class_mean_iou']:.3f}")
for shape in test["worst"][:5]:
    print(f"{shape['name']}: {shape['class']}, IoU {shape['iou']:.0%}")

shape = open_dataset(arguments.data, "test", num_points=arguments.points, num_shapes=arguments.shapes)[0]
print(pctransformer.load(folder.path).predict(shape))  # its label says what it is; for a file, give the category
