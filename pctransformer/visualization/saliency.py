"""What matters at tokens and points without any attention: gradients, and features compared with each other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pctransformer.ops import interpolate

_ROUNDING = 1e-5
"""What is smaller than this share of the largest of its kind is taken for rounding of float32, and for nothing."""


def grad_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """How much tokens speak for a score: their channels, weighted by the mean gradient of the score by each channel.

        a = mean over tokens of dscore / dF,   map = relu(F a)

    Args:
        features: (T, C) tokens F.
        gradient: (T, C) of the score by them.

    Returns:
        (T,), at least 0.

    Source: Selvaraju et al., Grad-CAM, 2017, arXiv:1610.02391, equations 1 and 2.
    """
    return (features @ gradient.mean(0)).relu()


def input_gradient(gradient: Tensor) -> Tensor:
    """(N,) how fast a score changes with each point: the length of its gradient (N, C) by the point's channels.

    Source: Simonyan, Vedaldi, Zisserman, Deep inside convolutional networks, 2014, arXiv:1312.6034, section 3; they
    take the largest of the three channels of a pixel.
    """
    return gradient.norm(dim=1)


def cosine_similarity(features: Tensor, row: int) -> Tensor:
    """(T,) in [-1, 1]: cosine between the features (T, C) of each token and those of one; 0 for one without features.

    Features a hundred thousandth as long as the longest count as none: they have a direction by rounding alone.
    """
    length = features.norm(dim=1)
    cosine = functional.cosine_similarity(features, features[row], dim=1)
    return torch.where(length > _ROUNDING * length.max(), cosine, 0)


def principal_components(features: Tensor, count: int = 3) -> Tensor:
    """(T, count) what tokens have of the directions along which the features (T, C) of all of them differ most.

    The largest in magnitude of each component is positive. Components that there are not, since features differ in
    fewer directions, are 0: what is less than a hundred thousandth of the features themselves is rounding.

    Source: Oquab et al., DINOv2, 2023, arXiv:2304.07193, figure 1, who show three components as colours.
    """
    features = features.double()
    centred = features - features.mean(0)
    variance, directions = torch.linalg.eigh(centred.T @ centred)  # (C,) rising, (C, C)
    least = (_ROUNDING * features.norm()).square()
    found = centred @ torch.where(variance > least, directions, 0).flip(1)[:, :count]
    largest = found.gather(0, found.abs().argmax(0, keepdim=True))
    found = torch.where(largest < 0, -found, found).float()
    return functional.pad(found, (0, count - found.shape[1]))


def to_points(values: Tensor, token_xyz: Tensor, xyz: Tensor) -> Tensor:
    """(N, k) at points (N, 3) from values (T, k) at tokens (T, 3): means of the three nearest by inverse distance."""
    of_tokens = torch.tensor([0, len(token_xyz)], device=xyz.device)
    of_points = torch.tensor([0, len(xyz)], device=xyz.device)
    return interpolate(token_xyz.contiguous(), of_tokens, values.contiguous(), xyz.contiguous(), of_points)
