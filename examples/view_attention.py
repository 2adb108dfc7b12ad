"""Look at what a trained model looks at, several ways, and write a page to turn in a browser for each.

    python examples/view_attention.py RUN FILE

RUN is the folder of a training, FILE a cloud or a mesh; for a detector a LiDAR scan. The same on the command line:
`pctransformer show FILE --model RUN --method rollout`.
"""

import argparse

import torch

from pctransformer import load, record_attention
from pctransformer.datasets import collate
from pctransformer.predict_boxes import DetectorPredictor
from pctransformer.predict_classes import ClassPredictor
from pctransformer.visualization.looking import look
from pctransformer.visualization.output import write

parser = argparse.ArgumentParser()
parser.add_argument("run")
parser.add_argument("file")
arguments = parser.parse_args()

predictor = load(arguments.run)
if isinstance(predictor, DetectorPredictor):
    found = predictor.predict(arguments.file)
    points = torch.from_numpy(found.points)
    options = {"box": found.boxes[0].tolist()}  # from the best box
elif isinstance(predictor, ClassPredictor):
    batch, _ = collate([predictor.prepare(arguments.file)])
    points = batch.xyz if batch.features is None else torch.cat([batch.xyz, batch.features], 1)
    options = {}  # from the vector that is classified
else:
    raise SystemExit("this example is for classifiers and detectors")

for method in ("rollout", "last_layer", "gradient_attention", "grad_cam", "saliency"):
    try:
        maps = look(predictor.model, points, method=method, title=arguments.file, **options)
    except ValueError as error:
        print(f"{method}: {error}")  # not every model has attention
        continue
    write(maps, f"{method}.html")
    top = maps.maps[0].values.argmax()
    x, y, z = maps.xyz[top].tolist()
    print(f"{method}.html: most at [{x:.2f}, {y:.2f}, {z:.2f}]")

# the maps themselves: every layer's weights, here only the three largest of each query
with torch.no_grad(), record_attention(predictor.model, heads="mean", top_k=3) as recorded:
    predictor.model([points])
for one in recorded:
    print(f"{one.layer or 'model'}: {one.keys}, {len(one)} queries, weights {tuple(one.weights.shape)}")
