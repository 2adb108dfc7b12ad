"""Teach a trained model the classes of your own folder, then ask it about a file.

    python examples/own_data.py RUN FOLDER FILE

RUN is what `pctransformer demo` or `pctransformer train classification` left. FOLDER has one folder of files per class
(.ply, .pcd, .npy, .xyz, .off, .obj, .stl); the split into training and test is drawn once and kept there.
"""

import argparse
from pathlib import Path

from pctransformer import load
from pctransformer.training.checkpoint import find_checkpoint, read
from pctransformer.training.classification import train
from pctransformer.training.settings import ClassificationTraining, DataSettings, SupervisedOptimization

parser = argparse.ArgumentParser()
parser.add_argument("run", type=Path)
parser.add_argument("folder", type=Path)
parser.add_argument("file", type=Path)
parser.add_argument("--epochs", type=int, default=20)
arguments = parser.parse_args()

pretrained = read(arguments.run)
folder = train(
    ClassificationTraining(
        model=pretrained.about["model"]["name"],
        pretrained=find_checkpoint(arguments.run),  # the last layer starts anew, as the classes are others
        data=DataSettings(data=str(arguments.folder), validation=0.2),
        optimization=SupervisedOptimization(epochs=arguments.epochs, batch_size=16, lr=2e-4),
    )
)

prediction = load(folder.path).predict(arguments.file)
for label, probability in prediction.classes:
    print(f"{label:15} {probability:6.1%}")
