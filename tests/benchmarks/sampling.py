"""Farthest point sampling: ours, and fpsample, Open3D, torch-cluster and a numba loop where they are installed."""

from __future__ import annotations

from tests.benchmarks.harness import args, bench, describe_machine, lidar, objects, peer, room

# isort: split
import numpy as np
import torch

from pctransformer.ops import farthest_point_sample

CHECKED = 1000
"""Samples of the first cloud whose choice is checked."""


def numba_loop():
    numba = peer("numba")
    if numba is None:
        return None

    @numba.njit(fastmath=True)
    def sample(points, m):
        nearest = np.full(len(points), np.float32(np.inf))
        chosen = np.empty(m, np.int64)
        current = 0
        for j in range(m):
            chosen[j] = current
            x, y, z = points[current]
            best = np.float32(-1)
            for i in range(len(points)):
                a, b, c = points[i, 0] - x, points[i, 1] - y, points[i, 2] - z
                nearest[i] = min(nearest[i], a * a + b * b + c * c)
                if nearest[i] > best:
                    best, current = nearest[i], i
        return chosen

    sample(np.zeros((4, 3), np.float32), 2)
    return sample


def run(case: str, clouds: torch.Tensor, m: int) -> None:
    count, n, _ = clouds.shape
    arrays = list(clouds.numpy())
    packed = clouds.reshape(-1, 3).to(args.device)
    offsets = torch.arange(count + 1, device=args.device) * n
    candidates = {"ours": lambda: farthest_point_sample(packed, offsets, m).view(count, m)}
    if args.device == "cpu":
        if fpsample := peer("fpsample"):
            height = 3 if n < 5000 else 5 if n < 50_000 else 7
            candidates["fpsample fps"] = lambda: [fpsample.fps_sampling(x, m, start_idx=0) for x in arrays]
            candidates[f"fpsample bucket kdline h={height}"] = lambda: [
                fpsample.bucket_fps_kdline_sampling(x, m, h=height, start_idx=0) for x in arrays
            ]
        if cluster := peer("torch_cluster"):
            batch = torch.arange(count).repeat_interleave(n)
            candidates["torch_cluster fps"] = lambda: cluster.fps(packed, batch, ratio=m / n, random_start=False)
        if (open3d := peer("open3d")) and n < 50_000:
            candidates["open3d"] = lambda: [
                open3d.geometry.PointCloud(open3d.utility.Vector3dVector(x)).farthest_point_down_sample(m)
                for x in arrays
            ]
        if loop := numba_loop():
            candidates["numba loop"] = lambda: [loop(x, m) for x in arrays]

    def exact(name, result):
        """How much nearer than the farthest point a candidate chose, at most: 0 is greedy sampling."""
        if name.startswith("open3d"):
            return "returns points, not rows"
        rows = torch.as_tensor(np.asarray(result[0] if isinstance(result, list) else result.reshape(-1)[:m].cpu()))
        nearest, shortfall = torch.full((n,), torch.inf), 0.0
        for row in rows[:CHECKED].long().tolist():
            if nearest[row] < nearest.max():
                shortfall = max(shortfall, 1 - (nearest[row] / nearest.max()).sqrt().item())
            nearest = torch.minimum(nearest, (clouds[0] - clouds[0, row]).square().sum(1))
        return f"starts at {int(rows[0])}, shortfall {shortfall:.0e}"

    bench(case, candidates, exact)


if __name__ == "__main__":
    print(describe_machine())
    run("FPS 8 x 1024 -> 512", objects(1024, 8), 512)
    run("FPS 8 x 2048 -> 512", objects(2048, 8), 512)
    run("FPS 8192 -> 2048", room(8192)[None], 2048)
    run("FPS 16384 -> 4096", room(16384)[None], 4096)
    sweep = lidar()[None]
    run("FPS LiDAR 120000 -> 2048", sweep, 2048)
    run("FPS LiDAR 120000 -> 16384", sweep, 16384)
