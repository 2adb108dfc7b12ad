"""How good predictions are: scores of classifiers, their robustness, parts, KITTI, as papers report them."""

from pctransformer.evaluation.classification import (
    ClassificationScore,
    Evaluation,
    evaluate_classifier,
    predict_logits,
    vote,
)
from pctransformer.evaluation.few_shot import FewShotScore, few_shot, logistic_regression
from pctransformer.evaluation.kitti import KittiScore, evaluate_kitti
from pctransformer.evaluation.robustness import Robustness, comparison_table, evaluate_robustness
from pctransformer.evaluation.segmentation import (
    PartEvaluation,
    PartScore,
    evaluate_segmenter,
    part_logits,
    parts_of_classes,
    predict_parts,
)
from pctransformer.evaluation.semantic import SceneEvaluation, SceneScore, evaluate_scenes
from pctransformer.evaluation.tiles import SceneLogits, segment_scene

__all__ = [
    "ClassificationScore",
    "Evaluation",
    "FewShotScore",
    "KittiScore",
    "PartEvaluation",
    "PartScore",
    "Robustness",
    "SceneEvaluation",
    "SceneLogits",
    "SceneScore",
    "comparison_table",
    "evaluate_classifier",
    "evaluate_kitti",
    "evaluate_robustness",
    "evaluate_scenes",
    "evaluate_segmenter",
    "few_shot",
    "logistic_regression",
    "part_logits",
    "parts_of_classes",
    "predict_logits",
    "predict_parts",
    "segment_scene",
    "vote",
]
