"""Whole classifiers: inference and training steps in shapes per second, ours and the same model in plain torch.

Plain torch is what public repositories of these models do where they have no kernels: a loop over samples for farthest
point sampling, all distances and a sort for neighbours, tensors as indices for grouping. It is put into the same model
in place of our operators, so that everything else is equal, and each row says how far its results are from those of
exact distances.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
from collections.abc import Callable, Iterator
from unittest import mock

from tests.benchmarks.harness import args, bench, describe_machine, objects

# isort: split
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pctransformer import ops
from pctransformer.models import create_model, pct
from pctransformer.point_view.sampling import neighbors, sample
from pctransformer.points import PointBatch
from tests.real_data import FOLDER

POINTS = 1024


# ---- plain torch -----------------------------------------------------------------------------------------------------
def fps_loop(xyz: Tensor, offsets: Tensor, num_samples: int, *, skip_near_origin: bool = False) -> Tensor:
    """All clouds at once, one sample after the other."""
    assert not skip_near_origin
    clouds = xyz.view(len(offsets) - 1, -1, 3)
    every = torch.arange(len(clouds), device=xyz.device)
    chosen = torch.zeros(len(clouds), num_samples, dtype=torch.int64, device=xyz.device)
    nearest = torch.full(clouds.shape[:2], torch.inf, device=xyz.device)
    current = torch.zeros_like(every)
    for j in range(num_samples):
        chosen[:, j] = current
        distance = (clouds - clouds[every, current][:, None]).square().sum(-1)
        nearest = torch.minimum(nearest, distance)
        current = nearest.argmax(1)
    return (chosen + offsets[:-1, None]).flatten()


def knn_by(nearest: Callable[[Tensor, Tensor, int], Tensor]) -> Callable[..., tuple[Tensor, None]]:
    """ops.knn from a function of queries (B, M, 3), points (B, N, 3) and k; all points where there are fewer than k."""

    def knn(xyz: Tensor, offsets: Tensor, query_xyz: Tensor, query_offsets: Tensor, k: int) -> tuple[Tensor, None]:
        clouds = len(offsets) - 1
        points = xyz.view(clouds, -1, 3)
        index = nearest(query_xyz.view(clouds, -1, 3), points, min(k, points.shape[1]))
        return (index + offsets[:-1, None, None]).flatten(0, 1), None  # the models want no distances

    return knn


def exact(queries: Tensor, points: Tensor, k: int) -> Tensor:
    """Differences, not products: rounding decides nothing, and the lower of equally far points comes first."""
    return (queries[:, :, None] - points[:, None]).square().sum(-1).argsort(stable=True)[..., :k]


def layer_per_neighbor(self: pct.NeighborEmbedding, batch: PointBatch) -> PointBatch:
    """PCT's grouping as its figure 4 shows it: neighbours are put together, then comes the first layer."""
    centers, chosen = sample(batch, self.num_samples)
    index = neighbors(batch, centers, self.k)
    assert batch.features is not None
    center = batch.features[chosen][:, None].expand(-1, self.k, -1)
    grouped = torch.cat([batch.features[index] - center, center], 2)  # (M, k, 2 C)
    hidden = self.second(self.first(grouped.flatten(0, 1)))
    return centers.replace(features=hidden.view(*index.shape, -1).amax(1))


Functions = dict[tuple[object, str], Callable]
"""What replaces what: (where it is defined, its name) -> the other function."""

FPS: Functions = {(ops, "farthest_point_sample"): fps_loop}
TOPK = FPS | {(ops, "knn"): knn_by(lambda q, points, k: torch.cdist(q, points).topk(k, largest=False).indices)}
ARGSORT = FPS | {(ops, "knn"): knn_by(lambda q, points, k: torch.cdist(q, points).argsort()[..., :k])}
EXACT = FPS | {(ops, "knn"): knn_by(exact)}
INDEXING: Functions = {(ops, "gather"): lambda features, index: features[index]}
PER_NEIGHBOR: Functions = {(pct.NeighborEmbedding, "forward"): layer_per_neighbor}


def plain_torch(name: str) -> dict[str, Functions]:
    """Candidates beside ours, from what is replaced least to what public code of the model does: for Point Transformer
    that is a full sort, for PCT a layer on grouped neighbours."""
    found = {"torch FPS, topk": TOPK, "torch FPS, topk, x[index]": TOPK | INDEXING}
    if name == "point_transformer":
        return found | {"torch, like public code": ARGSORT | INDEXING}
    return found | {"torch, like public code": TOPK | PER_NEIGHBOR}


