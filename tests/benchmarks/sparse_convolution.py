"""Sparse convolution over the cells of a scan: ours in plain torch and, where it is installed, spconv.

spconv's numbers are those of its own layers; `SubmanifoldConv3d(backend="spconv")` calls them.
"""

from __future__ import annotations

from tests.benchmarks.harness import args, bench, describe_machine, lidar, peer

# isort: split
import torch

from pctransformer.layers.sparse_convolution import Rules, SparseConv3d, SubmanifoldConv3d
from pctransformer.points import PointBatch
from pctransformer.voxels import Grid, VoxelBatch


def run(strided: bool, in_channels: int, out_channels: int, voxels: VoxelBatch) -> None:
    conv = (SparseConv3d if strided else SubmanifoldConv3d)(
        in_channels, out_channels, 3, bias=False, backend="torch"
    ).to(args.device)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(len(voxels.coordinates), in_channels, generator=generator).to(args.device)
    voxels = voxels.replace(features=features)
    kept = conv.rules(voxels)
    expected = conv(voxels, kept)
    pairs = len(kept.of_torch[0].source)

    def ours(rules: Rules | None, backward: bool) -> torch.Tensor:
        if not backward:
            with torch.no_grad():
                return conv(voxels, rules).features
        leaf = features.clone().requires_grad_()
        out = conv(voxels.replace(features=leaf), rules).features
        torch.autograd.grad(out.square().sum(), [leaf, conv.weight])
        return out.detach()

    candidates = {
        backward: {
            "ours": lambda backward=backward: ours(None, backward),
            "ours, rules given": lambda backward=backward: ours(kept, backward),
        }
        for backward in (False, True)
    }
    if spconv := peer("spconv.pytorch"):
        kind, options = (spconv.SparseConv3d, {"stride": 2, "padding": 1}) if strided else (spconv.SubMConv3d, {})
        algorithm = spconv.ConvAlgo.Native if args.device == "cpu" else None
        # layers without a name for their rules find them anew each time
        layers = {
            name: kind(in_channels, out_channels, 3, bias=False, indice_key=key, algo=algorithm, **options)
            for name, key in {"spconv": None, "spconv, rules given": "kept"}.items()
            if not (strided and key)  # it shares those of submanifold convolutions only
        }
        known: dict = {}

        def theirs(name: str, backward: bool) -> torch.Tensor:
            leaf = features.clone().requires_grad_(backward)
            cells = spconv.SparseConvTensor(
                leaf, voxels.coordinates, list(voxels.grid.shape), len(voxels), indice_dict=known
            )
            with torch.set_grad_enabled(backward):
                out = layers[name](cells)
            known.update(out.indice_dict)
            if backward:
                torch.autograd.grad(out.features.square().sum(), [leaf, layers[name].weight])
            if not strided:
                return out.features.detach()
            return VoxelBatch.from_coordinates(out.indices, out.features.detach(), expected.grid, len(voxels)).features

        for name, layer in layers.items():
            layer.to(args.device).load_state_dict(conv.state_dict())
            for backward in candidates:
                candidates[backward][name] = lambda name=name, backward=backward: theirs(name, backward)

    def check(_, result):
        return f"differs by {(result - expected.features).abs().max():.0e} of {expected.features.abs().max():.1f}"

    layer = f"{'stride 2' if strided else 'submanifold'} {in_channels} -> {out_channels}"
    size = f"{len(voxels.coordinates)} cells, {pairs / len(expected.coordinates):.1f} pairs each"
    for backward, of_case in candidates.items():
        bench(f"{layer}, {'forward and backward' if backward else 'forward'}, {size}", of_case, check)


if __name__ == "__main__":
    print(describe_machine())
    sweep = lidar()
    ahead = sweep[sweep[:, 1].abs() < sweep[:, 0] * 0.84]  # what a camera of 80 degrees sees, as in KITTI
    grid = Grid.from_range((0, -40, -3, 70.4, 40, 1), (0.1, 0.1, 0.2))
    voxels = VoxelBatch.from_points(PointBatch.from_list([ahead]), grid).to(args.device)
    for channels in (16, 32, 64):
        run(False, channels, channels, voxels)
    for channels in (16, 32):
        run(True, channels, 2 * channels, voxels)
