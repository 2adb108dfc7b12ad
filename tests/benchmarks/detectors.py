"""What every detector costs: parameters, multiply-adds, time and memory of a training step and of finding.

    python -m tests.benchmarks.detectors --threads 1 --rounds 7 --table rows.json --models pointpillars_small

On simulated streets in the camera's view. A training step is forward, loss, backward and AdamW on four augmented scans;
finding is one scan, suppression included; both in bf16 where the processor computes in it. Weights are untrained, which
changes no size but that of suppression: it has fewer boxes to compare. Multiply-adds are of finding, on that same scan.
Models take turns in every round. Times are medians of CPU time, what a call takes on a core of its own; memory is the
most that making a model, and an optimizer for training, and one call take together.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import args, describe_machine, once, parser, peak_memory

# isort: split
import torch

from pctransformer.boxes import BoxBatch
from pctransformer.datasets.kitti import kitti_scans
from pctransformer.datasets.kitti.prepare import labelled_objects
from pctransformer.datasets.object_database import build_database
from pctransformer.datasets.scan_recipes import training_recipe
from pctransformer.datasets.scans import collate_scans
from pctransformer.datasets.street import street_frames
from pctransformer.models import create_model
from pctransformer.models.cost import cost
from pctransformer.models.detector import Detector
from pctransformer.points import PointBatch
from pctransformer.training.optimizers import computes_in_bf16
from pctransformer.training.repeatability import repeatable_kernels

CLASSES = ("Car", "Pedestrian", "Cyclist")
BATCH, FRAMES = 4, 24

Pass = Callable[[], object]


def simulated(name: str) -> tuple[PointBatch, BoxBatch, PointBatch]:
    """Four augmented scans with their boxes, in the range of a detector, and one scan as it is."""
    frames = street_frames(FRAMES)
    plain = kitti_scans(frames, class_names=CLASSES)
    grid = create_model(name).grid
    database = build_database([one for one in labelled_objects(frames) if len(one.points)])
    recipe = training_recipe("second", database, class_names=CLASSES, range=(*grid.low, *grid.high))
    augmented = plain.with_transform(recipe)
    single, _ = collate_scans([plain[0]])
    return *collate_scans([augmented[i] for i in range(BATCH)]), single


def detector(name: str) -> Detector:
    torch.manual_seed(0)
    model = create_model(name)
    assert isinstance(model, Detector)
    return model.to(args.device)


def autocast() -> torch.autocast:
    device = torch.device(args.device)
    return torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bf16(device))


def training(name: str, points: PointBatch, boxes: BoxBatch) -> Pass:
    """One step on a batch."""
    model = detector(name).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        with autocast():
            loss = model.loss(model(points), boxes)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def finding(name: str, points: PointBatch) -> Pass:
    """Boxes of a scan."""
    model = detector(name).eval()

    def find() -> BoxBatch:
        with torch.inference_mode(), autocast():
            return model.predict(model(points))

    return find


def measure(names: list[str]) -> list[dict[str, Any]]:
    """A row for each detector."""
    points, boxes, single = (of.to(args.device) for of in simulated(names[0]))
    rows, calls, times = [], {}, {}
    for name in names:
        model = detector(name)
        whole, parts = cost(model, single)
        rows.append(
            {
                "model": name, "head": type(model.head).__name__, "parameters": whole.parameters,
                "multiply_adds": whole.multiply_adds, "parts": {part: of.multiply_adds for part, of in parts.items()},
                "scan_points": len(single.xyz), "batch_points": len(points.xyz), "threads": args.threads,
                "device": args.device, "bf16": computes_in_bf16(torch.device(args.device)),
            }
        )  # fmt: skip
        made = {
            "train": lambda name=name: training(name, points, boxes),
            "find": lambda name=name: finding(name, single),
        }
        for what, make in made.items():
            calls[name, what] = make()
            calls[name, what]()  # what is loaded and cached once is no part of the peak
            rows[-1][f"{what}_peak_mb"] = peak_memory(lambda make=make: make()())
    for _ in range(args.rounds):
        for key, call in calls.items():
            times.setdefault(key, []).append(once(call))
    for row in rows:
        for what in ("train", "find"):
            walls, cpus = zip(*times[row["model"], what], strict=True)
            row[f"{what}_ms"] = 1e3 * statistics.median(walls if args.device == "cuda" else cpus)
            row[f"{what}_wall_min_ms"] = 1e3 * min(walls)
            row[f"{what}_spread"] = max(cpus) / min(cpus) if min(cpus) else None
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    head = ["detector", "parameters, M", "multiply-adds, G", "training step, ms", "peak MB", "one scan, ms", "peak MB"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'--:|' * (len(head) - 1)}"]
    for row in rows:
        cells = [
            f"`{row['model']}`", f"{row['parameters'] / 1e6:.2f}", f"{row['multiply_adds'] / 1e9:.2f}",
            f"{row['train_ms']:.0f}", f"{row['train_peak_mb']:.0f}", f"{row['find_ms']:.0f}",
            f"{row['find_peak_mb']:.0f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser.add_argument("--models", nargs="+", default=["pointpillars_small", "second_small"])
    parser.add_argument("--table", type=Path, help="write all numbers to this file")
    chosen = parser.parse_args()
    with repeatable_kernels(torch.device(args.device)):
        rows = measure(chosen.models)
    print(f"{describe_machine()}\n\n{table(rows)}")
    if chosen.table:
        chosen.table.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
