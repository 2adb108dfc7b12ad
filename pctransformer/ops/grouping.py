"""Bringing features to where they are needed: rows by index, neighbourhoods of queries, interpolation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pctransformer.ops import _checks, _library
from pctransformer.ops.knn import knn
from pctransformer.ops.segments import _segment_sum, _sort_index


def gather(features: Tensor, index: Tensor) -> Tensor:
    """Take rows of features by index; zeros where the index is -1.

    The gradient of a row is the sum over all places it went to, half precision summed in float32: on CPU in the order
    of these places, whatever the number of threads; on CUDA in an order that varies from run to run unless
    `torch.use_deterministic_algorithms(True)` is set. Rows are copied, under autocast too, and NaN with them. Use
    `group` for neighbourhoods with relative coordinates: it writes both at once. Twice differentiable.

    Args:
        features: (N, C) of any type; floating types have gradients.
        index: (...) int64, at least one axis, rows of features or -1.

    Returns:
        (..., C): row [i] is features[index[i]], or 0 where index[i] is -1.

    Raises:
        ValueError: features are not (N, C), on CPU: an index outside [-1, N). On CUDA such an index counts as -1.
        TypeError: index is not int64.
    """
    _check_features(features)
    _checks.index(index, features)
    if index.dim() == 0:
        raise ValueError("index must have at least one axis, got a single number; use index[None]")
    rows = _library.call(_gather, features.contiguous(), index.reshape(-1).contiguous())
    return rows.view(*index.shape, features.shape[1])


def group(
    xyz: Tensor, query_xyz: Tensor, index: Tensor, features: Tensor | None = None, *, radius: float | None = None
) -> Tensor:
    """Gather each query's neighbourhood: coordinates relative to the query, then features, in one pass.

    PointNet++'s "query and group". With a radius, relative coordinates are divided by it, as PointNeXt does. Values are
    not checked: NaN goes where the index takes it. Gradients go to xyz, query_xyz and features, summed as those of
    `gather`. Half-precision features give a half-precision result; coordinates are subtracted in float32 before that.
    Twice differentiable.

    Args:
        xyz: points, packed (N, 3) float32, metres.
        query_xyz: centres of the neighbourhoods, packed (M, 3).
        index: (M, k) int64, rows of xyz, or -1 for none: what `knn` and `ball_query` return.
        features: (N, C) of the points, or None for coordinates alone.
        radius: what relative coordinates are divided by, metres; None leaves them in metres.

    Returns:
        (M, k, 3 + C): row [m, j] is (xyz[n] - query_xyz[m]) / radius and then features[n], with n = index[m, j]; zeros
        where n is -1. Of the type of features.

    Raises:
        ValueError: shapes do not fit, radius is not positive, on CPU: an index outside [-1, N). On CUDA such an index
            counts as -1.
        TypeError: coordinates are not float32, index is not int64.

    Source: Qi et al., PointNet++, 2017, section 3.2; Qian et al., PointNeXt, 2022, equation 3.
    """
    _checks.xyz(xyz)
    _checks.xyz(query_xyz, "query_xyz")
    _checks.same_device(query_xyz, "query_xyz", xyz, "xyz")
    _checks.index(index, xyz, like_name="xyz")
    if index.dim() != 2 or index.shape[0] != query_xyz.shape[0]:
        raise ValueError(f"index must be (M, k) for {query_xyz.shape[0]} queries, got shape {tuple(index.shape)}")
    if features is not None:
        _check_point_features(features, xyz)
        features = features.contiguous()
    if radius is not None and not radius > 0:
        raise ValueError(f"radius must be positive, got {radius}")
    # coordinates that autocast made half by themselves are brought back
    xyz, query_xyz = xyz.float().contiguous(), query_xyz.float().contiguous()
    return _library.call(_group, xyz, query_xyz, index.contiguous(), features, 1.0 if radius is None else float(radius))


def interpolate(
    xyz: Tensor,
    offsets: Tensor,
    features: Tensor,
    query_xyz: Tensor,
    query_offsets: Tensor,
    *,
    k: int = 3,
    power: Literal[1, 2] = 1,
) -> Tensor:
    """Carry features from points to queries: the mean of the k nearest points, weighted by inverse distance.

    PointNet++'s "feature propagation". A query on a point gets, to float precision, that point's features; a query
    whose cloud has fewer than k points takes those there are, and zeros from an empty cloud. `power` follows the two
    families of public code, whose results differ. Gradients go to features and, through the weights, to both
    coordinates; where a distance is 0 its gradient is taken as 0. Under autocast features keep their type, coordinates
    are float32.

    Args:
        xyz: points with features, packed (N, 3) float32, metres.
        offsets: (B + 1,) int64, cloud b is rows offsets[b]:offsets[b + 1].
        features: (N, C) of the points.
        query_xyz: where features are wanted, packed (M, 3).
        query_offsets: (B + 1,) int64.
        k: points per query.
        power: 1 weights by 1 / (d + 1e-8), d the Euclidean distance, as pointnet2_ops and Pointcept do; 2 by
            1 / (d^2 + 1e-8), as PointNet++ in plain torch does. Weights of a query sum to 1.

    Returns:
        (M, C) of the type of features: row m is the weighted mean of features for query m.

    Raises:
        ValueError: shapes do not fit, the offsets describe different numbers of clouds, k or power is out of range, on
            CPU: NaN or infinite coordinates, offsets that decrease. On CUDA a NaN point is never found.
        TypeError: xyz and query_xyz are not of one type, features are not floating.

    Source: Qi et al., PointNet++, 2017, equation 2.
    """
    _checks.search(xyz, offsets, query_xyz, query_offsets, float64_too=True)
    _check_point_features(features, xyz)
    if power not in (1, 2):
        raise ValueError(f"power must be 1 or 2, got {power!r}")
    index, weight = interpolation_weights(xyz, offsets, query_xyz, query_offsets, k=k, power=power)
    weight = weight.to(torch.float64 if features.dtype == torch.float64 else torch.float32)
    return _library.call(_weighted_gather, features.contiguous(), index, weight)


def interpolation_weights(
    xyz: Tensor, offsets: Tensor, query_xyz: Tensor, query_offsets: Tensor, *, k: int, power: Literal[1, 2]
) -> tuple[Tensor, Tensor]:
    """Which points `interpolate` takes the mean of, and how much of each.

    Returns:
        index (M, k) int64 rows of points, -1 for none.
        weight (M, k): at least 0, adds up to 1; 0 at -1.
    """
    index, squared_distance = knn(xyz, offsets, query_xyz, query_offsets, k)
    none = index < 0
    # The derivative of a square root is infinite at 0: there, and where there is no point, it never sees the distance.
    apart = squared_distance.masked_fill(none, 1)
    if power == 1:
        zero = apart == 0
        apart = apart.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)
    weight = (1 / (apart + 1e-8)).masked_fill(none, 0)
    return index, weight / weight.sum(1, keepdim=True).clamp(min=1e-30)


# ---- below the contract ----------------------------------------------------------------------------------------------
def _check_features(features: Tensor) -> None:
    _checks.tensor(features, "features")
    if features.dim() != 2:
        raise ValueError(
            f"features must be packed (N, C), got shape {tuple(features.shape)}; (B, N, C) becomes packed with"
            " .flatten(0, 1), and an index into it must then count rows of all clouds"
        )


def _check_point_features(features: Tensor, xyz: Tensor) -> None:
    _check_features(features)
    _checks.same_device(features, "features", xyz, "xyz")
    if not features.is_floating_point():
        raise TypeError(f"features must be floating, got {features.dtype}; convert with .float()")
    if features.shape[0] != xyz.shape[0]:
        raise ValueError(f"features must have one row for each of {xyz.shape[0]} points, got {features.shape[0]}")


# Four linear operators that are each other's gradients: gather and weighted_gather take rows, gather_backward sums them
# back, gather_dot is the gradient of weights.
def _gather_fake(features, index):
    return features.new_empty((index.shape[0], features.shape[1]))


def _gather_context(ctx, inputs, output):
    features, index = inputs
    ctx.rows = features.shape[0]
    ctx.save_for_backward(index)


def _gather_gradient(ctx, grad):
    (index,) = ctx.saved_tensors
    return _sum_back(grad, index[:, None], None, ctx.rows), None


def _weighted_gather_fake(features, index, weight):
    return features.new_empty((index.shape[0], features.shape[1]))


def _weighted_gather_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _weighted_gather_gradient(ctx, grad):
    features, index, weight = ctx.saved_tensors
    grad = grad.contiguous()
    to_features = _sum_back(grad, index, weight, features.shape[0]) if ctx.needs_input_grad[0] else None
    to_weight = _gather_dot(grad, features, index) if ctx.needs_input_grad[2] else None
    return to_features, None, to_weight


def _gather_backward_fake(grad, index, weight, rows):
    return grad.new_empty((rows, grad.shape[1]))


def _gather_backward_context(ctx, inputs, output):
    grad, index, weight, _ = inputs
    ctx.save_for_backward(grad, index, weight)


def _gather_backward_gradient(ctx, outer):
    grad, index, weight = ctx.saved_tensors
    outer = outer.contiguous()
    if weight is None:
        return gather(outer, index).sum(1), None, None, None
    to_grad = _weighted_gather(outer, index, weight) if ctx.needs_input_grad[0] else None
    to_weight = _gather_dot(grad, outer, index) if ctx.needs_input_grad[2] else None
    return to_grad, None, to_weight, None


def _gather_dot_fake(grad, features, index):
    return grad.new_empty(index.shape, dtype=torch.float64 if grad.dtype == torch.float64 else torch.float32)


def _gather_dot_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _gather_dot_gradient(ctx, outer):
    grad, features, index = ctx.saved_tensors
    outer = outer.contiguous()
    to_grad = _weighted_gather(features, index, outer) if ctx.needs_input_grad[0] else None
    to_features = _sum_back(grad, index, outer, features.shape[0]) if ctx.needs_input_grad[1] else None
    return to_grad, to_features, None


def _sum_back(grad: Tensor, index: Tensor, weight: Tensor | None, rows: int) -> Tensor:
    """Row n is the sum of weight[m, j] * grad[m] over all index[m, j] == n."""
    if grad.is_cuda and torch.are_deterministic_algorithms_enabled():
        return _sum_back_sorted(grad, index, weight, rows)
    return _gather_backward(grad.contiguous(), index.contiguous(), weight, rows)


def _sum_back_sorted(grad: Tensor, index: Tensor, weight: Tensor | None, rows: int) -> Tensor:
    """The same, repeatable on CUDA, where `gather_backward` adds in whatever order threads come."""
    terms = grad[:, None] if weight is None else grad[:, None] * weight[..., None]
    terms = terms.expand(*index.shape, -1).flatten(0, 1).contiguous()  # a gradient may be a view, as that of a sum is
    order, offsets = _sort_index(index.reshape(-1), rows)
    return _segment_sum(terms, offsets, order, False).to(grad.dtype)


_gather = _library.register(
    "gather", fake=_gather_fake, backward=_gather_gradient, setup_context=_gather_context, autocast=False
)
_weighted_gather = _library.register(
    "weighted_gather",
    fake=_weighted_gather_fake,
    backward=_weighted_gather_gradient,
    setup_context=_weighted_gather_context,
    autocast=False,
)
_gather_backward = _library.register(
    "gather_backward",
    fake=_gather_backward_fake,
    backward=_gather_backward_gradient,
    setup_context=_gather_backward_context,
    autocast=False,
)
_gather_dot = _library.register(
    "gather_dot",
    fake=_gather_dot_fake,
    backward=_gather_dot_gradient,
    setup_context=_gather_dot_context,
    autocast=False,
)


# group: a gather of points and features less one of queries
def _group_fake(xyz, query_xyz, index, features, radius):
    like, columns = (xyz, 0) if features is None else (features, features.shape[1])
    return like.new_empty((*index.shape, 3 + columns))


def _group_context(ctx, inputs, output):
    xyz, _, index, _, ctx.radius = inputs
    ctx.rows = xyz.shape[0]
    ctx.save_for_backward(index)


def _group_gradient(ctx, grad):
    (index,) = ctx.saved_tensors
    to_xyz = to_query = to_features = None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[3]:
        total = _sum_back(grad.reshape(index.numel(), grad.shape[2]), index.reshape(-1, 1), None, ctx.rows)
        to_xyz = total[:, :3].float() / ctx.radius if ctx.needs_input_grad[0] else None
        to_features = total[:, 3:] if ctx.needs_input_grad[3] else None
    if ctx.needs_input_grad[1]:
        used = torch.where(index[..., None] < 0, 0, grad[..., :3]).float()
        to_query = used.sum(1) / -ctx.radius
    return to_xyz, to_query, None, to_features, None


_group = _library.register(
    "group", fake=_group_fake, backward=_group_gradient, setup_context=_group_context, autocast=False
)
