"""k nearest neighbours: ours, and kd-trees and brute force of other packages where they are installed."""

from __future__ import annotations

from tests.benchmarks.harness import args, bench, describe_machine, lidar, objects, peer, room

# isort: split
import numpy as np
import torch

from pctransformer.ops import knn

BRUTE_FORCE_PAIRS = 1e8  # candidates that compare every pair are left out beyond


def peers(clouds: np.ndarray, queries: np.ndarray, k: int) -> dict:
    """Other packages, building their index for every call as ours does; each returns (M, k) rows of the first cloud."""
    found = {}
    pairs = list(zip(clouds, queries))
    if pykdtree := peer("pykdtree.kdtree"):
        found["pykdtree"] = lambda: [pykdtree.KDTree(x).query(q, k=k)[1] for x, q in pairs]
    if pynanoflann := peer("pynanoflann"):

        def nanoflann(x, q):
            tree = pynanoflann.KDTree(n_neighbors=k, metric="L2", leaf_size=10)
            tree.fit(x)
            return tree.kneighbors(q, n_jobs=args.threads)[1]

        found["pynanoflann"] = lambda: [nanoflann(x, q) for x, q in pairs]
    if spatial := peer("scipy.spatial"):
        found["scipy cKDTree"] = lambda: [spatial.cKDTree(x).query(q, k, workers=args.threads)[1] for x, q in pairs]
    if neighbors := peer("sklearn.neighbors"):

        def sklearn(x, q):
            tree = neighbors.NearestNeighbors(n_neighbors=k, algorithm="kd_tree", n_jobs=args.threads).fit(x)
            return tree.kneighbors(q, return_distance=False)

        found["sklearn kd_tree"] = lambda: [sklearn(x, q) for x, q in pairs]
    if open3d := peer("open3d"):

        def nns(x, q):
            search = open3d.core.nns.NearestNeighborSearch(open3d.core.Tensor.from_numpy(x))
            search.knn_index()
            return search.knn_search(open3d.core.Tensor.from_numpy(q), k)[0].numpy()

        found["open3d core.nns"] = lambda: [nns(x, q) for x, q in pairs]
    if cluster := peer("torch_cluster"):
        x, q = (torch.from_numpy(packed.reshape(-1, 3)) for packed in (clouds, queries))
        batch, query_batch = (torch.arange(len(dense)).repeat_interleave(dense.shape[1]) for dense in (clouds, queries))
        found["torch_cluster knn"] = lambda: (
            cluster.knn(x, q, k, batch, query_batch, num_workers=args.threads)[1].view(len(clouds), -1, k).numpy()
        )
    if clouds[0].shape[0] * queries[0].shape[0] * len(clouds) <= BRUTE_FORCE_PAIRS:
        if faiss := peer("faiss"):
            faiss.omp_set_num_threads(args.threads)
            found["faiss flat"] = lambda: [faiss.knn(q, x, k)[1] for x, q in pairs]
        dense, dense_queries = torch.from_numpy(clouds), torch.from_numpy(queries)
        found["torch cdist + topk"] = lambda: torch.cdist(dense_queries, dense).topk(k, largest=False)[1].numpy()
    return found


def run(case: str, clouds: torch.Tensor, queries: torch.Tensor, k: int) -> None:
    count, n, _ = clouds.shape
    m = queries.shape[1]
    packed, offsets = clouds.reshape(-1, 3).to(args.device), torch.arange(count + 1, device=args.device) * n
    same = queries is clouds
    query_packed = packed if same else queries.reshape(-1, 3).to(args.device)
    query_offsets = torch.arange(count + 1, device=args.device) * m
    candidates = {"ours": lambda: knn(packed, offsets, query_packed, query_offsets, k)}
    if args.device == "cpu":
        candidates |= peers(clouds.numpy(), queries.numpy(), k)
    elif clouds[0].shape[0] * queries[0].shape[0] * count <= 100 * BRUTE_FORCE_PAIRS:
        x, q = packed.view(count, n, 3), query_packed.view(count, m, 3)
        candidates["torch cdist + topk"] = lambda: torch.cdist(q, x).topk(k, largest=False)[1]
    some = torch.arange(0, m, max(1, m // 500))
    first, chosen = clouds[0].double(), queries[0, some].double()
    true = torch.cdist(chosen, first, compute_mode="donot_use_mm_for_euclid_dist").topk(k, largest=False).values

    def farther(name, result):
        """How much farther than the true j-th neighbour the found one is, at most, over 500 queries of one cloud."""
        index = torch.as_tensor(np.asarray(result[0][:m].cpu() if name == "ours" else result[0]).astype(np.int64))
        distance = (first[index.view(m, k)[some]] - chosen[:, None]).norm(dim=-1)
        return f"farther by at most {(distance - true).max():.0e}"

    bench(f"{case} k={k}", candidates, farther)


if __name__ == "__main__":
    print(describe_machine())
    shapes = objects(1024, 8)
    for k in (16, 32):
        run("kNN 8 x 1024, 512 queries", shapes, shapes[:, ::2].contiguous(), k)
    run("kNN 8 x 1024 among themselves", shapes, shapes, 20)
    small, scene = room(8192, 1)[None], room(16384)[None]
    run("kNN 8192 among themselves", small, small, 16)
    quarter = scene[:, ::4].contiguous()
    for k in (16, 32):
        run("kNN 16384, 4096 queries", scene, quarter, k)
    run("3 nearest of 4096, 16384 queries", quarter, scene, 3)
    sweep = lidar()[None]
    chosen = sweep[:, np.sort(np.random.default_rng(1).permutation(sweep.shape[1])[:16384])]
    for k in (16, 32):
        run("kNN LiDAR 120000, 16384 queries", sweep, chosen, k)
    run("kNN LiDAR 120000 among themselves", sweep, sweep, 16)
