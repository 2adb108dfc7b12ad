"""How good predictions are: scores of classifiers and of part segmentation, as the field's papers report them."""

from pctransformer.evaluation.classification import (
    ClassificationScore,
    Evaluation,
    evaluate_classifier,
    predict_logits,
    vote,
)
from pctransformer.evaluation.segmentation import PartScore, evaluate_segmenter, parts_of_classes, predict_parts

__all__ = [
    "ClassificationScore",
    "Evaluation",
    "PartScore",
    "evaluate_classifier",
    "evaluate_segmenter",
    "parts_of_classes",
    "predict_logits",
    "predict_parts",
    "vote",
]
