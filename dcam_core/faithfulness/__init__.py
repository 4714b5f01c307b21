"""Faithfulness: does a map show what the model looks at? Asked of the model itself, without any mask.

`AskedWords` asks for words with changed pictures; `deletion_insertion`, `road` and `drop_and_increase` change the
picture as a map says. `parameter_randomisation` and `other_labels` change the model and the word, and `agreement`
and `noise_stability` tell how stable maps are.
"""

from dcam_core.faithfulness.asking import AskedWords
from dcam_core.faithfulness.curves import DeletionInsertion, deletion_insertion
from dcam_core.faithfulness.drop import Drop, drop_and_increase
from dcam_core.faithfulness.imputing import impute
from dcam_core.faithfulness.perturbing import blurred, mean_coloured, noisy, random_maps
from dcam_core.faithfulness.randomising import (
    Randomised,
    modules_from_the_top,
    other_labels,
    parameter_randomisation,
    randomised_parameters,
)
from dcam_core.faithfulness.road import Road, road
from dcam_core.faithfulness.similarity import agreement, spearman, structural_similarity
from dcam_core.faithfulness.stability import noise_stability

__all__ = [
    "AskedWords",
    "DeletionInsertion",
    "Drop",
    "Randomised",
    "Road",
    "agreement",
    "blurred",
    "deletion_insertion",
    "drop_and_increase",
    "impute",
    "mean_coloured",
    "modules_from_the_top",
    "noise_stability",
    "noisy",
    "other_labels",
    "parameter_randomisation",
    "random_maps",
    "randomised_parameters",
    "road",
    "spearman",
    "structural_similarity",
]
