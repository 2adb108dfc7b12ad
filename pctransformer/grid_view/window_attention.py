"""Attention inside windows of occupied cells: which cells share a window, the attention among them, and its block.

A grid is cut into equal boxes of cells, the windows. In the next layer they lie half a window further, so that a border
in one is none in the other. Which cells share a window depends on cells alone, so it is found once, by one stable sort,
and handed from layer to layer:

    windows = layers[0].windows(voxels)
    for layer in layers:  # all of one window size, all regular or all shifted
        x = layer(x, windows)

Every cell sees every cell of its window, however many there are. Public systems bound that: SST sorts windows into
buckets, pads each window to its bucket's size, and in training drops what the largest does not hold; FlatFormer cuts
the sequence of all windows into groups of equal size, wherever windows end; DSVT cuts each window into sets of equal
size, filled up with repetitions. Here a window is as long as it is, and nothing is dropped, cut or padded. Its time
grows with the square of its cells, its memory does not.

Source of the whole file: Liu et al., Swin Transformer, 2021, section 3.2, over the cells that Fan et al., Embracing
single stride 3D object detector with sparse transformer (SST), 2022, attend among.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from pctransformer.layers.mlp import MLP
from pctransformer.layers.position import WindowBias
from pctransformer.layers.recording import RecordedAttention
from pctransformer.layers.residual import Residual
from pctransformer.layers.sparse_convolution import Rules, SubmanifoldConv3d
from pctransformer.ops import _checks, gather, ragged_attention
from pctransformer.points import pad_packed, padded_rows, unpad
from pctransformer.voxels import VoxelBatch, cell_key

Size = tuple[int, int, int]
"""Cells along z, y, x."""


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """The occupied cells of a batch, window after window.

    Attributes:
        size: cells of a window along z, y, x.
        shifted: whether windows lie half a window further.
        order: (M,) int64 rows of the cells, sorted by cloud, then by window along z, y, x; in a window as in the batch.
        inverse: (M,) int64 place of each cell in that order.
        offsets: (W + 1,) int64: window w is order[offsets[w]:offsets[w + 1]]. Windows without a cell are left out.
        places: (M, 3) int32 z, y, x of each cell in its window, 0 <= places < size, in that order.
    """

    size: Size
    shifted: bool
    order: Tensor
    inverse: Tensor
    offsets: Tensor
    places: Tensor


def find_windows(voxels: VoxelBatch, size: Size, *, shifted: bool = False) -> Windows:
    """Cut a grid into windows.

    Regular windows begin at the grid's lowest corner, shifted ones half a window, rounded down, before it. Those that
    reach over the grid's border hold fewer cells; nothing is rolled around. Along an axis on which one window covers
    the grid there is nothing to shift: as in Swin both partitions are the same there. On CUDA this waits for the
    device, which knows how many windows there are.

    Args:
        voxels: the cells; features do not matter.
        size: cells of a window along z, y, x.
        shifted: which of the two partitions.
    """
    shape = voxels.grid.shape
    shift = [cells // 2 if shifted and count > cells else 0 for cells, count in zip(size, shape)]
    windows_along = [math.ceil((count + begin) / cells) for cells, count, begin in zip(size, shape, shift)]
    cells = voxels.coordinates.new_tensor(size)
    moved = voxels.coordinates[:, 1:] + voxels.coordinates.new_tensor(shift)
    window = torch.cat([voxels.coordinates[:, :1], moved // cells], 1).long()
    key, order = cell_key(window, windows_along).sort(stable=True)
    _, counts = torch.unique_consecutive(key, return_counts=True)
    return Windows(
        size=size,
        shifted=shifted,
        order=order,
        inverse=torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device)),
        offsets=functional.pad(counts.cumsum(0), (1, 0)),
        places=(moved % cells).index_select(0, order),
    )


class WindowAttention(RecordedAttention):
    """Multi-head attention of cells to those in their window, with a bias for where both are in it.

    The bias is learned for each head and each difference of places. A layer knows one of the two partitions, so regular
    and shifted windows never share a table. (In DSVT's code shifted windows read the wrong one, its issue 50.)

    There is no dropout of attention: Mao et al., Voxel Transformer, 2021, found that it costs precision.

    Args:
        dim: channels, a multiple of num_heads.
        num_heads: H.
        size: cells of a window along z, y, x.
        shifted: whether the windows lie half a window further.

    Attributes:
        bias: its `table` is (H, 2 size_z - 1, 2 size_y - 1, 2 size_x - 1).
    """

    def __init__(self, dim: int, num_heads: int, size: Size, *, shifted: bool = False) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got {dim} channels for {num_heads} heads")
        if len(size) != 3:
            raise ValueError(f"a window has three sizes, cells along z, y and x; got {size!r}")
        for cells in size:
            _checks.integer(cells, "size", 1)
        self.num_heads, self.size, self.shifted = num_heads, size, shifted
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.bias = WindowBias(num_heads, size)

    def windows(self, voxels: VoxelBatch) -> Windows:
        """What this layer, and all of its window size and partition, have to know of these cells."""
        return find_windows(voxels, self.size, shifted=self.shifted)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """
        Args:
            x: (M, C) features of cells.
            windows: of these cells, made by `windows` of this layer or of one alike.

        Returns:
            (M, C), rows as in x.

        Raises:
            ValueError: the windows are of another size, the other partition, or other cells.
        """
        self._check(x, windows)
        along = gather(x, windows.order)  # (M, C) window after window
        query, key, value = self.qkv(along).unflatten(1, (3, self.num_heads, -1)).unbind(1)  # (M, H, D)
        if self.is_recorded:
            heads = self._explicit(query, key, value, windows)
        else:
            heads = ragged_attention(
                query, key, value, windows.offsets, windows.offsets, bias_table=self.bias.table,
                query_coordinates=windows.places, key_coordinates=windows.places,
            )  # fmt: skip
        return gather(self.proj(heads.flatten(1)), windows.inverse)

    def _explicit(self, query: Tensor, key: Tensor, value: Tensor, windows: Windows) -> Tensor:
        """The same, (M, H, D), by weights that are handed over: windows side by side, filled up to the longest."""
        rows = padded_rows(windows.offsets)  # (W, L)
        query, key, value = (pad_packed(of, rows).transpose(1, 2) for of in (query, key, value))  # (W, H, L, D)
        places = pad_packed(windows.places, rows)
        scores = query @ key.mT / math.sqrt(query.shape[-1]) + self.bias(places, places)
        weights = scores.masked_fill((rows < 0)[:, None, None], -torch.inf).softmax(-1)
        cells = gather(windows.order[:, None], rows)[..., 0].masked_fill(rows < 0, -1)
        self.record(weights, query_index=cells, key_index=cells)
        return unpad((weights @ value).transpose(1, 2), rows)

    def _check(self, x: Tensor, windows: Windows) -> None:
        if (windows.size, windows.shifted) != (self.size, self.shifted):
            kinds = [f"{'shifted' if of.shifted else 'regular'} windows of {of.size}" for of in (windows, self)]
            raise ValueError(f"these are {kinds[0]}, the layer is for {kinds[1]}: make them with its own windows()")
        if len(windows.order) != len(x):
            raise ValueError(
                f"the windows are of {len(windows.order)} cells, these are {len(x)}: make new ones where cells change"
            )

    def extra_repr(self) -> str:
        return f"heads={self.num_heads}, size={self.size}, shifted={self.shifted}"


class CellDescriptor(nn.Module):
    """What a submanifold convolution says of each cell's surroundings: convolution, LayerNorm, GELU.

    Args:
        dim: channels.
        kernel_size: cells along z, y, x; odd.

    Source: Liu et al., LION, 2024, the 3D spatial feature descriptor.
    """

    def __init__(self, dim: int, kernel_size: Size) -> None:
        super().__init__()
        self.conv = SubmanifoldConv3d(dim, dim, kernel_size, bias=False)
        self.norm = nn.LayerNorm(dim)

    def forward(self, voxels: VoxelBatch, rules: Rules | None = None) -> Tensor:
        """(M, C) of cells with features (M, C); rules are those of the convolution."""
        return functional.gelu(self.norm(self.conv(voxels, rules).features))


class WindowBlock(nn.Module):
    """A convolution where there is one, attention inside windows, a perceptron: each adds something to the cells.

        x = x + descriptor(x),   x = x + attention(LN(x)),   x = x + MLP(LN(x))

    Args:
        dim: channels, a multiple of num_heads.
        num_heads: heads.
        size: cells of a window along z, y, x.
        shifted: see `WindowAttention`.
        hidden_dim: channels inside the perceptron.
        descriptor: tells cells of those around them, across windows; None: there is none.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        size: Size,
        *,
        shifted: bool,
        hidden_dim: int,
        descriptor: CellDescriptor | None = None,
    ) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.attention = WindowAttention(dim, num_heads, size, shifted=shifted)
        self.mlp = MLP(dim, hidden_dim)
        self.attention_residual = Residual(nn.LayerNorm(dim))
        self.mlp_residual = Residual(nn.LayerNorm(dim))

    def forward(self, voxels: VoxelBatch, windows: Windows, rules: Rules | None = None) -> VoxelBatch:
        """
        Args:
            voxels: cells with features (M, C).
            windows: of these cells, as the attention wants them.
            rules: of these cells, as the convolution wants them; None: found here, if there is one.
        """
        x = voxels.features
        if self.descriptor is not None:
            x = x + self.descriptor(voxels, rules)
        x = self.attention_residual(x, lambda x: self.attention(x, windows))
        return voxels.replace(features=self.mlp_residual(x, self.mlp))
