"""Boxes: ours, plain torch, and shapely where it is installed (its tree of rectangles finds the pairs that meet).

Non-maximum suppression of peers is a greedy loop over their table of overlaps. Points in boxes by torch is one test of
all points per box.
"""

from __future__ import annotations

from tests.benchmarks.harness import args, bench, describe_machine, lidar, peer

# isort: split
import math

import numpy as np
import torch

from pctransformer.ops import box_iou, box_nms, points_in_boxes
from pctransformer.ops.reference import box_iou as torch_iou


def cars(n: int, seed: int, span: float = 40.0) -> torch.Tensor:
    """(n, 7) boxes of cars, eight around each of n / 8 places."""
    random = np.random.default_rng(seed)
    places = random.uniform(-span, span, (max(1, n // 8), 2))
    boxes = np.empty((n, 7))
    boxes[:, :2] = places[random.integers(0, len(places), n)] + random.normal(0, 0.6, (n, 2))
    boxes[:, 2] = random.normal(-1, 0.2, n)
    boxes[:, 3:6] = np.array([3.9, 1.6, 1.56]) * random.uniform(0.85, 1.15, (n, 3))
    boxes[:, 6] = random.uniform(-math.pi, math.pi, n)
    return torch.from_numpy(boxes.astype(np.float32))


def corners(boxes: torch.Tensor) -> np.ndarray:
    """(n, 4, 2) float64 corners seen from above."""
    x, y, _, dx, dy, _, heading = boxes.double().cpu().numpy().T
    along, across = np.stack([dx, -dx, -dx, dx], 1) / 2, np.stack([dy, dy, -dy, -dy], 1) / 2
    cosine, sine = np.cos(heading)[:, None], np.sin(heading)[:, None]
    return np.stack([x[:, None] + along * cosine - across * sine, y[:, None] + along * sine + across * cosine], -1)


def shapely_iou(shapely, boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    ones, twos = shapely.polygons(corners(boxes)), shapely.polygons(corners(others))
    i, j = shapely.STRtree(twos).query(ones, predicate="intersects")
    shared = shapely.area(shapely.intersection(ones[i], twos[j]))
    iou = np.zeros((len(ones), len(twos)))
    iou[i, j] = shared / (shapely.area(ones)[i] + shapely.area(twos)[j] - shared)
    return torch.from_numpy(iou)


def torch_rows(boxes: torch.Tensor, others: torch.Tensor, bird_eye: bool) -> torch.Tensor:
    return torch_iou(boxes, others, False, bird_eye)


def greedy(iou: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    gone = torch.zeros(len(scores), dtype=torch.bool, device=iou.device)
    kept = []
    for row in scores.argsort(descending=True, stable=True).tolist():
        if not gone[row]:
            kept.append(row)
            gone |= iou[row] > threshold
    return torch.tensor(kept)


def run_iou(m: int, n: int) -> None:
    boxes, others = cars(m, 0).to(args.device), cars(n, 1).to(args.device)
    shapely = peer("shapely")
    expected = shapely_iou(shapely, boxes, others) if shapely else torch_rows(boxes, others, True).double().cpu()

    def check(name, iou):
        error = (iou.double().cpu() - expected).abs().max().item()
        assert error < 1e-6 or not name.startswith("ours"), f"off by {error:.1e}"
        return f"off by {error:.0e}"

    candidates = {
        "ours": lambda: box_iou(boxes, others, view="bev"),
        "torch, all pairs": lambda: torch_rows(boxes, others, True),
    }
    if shapely and args.device == "cpu":
        candidates["shapely tree"] = lambda: shapely_iou(shapely, boxes, others)
    bench(f"box IoU from above {m} x {n} ({int((expected > 0).sum())} pairs overlap)", candidates, check)
    candidates = {
        "ours": lambda: box_iou(boxes, others),
        "torch, all pairs": lambda: torch_rows(boxes, others, False),
    }
    bench(f"box IoU in space {m} x {n}", candidates)


def run_nms(n: int, threshold: float) -> None:
    boxes = cars(n, 3).to(args.device)
    scores = torch.from_numpy(np.random.default_rng(0).uniform(size=n).astype(np.float32)).to(args.device)
    offsets = torch.tensor([0, n], device=args.device)
    expected = greedy(box_iou(boxes, boxes, view="bev"), scores, threshold)

    def check(_, kept):
        same = torch.equal(kept.cpu(), expected)
        assert same, "other boxes are kept"
        return f"{len(kept)} kept"

    candidates = {
        "ours": lambda: box_nms(boxes, offsets, scores, threshold)[0],
        "ours, IoU of all, greedy in torch": lambda: greedy(box_iou(boxes, boxes, view="bev"), scores, threshold),
    }
    if (shapely := peer("shapely")) and args.device == "cpu":
        candidates["shapely tree, greedy in torch"] = lambda: greedy(
            shapely_iou(shapely, boxes, boxes), scores, threshold
        )
    if n <= 1000:
        candidates["torch, all pairs, greedy"] = lambda: greedy(torch_rows(boxes, boxes, True), scores, threshold)
    bench(f"NMS {n} boxes, threshold {threshold}", candidates, check)


def run_points(m: int) -> None:
    xyz = lidar().to(args.device)
    random = np.random.default_rng(0)
    boxes = cars(m, 0).to(args.device)
    boxes[:, :3] = xyz[torch.from_numpy(random.integers(0, len(xyz), m)).to(args.device)]
    offsets, box_offsets = (torch.tensor([0, count], device=args.device) for count in (len(xyz), m))

    def torch_loop():
        index = torch.full((len(xyz),), -1, device=args.device)
        for row in reversed(range(m)):
            x, y, z = (xyz - boxes[row, :3]).unbind(1)
            cosine, sine = boxes[row, 6].cos(), boxes[row, 6].sin()
            half = boxes[row, 3:6] / 2
            inside = (x * cosine + y * sine).abs() <= half[0]
            inside &= ((y * cosine - x * sine).abs() <= half[1]) & (z.abs() <= half[2])
            index.masked_fill_(inside, row)
        return index

    expected = torch_loop()

    def check(_, index):
        differ = int((index != expected).sum())
        assert differ < 5, f"{differ} points are elsewhere"  # on a face, in float32
        return f"{int((index >= 0).sum())} inside, {differ} differ from torch"

    candidates = {
        "ours": lambda: points_in_boxes(xyz, offsets, boxes, box_offsets),
        "torch, box by box": torch_loop,
    }
    bench(f"points in boxes, {len(xyz)} points, {m} boxes", candidates, check)


if __name__ == "__main__":
    print(describe_machine())
    run_iou(1000, 1000)
    run_iou(4000, 100)
    run_nms(500, 0.1)
    run_nms(4096, 0.7)
    run_points(50)
    run_points(200)
