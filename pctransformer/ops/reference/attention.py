from __future__ import annotations

import torch
from torch import Tensor

from pctransformer.ops.reference._values import check_offsets, spans


def ragged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_offsets: Tensor,
    key_offsets: Tensor,
    bias_table: Tensor | None,
    query_coordinates: Tensor | None,
    key_coordinates: Tensor | None,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """Sequence by sequence: all scores, their softmax, its product with the values."""
    _check_values(query, key, query_offsets, key_offsets, bias_table, query_coordinates, key_coordinates)
    output = query.new_zeros(*query.shape[:2], value.shape[2])
    logsumexp = query.new_full(query.shape[:2], -torch.inf)
    for q, k in _sequences(query_offsets, key_offsets):
        positions = _positions(bias_table, query_coordinates, key_coordinates, q, k)
        scores = _scores(query[q], key[k], bias_table, positions, scale, causal)
        logsumexp[q] = scores.logsumexp(-1).T
        output[q] = torch.einsum("hqk,khd->qhd", _softmax(scores, logsumexp[q]), value[k])
    return output, logsumexp


def ragged_attention_backward(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    query_offsets: Tensor,
    key_offsets: Tensor,
    bias_table: Tensor | None,
    query_coordinates: Tensor | None,
    key_coordinates: Tensor | None,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The chain rule by hand: with weights p and their gradient dp, the scores' is p * (dp - sum(p * dp)), and that sum
    is the product of the output with its own gradient."""
    _check_values(query, key, query_offsets, key_offsets, bias_table, query_coordinates, key_coordinates)
    grad_query, grad_key, grad_value = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
    grad_table = query.new_zeros(0) if bias_table is None else torch.zeros_like(bias_table)
    mean = (grad_output * output).sum(-1)
    for q, k in _sequences(query_offsets, key_offsets):
        positions = _positions(bias_table, query_coordinates, key_coordinates, q, k)
        weights = _softmax(_scores(query[q], key[k], bias_table, positions, scale, causal), logsumexp[q])
        grad_weights = torch.einsum("qhd,khd->hqk", grad_output[q], value[k])
        grad_scores = weights * (grad_weights - mean[q].T[..., None])
        grad_query[q] = torch.einsum("hqk,khd->qhd", grad_scores, key[k]) * scale
        grad_key[k] = torch.einsum("hqk,qhd->khd", grad_scores, query[q]) * scale
        grad_value[k] = torch.einsum("hqk,qhd->khd", weights, grad_output[q])
        if positions is not None:
            grad_table.flatten(1).index_add_(1, positions.flatten(), grad_scores.flatten(1))
    return grad_query, grad_key, grad_value, grad_table


def _sequences(query_offsets: Tensor, key_offsets: Tensor) -> list[tuple[slice, slice]]:
    """Rows of queries and rows of keys of every sequence that has both."""
    pairs = zip(spans(query_offsets), spans(key_offsets))
    return [(slice(*q), slice(*k)) for q, k in pairs if q[0] < q[1] and k[0] < k[1]]


def _positions(
    table: Tensor | None, query_coordinates: Tensor | None, key_coordinates: Tensor | None, q: slice, k: slice
) -> Tensor | None:
    """(queries, keys) positions in the flattened table of one head."""
    if table is None or query_coordinates is None or key_coordinates is None:
        return None
    size = torch.tensor(table.shape[1:], device=table.device)
    index = query_coordinates[q, None].long() - key_coordinates[None, k].long() + size // 2
    return (index[..., 0] * size[1] + index[..., 1]) * size[2] + index[..., 2]


def _scores(
    query: Tensor, key: Tensor, table: Tensor | None, positions: Tensor | None, scale: float, causal: bool
) -> Tensor:
    """(H, queries, keys) scores of one sequence, before the softmax."""
    scores = torch.einsum("qhd,khd->hqk", query, key) * scale
    if table is not None and positions is not None:
        scores = scores + table.flatten(1)[:, positions]
    if causal:
        later = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores


def _softmax(scores: Tensor, logsumexp: Tensor) -> Tensor:
    """Weights (H, queries, keys) that sum to 1, or to 0 where a query sees nothing but biases of -inf."""
    return (scores - logsumexp.masked_fill(logsumexp == -torch.inf, torch.inf).T[..., None]).exp()


def _check_values(
    query: Tensor,
    key: Tensor,
    query_offsets: Tensor,
    key_offsets: Tensor,
    table: Tensor | None,
    query_coordinates: Tensor | None,
    key_coordinates: Tensor | None,
) -> None:
    op = "ragged_attention"
    check_offsets(query_offsets, query.shape[0], op, "query_offsets")
    check_offsets(key_offsets, key.shape[0], op, "key_offsets")
    for coordinates, name in ((query_coordinates, "query_coordinates"), (key_coordinates, "key_coordinates")):
        if table is None or coordinates is None:
            continue
        window = [size // 2 + 1 for size in table.shape[1:]]
        outside = ((coordinates < 0) | (coordinates >= coordinates.new_tensor(window))).any(1)
        if outside.any():
            row = int(outside.nonzero()[0])
            raise ValueError(
                f"{op}: {name}[{row}] = {tuple(coordinates[row].tolist())} lies outside the window {tuple(window)} that"
                " bias_table is made for"
            )
