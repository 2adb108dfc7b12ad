"""What all classifiers of the package share: timm's verbs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pctransformer.heads.classification import ClassificationHead
from pctransformer.points import PointBatch


class Classifier(nn.Module):
    """A backbone that gives tokens, and a `ClassificationHead` on them.

    Subclasses set `in_channels`, `num_features` and `head`, and write `forward_features`.
    """

    in_channels: int
    """Channels of the input, coordinates included: 3 + C."""
    num_features: int
    """Channels of the tokens that `forward_features` gives."""
    head: ClassificationHead
    lacking_in_pretraining: tuple[str, ...] = ()
    """What names of weights begin with that the model is pretrained without: they stay new when it is then trained."""
    only_in_pretraining: tuple[str, ...] = ()
    """What names of weights begin with that are of no use after pretraining."""

    @property
    def head_hidden_size(self) -> int:
        """Channels of `forward_head(tokens, pre_logits=True)`."""
        return self.head.hidden_size

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> PointBatch:
        """Tokens with positions, `num_features` channels each."""
        raise NotImplementedError

    def encode(self, points: PointBatch | Tensor | Sequence[Tensor]) -> PointBatch:
        """Tokens as pretraining knows them: without what is learned with labels only, such as a class token."""
        return self.forward_features(points)

    def forward_head(self, tokens: PointBatch, pre_logits: bool = False) -> Tensor:
        """Logits (B, num_classes) from tokens; with `pre_logits` what the last layer gets, (B, head_hidden_size)."""
        return self.head(tokens, pre_logits)

    def forward(self, points: PointBatch | Tensor | Sequence[Tensor]) -> Tensor:
        """Logits (B, num_classes) of a PointBatch, a (B, N, 3 + C) tensor or a list of (n, 3 + C) tensors."""
        return self.forward_head(self.forward_features(points))

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer for other classes; 0 makes the model give its pre-logits."""
        self.head.reset(num_classes)
