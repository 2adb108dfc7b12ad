"""Convolution over the occupied cells of a grid: submanifold, which keeps the cells, and strided, which thins them.

A layer here owns its weight and bias; what computes is chosen when it is called. Plain torch gathers the rows of each
tap of the kernel, multiplies them, and sums the products by output cell, in one order, so that results repeat exactly.
spconv, where it is installed, is for GPUs. Both want to know which input cell meets which output cell under which tap.
That depends on cells alone, so it is found once, and handed from layer to layer:

    rules = convs[0].rules(voxels)
    for conv in convs:  # all submanifold, of one kernel size
        voxels = conv(voxels, rules)

Source of the whole file: Graham et al., 3D semantic segmentation with submanifold sparse convolutional networks, 2018;
rule books: Graham, Sparse 3D convolutional neural networks, 2015.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pctransformer.ops import _checks, scatter
from pctransformer.voxels import Grid, VoxelBatch, cell_key, cells_of_key, offsets_of_key

Backend = Literal["auto", "torch", "spconv"]
Size = int | Sequence[int]


class Pairs(NamedTuple):
    """Which rows meet under which tap of a kernel.

    Attributes:
        source: (P,) int64 input rows, tap after tap.
        target: (P,) int64 output rows of the same pairs, ascending within a tap.
        counts: pairs of each tap, in the order of the kernel's cells z, y, x.
    """

    source: Tensor
    target: Tensor
    counts: list[int]


class Rules:
    """What a convolution of one shape has to know of the cells that it goes over.

    Made by the `rules` of a layer; every layer of the same kind, kernel size, stride and padding can use it on the same
    cells. Each backend's form of it is found when first asked for, and kept as long as this object.

    Args:
        voxels: the input cells; features do not matter.
        kernel_size: cells along z, y, x, as the other two.
        stride: None for a submanifold convolution, whose output cells are its input cells.
        padding: cells added on each side.
    """

    def __init__(
        self, voxels: VoxelBatch, kernel_size: Sequence[int], stride: Sequence[int] | None, padding: Sequence[int]
    ) -> None:
        self.kernel_size, self.stride, self.padding = tuple(kernel_size), stride and tuple(stride), tuple(padding)
        self.voxels = voxels.replace(features=voxels.features.new_empty(len(voxels.features), 0))
        self.out_grid = voxels.grid if stride is None else voxels.grid.convolved(kernel_size, stride, padding)
        self.of_spconv: dict[str, Any] = {}
        """spconv's form, by the name that its layers know it by."""

    @cached_property
    def of_torch(self) -> tuple[Pairs, VoxelBatch]:
        """Pairs of rows, and the output cells, without features."""
        if self.stride is None:
            return _submanifold_pairs(self.voxels, self.kernel_size), self.voxels
        pairs, key = _strided_pairs(self.voxels, self.out_grid, self.kernel_size, self.stride, self.padding)
        coordinates = cells_of_key(key, self.out_grid.shape)
        offsets = offsets_of_key(key, len(self.voxels), self.out_grid.shape)
        return pairs, VoxelBatch(coordinates, self.voxels.features.new_empty(len(key), 0), offsets, self.out_grid)

    def seen(self) -> Tensor:
        """(M, taps) int64: the input row that each output cell sees under each tap, -1 where there is none."""
        pairs, cells = self.of_torch
        counts = torch.tensor(pairs.counts, device=cells.device)
        tap = torch.arange(len(counts), device=cells.device).repeat_interleave(counts)
        nothing = torch.full((len(cells.coordinates), len(counts)), -1, device=cells.device)
        return nothing.index_put((pairs.target, tap), pairs.source)


