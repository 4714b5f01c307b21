"""Comparing methods: one answer per picture, explained by all, scored by word, kept so that nothing is lost."""

from dcam_core.evaluation.asked_sample import AskedSample
from dcam_core.evaluation.bootstrap import bootstrap_intervals
from dcam_core.evaluation.evaluating import evaluate
from dcam_core.evaluation.folder import RunFolder
from dcam_core.evaluation.methods import Variant
from dcam_core.evaluation.named_words import NamedWord, UnscoredWord, named_words
from dcam_core.evaluation.sample import CEILING, EvaluatedSample, SampleEvaluator
from dcam_core.evaluation.studies import Ablation, Layers, Study, Sweep
from dcam_core.evaluation.summary import Estimate, Summary, summarise
from dcam_core.evaluation.tables import latex, markdown, terminal

__all__ = [
    "CEILING",
    "Ablation",
    "AskedSample",
    "Estimate",
    "EvaluatedSample",
    "Layers",
    "NamedWord",
    "RunFolder",
    "SampleEvaluator",
    "Study",
    "Summary",
    "Sweep",
    "UnscoredWord",
    "Variant",
    "bootstrap_intervals",
    "evaluate",
    "latex",
    "markdown",
    "named_words",
    "summarise",
    "terminal",
]
