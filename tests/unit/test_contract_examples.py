"""The examples in the contracts' docstrings run, and say what they print."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["attribution", "refiner", "metric", "dataset"])
def test_the_example_of_a_contract_runs(module):
    result = doctest.testmod(importlib.import_module(f"dcam_core.{module}"))
    assert (result.failed, result.attempted > 0) == (0, True)