class _SparseConvolution(nn.Module):
    """What both kinds share: parameters, the choice of a backend, and both backends."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size | None,
        padding: Size,
        bias: bool,
        backend: Backend,
    ) -> None:
        super().__init__()
        _checks.choice(backend, "backend", ("auto", "torch", "spconv"))
        _checks.integer(in_channels, "in_channels", 1)
        _checks.integer(out_channels, "out_channels", 1)
        self.in_channels, self.out_channels, self.backend = in_channels, out_channels, backend
        self.kernel_size = _triple(kernel_size, "kernel_size", 1)
        self.stride = None if stride is None else _triple(stride, "stride", 1)
        self.padding = _triple(padding, "padding", 0)
        self.weight = nn.Parameter(torch.empty(out_channels, *self.kernel_size, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform as torch's own convolutions: within 1 / sqrt(inputs of an output)."""
        bound = 1 / math.sqrt(self.in_channels * math.prod(self.kernel_size))
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        size = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        strided = "" if self.stride is None else f", stride={self.stride}, padding={self.padding}"
        return f"{size}{strided}, bias={self.bias is not None}, backend={self.backend!r}"

    def rules(self, voxels: VoxelBatch) -> Rules:
        """What this layer, and all of its shape, have to know of these cells."""
        return Rules(voxels, self.kernel_size, self.stride, self.padding)

    def forward(self, voxels: VoxelBatch, rules: Rules | None = None) -> VoxelBatch:
        """
        Args:
            voxels: cells with in_channels features. Half precision, under autocast too, is computed as float32.
            rules: made by `rules` of this layer, or of one of its shape, for the same cells; None: made here.

        Returns:
            the output cells, sorted as all of them are, with out_channels features.

        Raises:
            ValueError: the features have other channels, or the rules are for another kernel or other cells
                (on CUDA: for another number of cells).
            ImportError: backend="spconv" where that package is not installed.
        """
        if voxels.features.shape[1] != self.in_channels:
            raise ValueError(f"the layer takes {self.in_channels} channels, the cells have {voxels.features.shape[1]}")
        rules = self._fitting(rules, voxels) if rules is not None else self.rules(voxels)
        features = voxels.features if voxels.features.dtype == torch.float64 else voxels.features.float()
        with torch.autocast(features.device.type, enabled=False):
            if self._uses_spconv(features):
                out = self._by_spconv(features, rules)
            else:
                pairs, cells = rules.of_torch
                weight = self.weight.to(features.dtype)
                out = cells.replace(features=_Convolve.apply(features, weight, pairs, len(cells.coordinates)))
            return out if self.bias is None else out.replace(features=out.features + self.bias)

    def _fitting(self, rules: Rules, voxels: VoxelBatch) -> Rules:
        if (rules.kernel_size, rules.stride, rules.padding) != (self.kernel_size, self.stride, self.padding):
            raise ValueError(
                f"the rules are for a kernel of {rules.kernel_size}, stride {rules.stride}, padding {rules.padding};"
                f" the layer has {self.kernel_size}, {self.stride}, {self.padding}: make them with its own rules()"
            )
        known, given = rules.voxels.coordinates, voxels.coordinates
        if known.shape != given.shape or (given.device.type == "cpu" and not torch.equal(known, given)):
            raise ValueError(
                f"the rules are for {len(known)} cells, these are {len(given)} others: make new ones where cells change"
            )
        return rules

    def _uses_spconv(self, features: Tensor) -> bool:
        if not len(features) or math.prod(self.kernel_size) == 1:
            return False  # it fails without cells, and 2.3.6 reads the weights of one cell the wrong way round
        if self.backend != "auto":
            return self.backend == "spconv"
        repeatable = torch.are_deterministic_algorithms_enabled()  # spconv promises nothing
        return features.is_cuda and not repeatable and importlib.util.find_spec("spconv") is not None

    def _by_spconv(self, features: Tensor, rules: Rules) -> VoxelBatch:
        spconv = _import_spconv()
        cells = spconv.SparseConvTensor(
            features, rules.voxels.coordinates, list(rules.voxels.grid.shape), len(rules.voxels),
            indice_dict=rules.of_spconv,
        )  # fmt: skip
        algorithm = None if features.is_cuda else spconv.ConvAlgo.Native
        size = (self.in_channels, self.out_channels, self.kernel_size)
        with torch.device("meta"):  # its own weights are never used
            if self.stride is None:
                layer = spconv.SubMConv3d(*size, bias=False, indice_key="rules", algo=algorithm)
            else:
                layer = spconv.SparseConv3d(*size, self.stride, self.padding, bias=False, algo=algorithm)
        # the bias is added outside: on a CPU spconv refuses it
        out = torch.func.functional_call(layer, {"weight": self.weight}, (cells,))
        if self.stride is None:
            rules.of_spconv.update(out.indice_dict)
            return rules.voxels.replace(features=out.features)
        # its output cells are in no order, not even by cloud
        return VoxelBatch.from_coordinates(out.indices, out.features, rules.out_grid, len(rules.voxels))


class SubmanifoldConv3d(_SparseConvolution):
    """Convolution whose output cells are its input cells: what is empty stays so, and counts as zero.

        out[p] = bias + sum over offsets d of the kernel, where cell p + d is occupied, of weight[d] features[p + d]

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: cells along z, y, x, or one number for all; odd, so that there is a cell in the middle.
        bias: whether to learn a constant for each channel.
        backend: "torch"; "spconv"; or "auto": spconv on a GPU where it is installed and
            `torch.use_deterministic_algorithms` is off, else torch, which is level with it on a CPU.

    Attributes:
        weight: (out, kz, ky, kx, in), as spconv 2 has it.
        bias: (out,) or None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        *,
        bias: bool = True,
        backend: Backend = "auto",
    ) -> None:
        size = _triple(kernel_size, "kernel_size", 1)
        if any(cells % 2 == 0 for cells in size):
            raise ValueError(f"kernel_size must be odd, got {size}: an even one has no cell in the middle")
        super().__init__(in_channels, out_channels, size, None, [cells // 2 for cells in size], bias, backend)


class SparseConv3d(_SparseConvolution):
    """Convolution whose output cells are all that a kernel at an occupied cell reaches: a dense one, zeros left out.

        out[q] = bias + sum over d of weight[d] features[stride q - padding + d]

    Where the bias is not zero the two differ in the cells that are left out.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: cells along z, y, x, or one number for all.
        stride: cells from one output cell to the next, as the kernel size.
        padding: cells added on each side of the grid, as the kernel size.
        bias: as the other two of `SubmanifoldConv3d`, which also says what weight and bias are.
        backend: see there.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        *,
        stride: Size = 2,
        padding: Size = 1,
        bias: bool = True,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias, backend)


