"""What every grid mixer does the same way: check what it is given."""

from __future__ import annotations

from torch import Tensor, nn


class GridMixer(nn.Module):
    """A layer in which the cells of a map see each other.

    Subclasses write `mix`.

    Args:
        dim: channels C, the same in and out.
        size: (H, W), where weights belong to rows and columns; None where any size will do.
    """

    def __init__(self, dim: int, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.dim, self.size = dim, size

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) from (B, H, W, C).

        Raises:
            ValueError: the map has other channels than the mixer, or another size than it was built for.
        """
        name = type(self).__name__
        if x.dim() != 4 or x.shape[3] != self.dim:
            raise ValueError(
                f"{name} takes maps (B, H, W, {self.dim}), got {tuple(x.shape)}; channels come last:"
                " x.permute(0, 2, 3, 1) makes such a map of (B, C, H, W)"
            )
        if self.size not in (None, tuple(x.shape[1:3])):
            raise ValueError(
                f"{name} has weights for {self.size} rows and columns, got a map of {tuple(x.shape[1:3])}; make it"
                f" with size={tuple(x.shape[1:3])}, or give it maps of its size"
            )
        return self.mix(x) if x.numel() else x

    def mix(self, x: Tensor) -> Tensor:
        """(B, H, W, C) from (B, H, W, C) without empty axes."""
        raise NotImplementedError


class ChannelsFirst(nn.Module):
    """A layer for (B, C, H, W), as convolutions are, on a map (B, H, W, C). Nothing is copied for it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x.permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1)
