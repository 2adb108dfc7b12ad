"""The package in a training loop of your own: data sets, batches and models are ordinary PyTorch.

python examples/plain_pytorch.py [PATH]
"""

import argparse

import torch
from torch.utils.data import DataLoader

from pctransformer import create_model
from pctransformer.datasets import collate, open_dataset
from pctransformer.datasets.transforms import Compose, Normalize, OnlyCoordinates, RandomSubset, point_mae
from pctransformer.evaluation.classification import evaluate_classifier

parser = argparse.ArgumentParser()
parser.add_argument("data", nargs="?", default="generated")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--shapes", type=int, default=1000, help="of generated data")
arguments = parser.parse_args()
device = "cuda" if torch.cuda.is_available() else "cpu"

plain = Compose((OnlyCoordinates(), Normalize()))
change = Compose((plain, RandomSubset(512), point_mae()))  # other points, stretched and shifted
train = open_dataset(arguments.data, "train", num_shapes=arguments.shapes).with_transform(change)
test = open_dataset(arguments.data, "test", num_shapes=arguments.shapes).with_transform(plain)

model = create_model("pct_small", num_classes=len(train.class_names)).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
loader = DataLoader(train, batch_size=32, shuffle=True, drop_last=True, collate_fn=collate)

for epoch in range(arguments.epochs):
    train.set_epoch(epoch)  # other random changes
    model.train()
    for points, labels in loader:  # a PointBatch of 32 clouds, (32,) classes
        loss = torch.nn.functional.cross_entropy(model(points.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch + 1}: OA {evaluate_classifier(model, test).score.overall_accuracy:.3f}")
