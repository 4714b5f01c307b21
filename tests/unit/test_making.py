"""What is registered, made with a user's parameters: a wrong one is one line that says which there are."""

from __future__ import annotations

import pytest
import torchmetrics

from dcam_core import default_manager
from dcam_core.errors import ConfigurationError
from dcam_core.evaluation.making import make_dataset
from dcam_core.evaluation.model_measures import model_measure
from dcam_core.plugins.entry import Entry
from dcam_core.plugins.making import make


class Thing:
    def __init__(self, height: float, *, width: int = 3) -> None:
        if width < 1:
            raise ValueError(f"width is {width}: give at least 1")
        self.size = height, width


class Passing(torchmetrics.MeanMetric):
    def __init__(self, tolerance: float = 0.0, **options: bool) -> None:
        super().__init__(**options)


@pytest.mark.parametrize(
    ("kind", "parameters", "said"),
    [
        (Thing, {"height": 1, "widht": 2},
         "unknown parameter 'widht': there are height, width. Did you mean 'width'?"),
        (Thing, {"width": 2}, "it needs height"),
        (Thing, {"height": 1, "width": 0}, "width is 0: give at least 1"),
        (object, {"colour": "red"}, "unknown parameter 'colour': there are none."),
        (Passing, {"tolerence": 1}, "Unexpected keyword arguments: `tolerence` (its own parameters: tolerance)"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_named_beside_those_there_are(kind, parameters, said):
    with pytest.raises(ConfigurationError) as caught:
        make(Entry("thing", "mine", kind, "plugin"), parameters)
    assert str(caught.value) == f"thing 'mine' cannot be made with {parameters}: {said}"


def test_what_is_right_is_made():
    assert make(Entry("thing", "mine", Thing, "plugin"), {"height": 1}).size == (1, 3)
    metric = make(Entry("metric", "mine", Passing, "plugin"), {"tolerance": 1, "sync_on_compute": False})
    assert metric.sync_on_compute is False


def test_a_measure_that_asks_the_model_says_it_the_same_way():
    with pytest.raises(ConfigurationError, match=r"'road' cannot be .* Did you mean 'percentiles'\?$"):
        model_measure("road", {"percentile": [50]})


def test_a_dataset_without_its_folder_says_how_to_give_it():
    entry = default_manager().registries.datasets.entry("coco")
    with pytest.raises(ConfigurationError, match=r"coco:FOLDER, in Python .*\{'root': FOLDER\}"):
        make_dataset(entry, {})
    with pytest.raises(ConfigurationError, match=r"unknown parameter 'splitt'.*Did you mean 'split'"):
        make_dataset(entry, {"root": "nowhere", "splitt": "val2017"})
