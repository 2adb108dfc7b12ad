"""How many frames a second each stage of detection does: simulating, reading, augmenting, training, finding, judging.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.detection --json one.json
    OMP_NUM_THREADS=2 python -m tests.benchmarks.detection --models pointpillars_small second_small

Simulated streets, in the camera's view but for whole sweeps; training is forward, loss, backward and a step of AdamW on
augmented scans, in bf16 where the processor computes in it; finding is a scan at a time, suppression included. Median
of all rounds; a stage of training or finding is timed as a whole and in its parts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pctransformer.datasets import read_points
from pctransformer.datasets.kitti import kitti_scans
from pctransformer.datasets.kitti.prepare import labelled_objects
from pctransformer.datasets.object_database import build_database
from pctransformer.datasets.scan_recipes import training_recipe
from pctransformer.datasets.scans import ScanDataset, collate_scans
from pctransformer.datasets.street import street_frames
from pctransformer.evaluation.scans import detect_in_scans
from pctransformer.models import create_model
from pctransformer.models.detector import Detector
from pctransformer.training.detection_report import judge
from pctransformer.training.optimizers import computes_in_bf16
from pctransformer.training.repeatability import keep_freed_memory, repeatable_kernels
from pctransformer.training.scans import ScanPart

CLASSES = ("Car", "Pedestrian", "Cyclist")
BATCH = 4
_MANY = 100  # frames, so that starting processes does not count much


def seconds(call: Callable[[], object], rounds: int, *, warm: bool = True) -> float:
    """Median over the rounds, after one that does not count, if `warm`."""
    if warm:
        call()
    found = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def data_stages(scans: ScanDataset, frames: int, rounds: int) -> dict[str, float]:
    """Seconds for each frame."""
    sweep = street_frames(1, camera_view=False)[0].read_points()
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        Path(file.name).write_bytes(sweep.tobytes())
        reading = seconds(lambda: read_points(file.name, columns=4), rounds)
    threads = torch.get_num_threads()
    in_processes = {
        f"simulate in {threads} processes, {what}": seconds(
            lambda view=view: street_frames(_MANY, camera_view=view, workers=threads), 1, warm=False
        )
        / _MANY
        for what, view in (("camera's view", True), ("whole sweep", False))
        if threads > 1
    }
    augmenting = seconds(lambda: [scans[i] for i in range(frames)], 3)
    batch = [scans[i] for i in range(BATCH)]
    return {
        "simulate, camera's view": seconds(lambda: street_frames(4), 2) / 4,
        "simulate, whole sweep": seconds(lambda: street_frames(4, camera_view=False), 2) / 4,
        **in_processes,
        "read a sweep of 120 000 points": reading,
        "augment (paste, mirror, turn, scale, crop, shuffle)": augmenting / frames,
        "pack a batch": seconds(lambda: collate_scans(batch), rounds) / BATCH,
    }


def model_stages(name: str, head: str, scans: ScanDataset, plain: ScanDataset, rounds: int) -> dict[str, float]:
    """Seconds for each frame."""
    torch.manual_seed(0)
    model = create_model(name, head=head)
    assert isinstance(model, Detector)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    points, boxes = collate_scans([scans[i] for i in range(BATCH)])
    (single, _) = collate_scans([plain[0]])
    bf16 = computes_in_bf16(torch.device("cpu"))
    parts: dict[str, list[float]] = {}

    def lap(part: str, begin: float) -> float:
        now = time.perf_counter()
        parts.setdefault(part, []).append(now - begin)
        return now

    for _ in range(rounds + 3):
        model.train()
        first = begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            bev = model.forward_features(points)
            begin = lap("train: backbone", begin)
            output = model.forward_head(bev)
            begin = lap("train: head", begin)
            loss = model.loss(output, boxes)["loss"]
            begin = lap("train: targets and loss", begin)
        loss.backward()
        begin = lap("train: backward", begin)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        begin = lap("train: step of AdamW", begin)
        parts.setdefault("train, in all", []).append(begin - first)
    found = {part: statistics.median(values[3:]) / BATCH for part, values in parts.items()}
    parts.clear()
    model.eval()
    for _ in range(rounds + 3):
        first = begin = time.perf_counter()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            bev = model.forward_features(single)
            begin = lap("find: backbone", begin)
            output = model.forward_head(bev)
            begin = lap("find: head", begin)
            model.predict(output)
            begin = lap("find: boxes and suppression", begin)
        parts.setdefault("find, in all", []).append(begin - first)
    return found | {part: statistics.median(values[3:]) for part, values in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["pointpillars_small", "second_small"])
    parser.add_argument("--heads", nargs="+", default=["anchor", "center"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    keep_freed_memory()
    with repeatable_kernels(torch.device("cpu")):
        frames = street_frames(arguments.frames)
        plain = kitti_scans(frames, class_names=CLASSES)
        grid = create_model(arguments.models[0]).grid
        point_range = (*grid.low, *grid.high)
        database = build_database([one for one in labelled_objects(frames) if len(one.points)])
        scans = plain.with_transform(training_recipe("second", database, class_names=CLASSES, range=point_range))
        results = {"data": data_stages(scans, arguments.frames, arguments.rounds)}
        for name in arguments.models:
            for head in arguments.heads:
                title = f"{name}, {head} head"
                results[title] = model_stages(name, head, scans, plain, arguments.rounds)
        model = create_model(arguments.models[0])
        found = detect_in_scans(model, plain)
        part = ScanPart(plain, tuple(frames))
        judging = seconds(lambda: judge(found, part), 3)
        results["data"]["judge (KITTI's rules and without a camera)"] = judging / len(found)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for title, stages in results.items():
        print(f"\n{title}")
        for stage, time_of in stages.items():
            print(f"  {stage:52} {1000 * time_of:8.1f} ms a frame {1 / max(time_of, 1e-9):9.1f} frames/s")
    if arguments.json:
        arguments.json.write_text(json.dumps({"threads": torch.get_num_threads(), "seconds": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
