"""Ball query: ours, and peers where they are installed.

Same rows (the first k in index order): a numba loop with early exit, SciPy's query_ball_point cut to k, torch.cdist and
a sort. Other rows: torch-cluster's radius (any k), SciPy's query with an upper bound and Open3D's hybrid search (the k
nearest), Open3D's fixed-radius search (all).
"""

from __future__ import annotations

from tests.benchmarks.harness import args, bench, describe_machine, lidar, objects, peer, room

# isort: split
import numpy as np
import torch

from pctransformer.ops import ball_query


def numba_loop():
    numba = peer("numba")
    if numba is None:
        return None

    @numba.njit(fastmath=True)
    def search(points, queries, squared_radius, k):
        index = np.full((len(queries), k), -1, np.int64)
        for i in range(len(queries)):
            found = 0
            for j in range(len(points)):
                a, b, c = points[j, 0] - queries[i, 0], points[j, 1] - queries[i, 1], points[j, 2] - queries[i, 2]
                if a * a + b * b + c * c < squared_radius:
                    index[i, found] = j
                    found += 1
                    if found == k:
                        break
        return index

    search(np.zeros((4, 3), np.float32), np.zeros((2, 3), np.float32), np.float32(1), 2)
    return search


def literal_loop(points, queries, radius, k):
    """(rows, neighbours in the ball) of every query, in plain numpy."""
    rows, counts = np.full((len(queries), k), -1, np.int64), np.zeros(len(queries), np.int64)
    squared_radius = np.float32(radius) * np.float32(radius)
    for i, query in enumerate(queries):
        d = points - query
        inside = np.flatnonzero((d[:, 0] * d[:, 0] + d[:, 1] * d[:, 1]) + d[:, 2] * d[:, 2] < squared_radius)
        rows[i, : min(k, len(inside))] = inside[:k]
        counts[i] = len(inside)
    return rows, counts


def run(case: str, clouds: torch.Tensor, queries: torch.Tensor, radius: float, k: int) -> None:
    count, n, _ = clouds.shape
    m = queries.shape[1]
    arrays, query_arrays = list(clouds.numpy()), list(queries.numpy())
    packed, packed_queries = clouds.reshape(-1, 3).to(args.device), queries.reshape(-1, 3).to(args.device)
    offsets = torch.arange(count + 1, device=args.device) * n
    query_offsets = torch.arange(count + 1, device=args.device) * m
    both = list(zip(arrays, query_arrays))
    candidates = {"ours": lambda: ball_query(packed, offsets, packed_queries, query_offsets, radius, k)}

    def torch_sort():
        results = []
        for x, q in zip(clouds.to(args.device), queries.to(args.device)):
            rows = torch.arange(n, device=args.device).repeat(m, 1).masked_fill_(torch.cdist(q, x) >= radius, n)
            results.append(rows.sort(1).values[:, :k])
        return torch.cat(results)

    if n * m <= 1 << 20:
        candidates["torch cdist + sort"] = torch_sort
    if args.device == "cpu":
        add_cpu_peers(candidates, clouds, queries, both, radius, k)

    literal, counts = literal_loop(arrays[0], query_arrays[0][:500], radius, k)

    def check(name, result):
        """Rows of the first 500 queries that equal the literal loop; ours must all."""
        if name.endswith((", any k", ", k nearest", ", all")):
            return "other rows"
        rows = np.asarray((result[0] if isinstance(result, list) else result)[:500].cpu())
        share = (np.where(rows >= n, -1, rows) == literal).all(1).mean()
        assert share == 1 or not name.startswith("ours"), f"only {share:.3f} of the rows are right"
        return f"{share:.3f} of rows right"

    inside = f"{counts.mean():.0f} in a ball, {100 * (counts > k).mean():.0f} % cut off"
    bench(f"{case} radius {radius} k {k} ({inside})", candidates, check)


def add_cpu_peers(candidates, clouds, queries, both, radius, k):
    count, n, _ = clouds.shape
    m = queries.shape[1]
    if loop := numba_loop():
        squared = np.float32(radius) * np.float32(radius)
        candidates["numba loop"] = lambda: [torch.from_numpy(loop(x, q, squared, k)) for x, q in both]
    if spatial := peer("scipy.spatial"):

        def first_rows(tree, q):
            rows = torch.full((m, k), -1)
            for i, found in enumerate(tree.query_ball_point(q, radius, workers=args.threads, return_sorted=True)):
                rows[i, : min(k, len(found))] = torch.tensor(found[:k])
            return rows

        candidates["scipy query_ball_point + first k"] = lambda: [first_rows(spatial.cKDTree(x), q) for x, q in both]
        candidates["scipy query, k nearest"] = lambda: [
            spatial.cKDTree(x).query(q, k, distance_upper_bound=radius, workers=args.threads) for x, q in both
        ]
    if cluster := peer("torch_cluster"):
        x, batch = clouds.reshape(-1, 3), torch.arange(count).repeat_interleave(n)
        q, query_batch = queries.reshape(-1, 3), torch.arange(count).repeat_interleave(m)
        candidates["torch_cluster radius, any k"] = lambda: cluster.radius(
            x, q, radius, batch, query_batch, max_num_neighbors=k, num_workers=args.threads
        )
    if open3d := peer("open3d"):
        tensor = open3d.core.Tensor.from_numpy

        def open3d_search(x, q, all_of_them):
            search = open3d.core.nns.NearestNeighborSearch(tensor(x))
            if all_of_them:
                search.fixed_radius_index(radius)
                return search.fixed_radius_search(tensor(q), radius)
            search.hybrid_index(radius)
            return search.hybrid_search(tensor(q), radius, k)

        candidates["open3d hybrid, k nearest"] = lambda: [open3d_search(x, q, False) for x, q in both]
        candidates["open3d fixed radius, all"] = lambda: [open3d_search(x, q, True) for x, q in both]


if __name__ == "__main__":
    print(describe_machine())
    shapes, indoor, sweep = objects(1024, 8), room(16384)[None], lidar()[None]
    subset = np.sort(np.random.default_rng(1).permutation(sweep.shape[1])[:16384])
    for k in (32, 64):
        run("ball query 8 x 1024/512", shapes, shapes[:, ::2].contiguous(), 0.2, k)
    for k in (32, 64):
        run("ball query 16384/4096", indoor, indoor[:, ::4].contiguous(), 0.1, k)
    for k in (32, 64):
        run("ball query LiDAR 120000/16384", sweep, sweep[:, subset].contiguous(), 0.8, k)