@contextlib.contextmanager
def replaced(functions: Functions) -> Iterator[None]:
    """Models call other functions meanwhile; it is an error if one of them is never called."""
    used = set()

    def watched(key: tuple[object, str], function: Callable) -> Callable:
        def call(*arguments, **options):
            used.add(key)
            return function(*arguments, **options)

        return call

    modules = [m for name, m in sys.modules.items() if name.startswith("pctransformer.") and ".ops" not in name]
    with contextlib.ExitStack() as stack:
        for (owner, name), function in functions.items():
            original = vars(owner)[name]
            call = watched((owner, name), function)
            for place in [owner, *modules] if isinstance(owner, type) else modules:
                if vars(place).get(name) is original:
                    stack.enter_context(mock.patch.object(place, name, call))
        yield
    assert used == set(functions), f"the model does not use {set(functions) - used}"


# ---- what is timed ---------------------------------------------------------------------------------------------------
def shapes(count: int, channels: int) -> Tensor:
    """(count, POINTS, channels): generated surfaces, with unit vectors for normals where there are 6 channels."""
    normals = F.normalize(torch.randn(count, POINTS, 3, generator=torch.Generator().manual_seed(0)), dim=2)
    return torch.cat([objects(POINTS, count), normals], 2)[..., :channels].contiguous().to(args.device)


def infer(model: nn.Module, points: Tensor) -> Callable[[], Tensor]:
    """Logits (B, C)."""
    model.eval()

    def call() -> Tensor:
        with torch.inference_mode():
            return model(points)

    return call


def train(model: nn.Module, points: Tensor) -> Callable[[], Tensor]:
    """One step of AdamW; gives the loss and the norm of each parameter's gradient."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    labels = torch.arange(len(points), device=points.device) % 40

    def call() -> Tensor:
        torch.manual_seed(0)  # the same drop-out for every candidate
        optimizer.zero_grad()
        loss = F.cross_entropy(model(points), labels)
        loss.backward()
        optimizer.step()
        norms = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
        return torch.stack([loss.detach(), *norms])

    return call


def run(
    case: str,
    timed: Callable[[nn.Module, Tensor], Callable[[], Tensor]],
    name: str,
    model: nn.Module,
    points: Tensor,
    expected: Tensor | None = None,
) -> None:
    """Ours and plain torch in the same rounds; `expected` are public logits, else results with exact distances."""

    def with_others(functions: Functions) -> Callable[[], Tensor]:
        call = timed(model, points)

        def others_call() -> Tensor:
            with replaced(functions):
                return call()

        return others_call

    candidates = {"ours": timed(model, points)}
    candidates |= {peer: with_others(functions) for peer, functions in plain_torch(name).items()}
    truth = functools.cache(with_others(EXACT | INDEXING) if expected is None else lambda: expected)

    def check(candidate: str, result: Tensor) -> str:
        """Ours must agree but for sums in another order; cdist rounds, and then other points may be nearest."""
        difference = ((result - truth()).abs().max() / truth().abs().max()).item()
        assert difference < 1e-4 or candidate != "ours", f"off by {difference:.0e}"
        return f"off by {difference:.0e}"

    bench(f"{case}, {len(points)} x {POINTS}", candidates, check, items=len(points))


def public_weights() -> None:
    """Point Transformer with public weights on ModelNet40: the logits that the public code gives."""
    weights = FOLDER / "checkpoints/point_transformer_modelnet40.pt"
    recorded, data = weights.with_name(f"{weights.stem}_expected.npz"), FOLDER / "modelnet40/modelnet40_subset_1024.npz"
    if not all(path.is_file() for path in (weights, recorded, data)):
        print(f"\nno public weights in {FOLDER}; PCTRANSFORMER_DATA names the folder that holds them")
        return
    rows = [0, 1, 2, 3, 4, 5, 6, 8]  # in row 7 points are equally far at a cut, where public code picks either
    points = torch.from_numpy(np.load(data)["points"][rows])
    xyz = points[..., :3] - points[..., :3].mean(1, keepdim=True)
    xyz = xyz / xyz.norm(dim=2).amax(1)[:, None, None]
    expected = torch.from_numpy(np.load(recorded)["logits"][rows])
    model = create_model("point_transformer", in_channels=6, pretrained=weights).to(args.device)
    points = torch.cat([xyz, points[..., 3:]], 2).to(args.device)
    run(
        "point_transformer with public weights, inference",
        infer, "point_transformer", model, points, expected.to(args.device),
    )  # fmt: skip


if __name__ == "__main__":
    print(describe_machine())
    for name, channels in (("pct", 3), ("pct_small", 3), ("point_transformer", 6)):
        torch.manual_seed(0)
        model = create_model(name, in_channels=channels).to(args.device)
        run(f"{name}, inference", infer, name, model, shapes(8, channels))
        run(f"{name}, training step", train, name, model, shapes(16, channels))
    public_weights()
