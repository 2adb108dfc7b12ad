"""How good predictions are: of classifiers, their robustness, parts, detections, KITTI, as papers report them."""

from pctransformer.evaluation.classification import (
    ClassificationScore,
    Evaluation,
    evaluate_classifier,
    predict_logits,
    vote,
)
from pctransformer.evaluation.detection import evaluate_detection, recall_by_distance
from pctransformer.evaluation.detection_score import DetectionScore, RecallByDistance
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
    "DetectionScore",
    "Evaluation",
    "FewShotScore",
    "KittiScore",
    "PartEvaluation",
    "PartScore",
    "RecallByDistance",
    "Robustness",
    "SceneEvaluation",
    "SceneLogits",
    "SceneScore",
    "comparison_table",
    "evaluate_classifier",
    "evaluate_detection",
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
    "recall_by_distance",
    "segment_scene",
    "vote",
]
