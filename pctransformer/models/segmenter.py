"""What all segmentation models of the package share: the verbs of `Classifier`, for points instead of clouds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pctransformer.heads.segmentation import SegmentationHead
from pctransformer.ops import gather
from pctransformer.points import PointBatch


class Segmenter(nn.Module):
    """A backbone that gives every point features, and a `SegmentationHead` on them.

    Parts of objects are found more easily by who knows what the object is: a model made with `num_categories` is told,
    and then needs `category` with its points, as PointNet++ does for ShapeNet parts.

    Subclasses set the attributes and write `forward_features`.
    """

    in_channels: int
    """Channels of the input, coordinates included: 3 + C."""
    num_features: int
    """Channels that `forward_features` gives every point."""
    num_categories: int
    """Categories of objects that the model is told about; 0 for a model that is not."""
    head: SegmentationHead
    category_columns: tuple[str, ...] = ()
    """Names of weights (out, in) whose first `num_categories` columns read what the object is: where a file knows
    another number of categories, these columns stay new."""
    lacking_in_pretraining: tuple[str, ...] = ()
    only_in_pretraining: tuple[str, ...] = ()
    """Both as for a `Classifier`."""

    @property
    def head_hidden_size(self) -> int:
        """Channels of `forward_head(points, pre_logits=True)`."""
        return self.head.hidden_size

    def forward_features(
        self, points: PointBatch | Tensor | Sequence[Tensor], category: Tensor | None = None
    ) -> PointBatch:
        """The points, in their order, with `num_features` channels each."""
        raise NotImplementedError

    def forward_head(self, points: PointBatch, pre_logits: bool = False) -> Tensor:
        """Logits (N, num_classes) of points; with `pre_logits` what the last layer gets, (N, head_hidden_size)."""
        return self.head(points, pre_logits)

    def forward(self, points: PointBatch | Tensor | Sequence[Tensor], category: Tensor | None = None) -> Tensor:
        """Logits of every point.

        Args:
            points: a PointBatch, a (B, N, 3 + C) tensor or a list of (n, 3 + C) tensors.
            category: (B,) int64, what each object is, for models with `num_categories`.

        Returns:
            (N, num_classes), packed: the rows of the PointBatch, or of `points.flatten(0, 1)` or `torch.cat(points)`.
        """
        return self.forward_head(self.forward_features(points, category))

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer for other classes; 0 makes the model give its pre-logits."""
        self.head.reset(num_classes)

    def category_code(self, batch: PointBatch, category: Tensor | None) -> Tensor:
        """One-hot categories (B, num_categories) float32, without columns for a model that is not told.

        Raises:
            ValueError: the model needs categories and there are none, or the other way round; not one of each cloud;
                on CPU: a category that there is not.
            TypeError: category is not int64.
        """
        if (category is None) != (self.num_categories == 0):
            raise ValueError(
                "this model is not told what objects are: leave category out, or make the model with num_categories"
                if category is not None
                else f"this model is told which of {self.num_categories} categories each object has: give category"
                f" (B,) int64, or make the model with num_categories=0"
            )
        if category is None:
            return batch.xyz.new_zeros(len(batch), 0)
        if category.dtype != torch.int64:
            raise TypeError(f"category must be int64, got {category.dtype}; convert with .long()")
        if category.shape != (len(batch),):
            raise ValueError(f"category must be ({len(batch)},), one for each cloud, got {tuple(category.shape)}")
        if category.device.type == "cpu" and ((category < 0) | (category >= self.num_categories)).any():
            raise ValueError(f"category must be from 0 to {self.num_categories - 1}, got {category.tolist()}")
        return (category[:, None] == torch.arange(self.num_categories, device=category.device)).float()


def of_each_point(rows: Tensor, batch: PointBatch) -> Tensor:
    """(N, C): the row of (B, C) that belongs to each point's cloud."""
    return gather(rows, batch.batch_index)
