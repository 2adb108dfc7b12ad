"""Recurrent networks along the curve: what attention replaced.

A token learns of the others by a state that is carried past it, one token after another, so the way between two tokens
is as long as the sequence between them. RNN: Elman, Finding Structure in Time, 1990. LSTM: Hochreiter and Schmidhuber,
Long Short-Term Memory, 1997.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from pctransformer.layers.mixers.mixer import Mixer
from pctransformer.ops import gather


class Recurrent(Mixer):
    """A recurrent layer along the tokens of each patch; both ways, with half of the channels each, or one way.

    Padding is skipped wherever it stands: real tokens follow one another as if they were alone.

    Args:
        dim: channels, an even number for both ways.
        bidirectional: both ways; else a token receives from those before it only.
    """

    layer: type[nn.RNN] | type[nn.LSTM]

    def __init__(self, *, dim: int, bidirectional: bool = True) -> None:
        super().__init__(dim)
        if bidirectional and dim % 2:
            raise ValueError(f"a layer for both ways halves the channels, but there are {dim}; bidirectional=False?")
        hidden = dim // 2 if bidirectional else dim
        self.forwards = self.layer(dim, hidden, batch_first=True)
        self.backwards = self.layer(dim, hidden, batch_first=True) if bidirectional else None

    def mix(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        out = _run(self.forwards, tokens, valid)
        if self.backwards is None:
            return out
        back = _run(self.backwards, tokens.flip(1), None if valid is None else valid.flip(1)).flip(1)
        return torch.cat([out, back], 2)


class RNN(Recurrent):
    """h_t = tanh(W x_t + U h_{t-1} + b), see `Recurrent`."""

    layer = nn.RNN


class LSTM(Recurrent):
    """Long short-term memory, see `Recurrent`."""

    layer = nn.LSTM


def _run(layer: nn.RNNBase, tokens: Tensor, valid: Tensor | None) -> Tensor:
    """Outputs (P, K, H) in the places of their tokens.

    Real tokens are moved to the front. What follows behind cannot reach them, so torch's packed sequences, which wait
    for the device to learn of lengths, are not needed.
    """
    if valid is None:
        return layer(tokens)[0]
    order = (~valid).byte().argsort(dim=1, stable=True)  # (P, K) real tokens first, in their order
    count, length, _ = tokens.shape
    first_row = torch.arange(count, device=tokens.device)[:, None] * length
    moved = gather(tokens.flatten(0, 1), order + first_row)
    out = layer(moved)[0]  # (P, K, H)
    return gather(out.flatten(0, 1), order.argsort(1) + first_row)


@register_flop_formula(torch.ops.aten.mkldnn_rnn_layer, get_raw=True)
def _flops(tokens: Tensor, weight_in: Tensor, weight_state: Tensor, *rest, out_val=None) -> int:
    """torch's counter sees the LSTM step by step elsewhere, but not the fused layer that it runs on CPU."""
    return 2 * tokens.shape[:2].numel() * (weight_in.numel() + weight_state.numel())
