"""Every attribution, refiner, metric and dataset that ships keeps its contract. New ones are found by themselves."""

from __future__ import annotations

import importlib.metadata

import pytest
from omegaconf import OmegaConf
from support.dataset_folders import FOLDERS

from dcam_core.attribution import ModelAttribution
from dcam_core.evaluation.model_measures import MODEL_MEASURES
from dcam_core.metric import Metric
from dcam_core.plugins import PluginManager
from dcam_core.testing import (
    AttributionConformance,
    DatasetConformance,
    MetricConformance,
    ModelAttributionConformance,
    ModelMeasureConformance,
    RefinerConformance,
)

POINTS = importlib.metadata.distribution("dcam").entry_points.select(group="dcam")
SHIPPED = PluginManager(autoload=False, extra=[point.value for point in POINTS], strict=True).registries


def presets():
    """(attribution, its parameters) and (refiner, its parameters) as the shipped methods set them."""
    attributions, refiners = [], []
    for entry in SHIPPED.methods:
        method = OmegaConf.to_container(OmegaConf.load(entry.load()))
        parameters = dict(method["attribution"])
        attributions.append((parameters.pop("name"), parameters))
        refiners += [(name, given) for name, given in method.get("refiners", {}).items() if given is not None]
    return attributions, refiners


def settings(registry, *more):
    """Everything that is registered, with its defaults and as somebody sets it."""
    cases = [(name, {}) for name in registry.names]
    return cases + [case for number, case in enumerate(more) if case not in cases + list(more[:number])]


GIVEN_THE_RUN = [entry.name for entry in SHIPPED.metrics if not issubclass(entry.load(), Metric)]


def metrics(*more):
    """Those that compare maps with masks."""
    return [case for case in settings(SHIPPED.metrics, *more) if case[0] not in GIVEN_THE_RUN]


def described(case):
    name, parameters = case
    return " ".join([name, *(f"{key}={value}" for key, value in parameters.items())])


ATTRIBUTIONS, REFINERS = presets()


FED, ASKING = [], []  # by the probe, and the model itself
for case in settings(SHIPPED.attributions, *ATTRIBUTIONS):
    own = issubclass(SHIPPED.attributions.get(case[0]), ModelAttribution)
    (ASKING if own else FED).append(case)


class TestAttributions(AttributionConformance):
    @pytest.fixture(params=FED, ids=described)
    def attribution(self, request):
        name, parameters = request.param
        return SHIPPED.attributions.get(name)(**parameters)


class TestModelAttributions(ModelAttributionConformance):
    @pytest.fixture(params=ASKING, ids=described)
    def attribution(self, request):
        name, parameters = request.param
        return SHIPPED.attributions.get(name)(**parameters)


@pytest.mark.filterwarnings("ignore:std:UserWarning")  # the spread of no maps: torch warns, and is right
class TestRefiners(RefinerConformance):
    @pytest.fixture(params=settings(SHIPPED.refiners, *REFINERS), ids=described)
    def refiner(self, request):
        name, parameters = request.param
        return SHIPPED.refiners.get(name)(**parameters)


class TestMetrics(MetricConformance):
    @pytest.fixture(params=metrics(("pointing-game", {"tolerance": 2})), ids=described)
    def metric(self, request):
        name, parameters = request.param
        return SHIPPED.metrics.get(name)(**parameters)


class TestModelMeasures(ModelMeasureConformance):
    @pytest.fixture(params=[*MODEL_MEASURES, *GIVEN_THE_RUN])
    def measure(self, request):
        return (MODEL_MEASURES.get(request.param) or SHIPPED.metrics.get(request.param))()


class TestDatasets(DatasetConformance):
    @pytest.fixture(
        params=settings(SHIPPED.datasets, ("scenes", {"split": "train", "length": 1, "size": 64})),
        ids=described,
    )
    def dataset(self, request, tmp_path):
        name, parameters = request.param
        if name in FOLDERS:
            parameters = {"root": FOLDERS[name](tmp_path), **parameters}
        return SHIPPED.datasets.get(name)(**parameters)