# ---- plain torch -----------------------------------------------------------------------------------------------------
class _Convolve(torch.autograd.Function):
    """Rows of each tap's inputs, times the tap's weight, summed by output row. Keeps neither rows nor products."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, pairs: Pairs, out_rows: int) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.pairs = pairs
        products = features.new_empty(len(pairs.source), weight.shape[0])
        for source, product, tap in zip(
            pairs.source.split(pairs.counts), products.split(pairs.counts), _taps(weight), strict=True
        ):
            torch.mm(features.index_select(0, source), tap.t(), out=product)
        return scatter(products, pairs.target, out_rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        features, weight = ctx.saved_tensors
        pairs = ctx.pairs
        products = features.new_empty(len(pairs.source), weight.shape[4])
        to_taps = []
        with torch.autocast(grad.device.type, enabled=False):
            for source, target, product, tap in zip(
                pairs.source.split(pairs.counts), pairs.target.split(pairs.counts), products.split(pairs.counts),
                _taps(weight), strict=True,
            ):  # fmt: skip
                of_tap = grad.index_select(0, target)
                torch.mm(of_tap, tap, out=product)
                to_taps.append(of_tap.t() @ features.index_select(0, source))
            to_features = scatter(products, pairs.source, len(features))
        return to_features, torch.stack(to_taps, 1).view_as(weight), None, None


def _taps(weight: Tensor) -> Sequence[Tensor]:
    """(out, in) for each cell of the kernel."""
    return weight.flatten(1, 3).unbind(1)


def _submanifold_pairs(voxels: VoxelBatch, kernel_size: Sequence[int]) -> Pairs:
    """Pairs of neighbours among sorted cells.

    The cells along x of a kernel's row are neighbours in the sorted keys too: one search finds the first, a walk the
    others. And who is my left neighbour has me as right one, so that half of the kernel tells the other half.
    """
    radius = [size // 2 for size in kernel_size]
    shape = [count + 2 * r for count, r in zip(voxels.grid.shape, radius)]  # no neighbour of a cell is beyond an edge
    key = cell_key(voxels.coordinates.long() + torch.tensor([0, *radius], device=voxels.device), shape)
    key_or_none = torch.nn.functional.pad(key, (0, 1), value=-1)
    own = torch.arange(len(key), device=key.device)
    taps = math.prod(kernel_size)
    pairs = {taps // 2: (own, own)}
    for tap in range(taps // 2):
        z, y, x = tap // (kernel_size[1] * kernel_size[2]), tap // kernel_size[2] % kernel_size[1], tap % kernel_size[2]
        if x == 0:
            wanted = key + ((z - radius[0]) * shape[1] + y - radius[1]) * shape[2] - radius[2]
            place = torch.searchsorted(key, wanted)
        found = key_or_none.index_select(0, place) == wanted
        target = found.nonzero()[:, 0]
        source = place.index_select(0, target)
        pairs[tap], pairs[taps - 1 - tap] = (source, target), (target, source)
        place, wanted = place + found, wanted + 1
    sources, targets = zip(*(pairs[tap] for tap in range(taps)))
    return Pairs(torch.cat(sources), torch.cat(targets), [len(source) for source in sources])


def _strided_pairs(
    voxels: VoxelBatch, out_grid: Grid, kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[Pairs, Tensor]:
    """Pairs of input and output cells, and the sorted keys of the latter."""
    batch, *places = voxels.coordinates.long().unbind(1)
    reached = []  # along each axis, for each tap: the output cell that sees a cell there, and whether there is one
    for place, count, kernel, step, pad in zip(places, out_grid.shape, kernel_size, stride, padding, strict=True):
        moved = [place + pad - tap for tap in range(kernel)]
        reached.append([(at // step, (at % step == 0) & (at >= 0) & (at < step * count)) for at in moved])
    sources, keys = [], []
    for (z, has_z), (y, has_y), (x, has_x) in itertools.product(*reached):
        source = (has_z & has_y & has_x).nonzero()[:, 0]
        sources.append(source)
        keys.append(cell_key(torch.stack([batch, z, y, x], 1).index_select(0, source), out_grid.shape))
    key, target = torch.unique(torch.cat(keys), return_inverse=True)
    return Pairs(torch.cat(sources), target, [len(source) for source in sources]), key


# ---- below the contract ----------------------------------------------------------------------------------------------
def _triple(value: Size, name: str, low: int) -> tuple[int, int, int]:
    """One number for each of z, y, x."""
    values = (value,) * 3 if isinstance(value, int) else tuple(value)
    if len(values) != 3:
        raise ValueError(f"{name} must be one number or three, along z, y and x, got {value!r}")
    for number in values:
        _checks.integer(number, name, low)
    return values


def _import_spconv() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it uses what torch and Python have renamed since
            import spconv.pytorch as spconv
    except ImportError as error:
        raise ImportError(
            'backend="spconv" needs that package: pip install "pctransformer[spconv]"; backend="torch" does without'
        ) from error
    return spconv
