"""Train a LiDAR detector, test it by KITTI's rules, and look at what it finds in a scan.

    python examples/kitti_detection.py PATH          # KITTI's folder, see data/README.md
    python examples/kitti_detection.py generated     # simulated streets

On the command line: `pctransformer train detection --data PATH`, then `pctransformer predict FILE --model RUN`.
"""

import argparse

import pctransformer
from pctransformer.datasets.kitti import write_objects
from pctransformer.training.detection import train
from pctransformer.training.run_folder import RESULTS
from pctransformer.training.scans import testing_scans
from pctransformer.training.settings import DetectionOptimization, DetectionTraining, ScanData

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("--model", default="pointpillars_small", help="pointpillars and second have the published sizes")
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--scans", type=int, default=1000, help="of simulated streets")
parser.add_argument("--show", action="store_true", help="open a window with the first scan")
arguments = parser.parse_args()

data = ScanData(data=(arguments.data,), num_scans=arguments.scans)
optimization = DetectionOptimization(epochs=arguments.epochs)
folder = train(DetectionTraining(model=arguments.model, data=data, optimization=optimization))
test = folder.read_json(RESULTS)["test"]
print(f"mean AP of moderate objects: from above {test['ap_bev']:.1f}, in space {test['ap_3d']:.1f} percent")

predictor = pctransformer.load(folder.path)
part = testing_scans(data, "test")
frame, scan = part.frames[0], part.scans[0]  # predict() takes a file, too
found = predictor.predict(scan.points, calibration=frame.calibration, image_size=frame.image_size, name=frame.name)
print(found)
for row in found.above(0.3).to_json():
    print(f"{row['class']} {row['score']:.2f} at {row['box'][0]:.1f} m ahead, {row['box'][1]:.1f} m to the left")
found.figure(labelled=(scan.boxes, scan.labels)).savefig(folder.path / "scan.png")
write_objects(folder.path / f"{frame.name}.txt", found.to_kitti())  # what KITTI's server takes; detections/ has all

if arguments.show:
    import open3d

    open3d.visualization.draw_geometries(found.above(0.3).to_open3d())
