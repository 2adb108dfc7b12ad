"""The perceptron of a transformer layer."""

from __future__ import annotations

from torch import Tensor, nn


class MLP(nn.Module):
    """Two linear layers with an activation between them, for each token by itself.

    Args:
        dim: channels in.
        hidden_dim: channels in between; 4 * dim in most published transformers.
        activation: GELU, or ReLU as in the first transformer.
        dropout: share of hidden channels set to zero in training.
        out_dim: channels out; None: as many as in.

    Source: Vaswani et al., Attention is all you need, 2017, equation 2; GELU since Devlin et al., BERT, 2018.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        *,
        activation: type[nn.Module] = nn.GELU,
        dropout: float = 0.0,
        out_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.activation = activation()
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden_dim, out_dim or dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.dropout(self.activation(self.fc1(x))))
