from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def deformable_attention(value: Tensor, level_shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """Level by level: `grid_sample` of all heads, then the weighted sum over the points."""
    batch, queries, heads = weights.shape[:3]
    output = value.new_zeros(batch * heads, value.shape[3], queries)
    for cells, grid, weight in zip(*_levels(value, level_shapes, locations, weights)):
        sampled = F.grid_sample(cells, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        sampled = torch.where(grid.isnan().any(-1)[:, None], torch.nan, sampled)  # (BH, D, Q, P)
        output = output + (sampled * weight[:, None]).sum(-1)
    # (BH, D, Q) -> (B, Q, HD)
    return output.unflatten(0, (batch, heads)).permute(0, 3, 1, 2).flatten(2).contiguous()


def deformable_attention_backward(
    grad_output: Tensor, value: Tensor, level_shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of `grid_sample`, level by level; a place that is NaN gives NaN to itself and its weight alone."""
    batch, _, heads = weights.shape[:3]
    # (B, Q, HD) -> (BH, D, Q)
    grad = grad_output.unflatten(2, (heads, value.shape[3])).permute(0, 2, 3, 1).flatten(0, 1)
    grad_cells, grad_locations, grad_weights = [], [], []
    for cells, grid, weight in zip(*_levels(value, level_shapes, locations, weights)):
        none = grid.isnan().any(-1)
        grid = torch.where(none[..., None], -3.0, grid)
        sampled = F.grid_sample(cells, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        of_sampled = torch.where(none[:, None], 0.0, grad[..., None] * weight[:, None])
        # 0, 0: bilinear, zeros
        of_cells, of_grid = torch.ops.aten.grid_sampler_2d_backward(of_sampled, cells, grid, 0, 0, False, [True, True])
        grad_cells.append(of_cells.flatten(2))
        grad_locations.append(torch.where(none[..., None], torch.nan, 2 * of_grid))
        grad_weights.append(torch.where(none, torch.nan, (grad[..., None] * sampled).sum(1)))

    def of_samples(gradients: list[Tensor]) -> Tensor:
        # L times (BH, Q, P, ...) -> (B, Q, H, L, P, ...)
        return torch.stack(gradients, 2).unflatten(0, (batch, heads)).transpose(1, 2).contiguous()

    # (BH, D, S) -> (B, S, H, D)
    grad_value = torch.cat(grad_cells, 2).unflatten(0, (batch, heads)).permute(0, 3, 1, 2).contiguous()
    return grad_value, of_samples(grad_locations), of_samples(grad_weights)


def _levels(
    value: Tensor, level_shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Of every level the map (BH, D, height, width), places (BH, Q, P, 2) from -1 to 1, and weights (BH, Q, P)."""
    shapes = list(zip(level_shapes[::2], level_shapes[1::2]))
    heads_first = value.permute(0, 2, 3, 1).flatten(0, 1)  # (BH, D, S)
    maps = [
        cells.unflatten(2, shape)
        for cells, shape in zip(heads_first.split([height * width for height, width in shapes], 2), shapes)
    ]
    # grid_sample gives NaN for infinite places; beyond -1 and 2 all is outside
    grid = (2 * locations.clamp(-1, 2) - 1).transpose(1, 2).flatten(0, 1)  # (BH, Q, L, P, 2)
    return maps, list(grid.unbind(2)), list(weights.transpose(1, 2).flatten(0, 1).unbind(2))
