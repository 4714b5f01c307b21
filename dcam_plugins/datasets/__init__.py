"""Datasets that are read from a folder: COCO and its like, grounded captions, pictures with captions."""

from dcam_plugins.datasets.captions import Captions
from dcam_plugins.datasets.coco import CocoFolder
from dcam_plugins.datasets.coco_caption import CocoCaption, CocoCaptionLabels
from dcam_plugins.datasets.grounded import GranDf, GranDfLabels, OpenPSG
from dcam_plugins.datasets.names import COCO_SYNONYMS

__all__ = [
    "COCO_SYNONYMS",
    "Captions",
    "CocoCaption",
    "CocoCaptionLabels",
    "CocoFolder",
    "GranDf",
    "GranDfLabels",
    "OpenPSG",
]
