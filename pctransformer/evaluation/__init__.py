"""How good predictions are: scores of classifiers, as the field's papers report them."""

from pctransformer.evaluation.classification import (
    ClassificationScore,
    Evaluation,
    evaluate_classifier,
    predict_logits,
    vote,
)

__all__ = ["ClassificationScore", "Evaluation", "evaluate_classifier", "predict_logits", "vote"]
