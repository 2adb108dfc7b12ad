"""Grouping: ours, and what people compose from torch and a kd-tree: index_select, cat, embedding_bag."""

from __future__ import annotations

from tests.benchmarks.harness import args, bench, describe_machine, objects, peer, room

# isort: split
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pctransformer.ops import gather, group, interpolate

WEIGHTED_GATHER = torch.ops.pctransformer.weighted_gather


def nearest(xyz: Tensor, queries: int, k: int) -> Tensor:
    """(B, queries, k) the nearest points of each of the first `queries`, cloud by cloud."""
    return torch.stack([torch.cdist(cloud[:queries], cloud).topk(k, largest=False).indices for cloud in xyz])


def run(case: str, features: Tensor, functions: dict[str, Callable[[Tensor], Tensor]]) -> None:
    """Time functions of features, forward, and forward with backward of one fixed gradient."""

    def compare(expected: Tensor) -> Callable[[str, Tensor], str]:
        return lambda _, result: f"max difference {(result.detach() - expected).abs().max():.1e}"

    expected = functions["ours"](features)
    bench(f"{case}, forward", {k: partial(f, features) for k, f in functions.items()}, compare(expected))
    leaf, grad = features.detach().requires_grad_(), torch.rand_like(expected)

    def step(function: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.autograd.grad(function(leaf), leaf, grad)[0]

    steps = {k: partial(step, f) for k, f in functions.items()}
    bench(f"{case}, forward + backward", steps, compare(steps["ours"]()))


def neighbourhoods(clouds: Tensor, queries: int, k: int, columns: int) -> None:
    """Gather and group: k neighbours of the first points of each cloud, as if they had been sampled."""
    count, n, _ = clouds.shape
    first_row = torch.arange(count) * n
    index = (nearest(clouds, queries, k) + first_row.view(-1, 1, 1)).flatten(0, 1).to(args.device)
    xyz = clouds.reshape(-1, 3).to(args.device)
    query_xyz = clouds[:, :queries].reshape(-1, 3).to(args.device)
    features = torch.randn(len(xyz), columns, device=args.device)
    flat = index.view(-1)
    shape = f"B{count} N{n} M{queries} k{k} C{columns}"
    run(
        f"gather {shape}",
        features,
        {
            "ours": lambda features: gather(features, index),
            "torch index_select": lambda features: features.index_select(0, flat).view(*index.shape, -1),
            "torch features[index]": lambda features: features[index],
        },
    )

    def composed(features):
        relative = xyz.index_select(0, flat).view(*index.shape, 3) - query_xyz[:, None]
        return torch.cat([relative, features.index_select(0, flat).view(*index.shape, -1)], -1)

    run(
        f"group {shape}",
        features,
        {"ours": lambda features: group(xyz, query_xyz, index, features), "torch index_select, cat": composed},
    )


def interpolation(known: int, queries: int, columns: int) -> None:
    """The weighted sum of three nearest rows that interpolation ends with."""
    cloud = room(queries)
    distance, index = (x.to(args.device) for x in torch.cdist(cloud, cloud[:known]).topk(3, largest=False))
    weight = 1 / (distance + 1e-8)
    weight = weight / weight.sum(1, keepdim=True)
    features = torch.randn(known, columns, device=args.device)

    def embedding_bag(features):
        return torch.nn.functional.embedding_bag(index, features, per_sample_weights=weight, mode="sum")

    run(
        f"weighted gather {known} -> {queries} k3 C{columns}",
        features,
        {
            "ours": lambda features: WEIGHTED_GATHER(features, index, weight),
            "torch embedding_bag": embedding_bag,
            "torch features[index]": lambda features: (features[index] * weight[..., None]).sum(1),
        },
    )

    def weighted(features, distance, index):
        weight = 1 / (distance + 1e-8)
        weight = weight / weight.sum(1, keepdim=True)
        return torch.nn.functional.embedding_bag(index, features, per_sample_weights=weight, mode="sum")

    def by_kd_tree(features):
        distance, index = kd_tree.KDTree(cloud[:known].numpy()).query(cloud.numpy(), k=3)
        return weighted(features, torch.from_numpy(distance), torch.from_numpy(index.astype("int64")))

    xyz, offsets = cloud[:known].to(args.device), torch.tensor([0, known], device=args.device)
    query_xyz, query_offsets = cloud.to(args.device), torch.tensor([0, queries], device=args.device)
    functions = {
        "ours": lambda features: interpolate(xyz, offsets, features, query_xyz, query_offsets),
        "torch cdist, topk, embedding_bag": lambda features: weighted(
            features, *torch.cdist(query_xyz, xyz).topk(3, largest=False)
        ),
    }
    if args.device == "cpu" and (kd_tree := peer("pykdtree.kdtree")):
        functions["pykdtree, embedding_bag"] = by_kd_tree
    run(f"interpolate {known} -> {queries} k3 C{columns}", features, functions)


if __name__ == "__main__":
    print(describe_machine())
    neighbourhoods(objects(1024, 8), 512, 32, 64)
    neighbourhoods(room(16384)[None], 4096, 32, 64)
    interpolation(4096, 16384, 128)
