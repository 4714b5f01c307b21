"""Metrics: how well a map agrees with an object's mask."""

from dcam_plugins.metrics._scores import harmonic_mean
from dcam_plugins.metrics.binarised import F1, Precision, Recall, precision_recall
from dcam_plugins.metrics.contrast import (
    ContrastRatio,
    ContrastScore,
    contrast_ratio,
    contrast_score,
    mean_inside_and_outside,
)
from dcam_plugins.metrics.energy_pointing_game import EnergyLift, EnergyPointingGame
from dcam_plugins.metrics.f3 import F3OfMeans, MeanF3, f3_score
from dcam_plugins.metrics.func_iou import FuncIoU
from dcam_plugins.metrics.intersection_over_union import IntersectionOverUnion
from dcam_plugins.metrics.localisation import (
    Overlap,
    energy_inside,
    found_pixels,
    intersection_over_union,
    otsu_threshold,
    overlap,
    pointing,
)
from dcam_plugins.metrics.pointing_game import PointingGame
from dcam_plugins.metrics.released import BestClass, ReleasedScores, best_class, released_scores
from dcam_plugins.metrics.thresholds import AveragePrecision, MeanIoU, average_precision, mean_iou
from dcam_plugins.metrics.words import FunctionWord, Noun, WordScores, WordScoresOfPicture, word_scores

__all__ = [
    "AveragePrecision",
    "BestClass",
    "ContrastRatio",
    "ContrastScore",
    "EnergyLift",
    "EnergyPointingGame",
    "F1",
    "F3OfMeans",
    "FuncIoU",
    "FunctionWord",
    "IntersectionOverUnion",
    "MeanF3",
    "MeanIoU",
    "Noun",
    "Overlap",
    "PointingGame",
    "Precision",
    "Recall",
    "ReleasedScores",
    "WordScores",
    "WordScoresOfPicture",
    "average_precision",
    "best_class",
    "contrast_ratio",
    "contrast_score",
    "energy_inside",
    "f3_score",
    "found_pixels",
    "harmonic_mean",
    "intersection_over_union",
    "mean_inside_and_outside",
    "mean_iou",
    "otsu_threshold",
    "overlap",
    "pointing",
    "precision_recall",
    "released_scores",
    "word_scores",
]
