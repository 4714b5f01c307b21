"""The test kit as an author uses it; and what it needs to be imported."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch

import dcam_core.testing
from dcam_core import PluginManager, load_model
from dcam_core.testing.toy import toy_adapter

pytest_plugins = ["pytester"]

AUTHOR = """
import pytest
from dcam_core import Refiner
from dcam_core.testing import RefinerConformance

class Brighter(Refiner):
    def forward(self, maps, context):
        return maps + 0.5

class TestBrighter(RefinerConformance):
    expected_failures = {"zero-map": "it is meant to lift everything", "shape": "a wrong guess"}

    @pytest.fixture
    def refiner(self):
        return Brighter()

class TestMisspelt(TestBrighter):
    expected_failures = {"zero-maps": "misspelt"}

class TestForgotten(RefinerConformance):
    pass
"""


def test_an_authors_test_file(pytester):
    pytester.makepyfile(AUTHOR)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-k", "shape or zero-map or range")
    # Of Brighter: range fails, zero-map fails as expected, shape passes against expectation, which is a failure.
    result.assert_outcomes(failed=2 + 3, xfailed=1, errors=3)
    result.stdout.fnmatch_lines_random(
        [
            "E *BrokenPromiseError: ordinary maps: values go from 0.5 to 1.5*",
            "*XPASS(strict)* a wrong guess*",
            "*expected_failures names no check: zero-maps*",
            "E *NotImplementedError: TestForgotten must override the fixture `refiner`*",
        ]
    )


def test_without_pytest_the_classes_say_what_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"MetricConformance is a class of tests and needs pytest.*pip install"
    ):
        from dcam_core.testing import MetricConformance  # noqa: F401


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'ModelConformance'"):
        _ = dcam_core.testing.ModelConformance


def test_the_toy_needs_no_pytest():
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "from dcam_core.testing.toy import toy_adapter, toy_picture\n"
        "model = toy_adapter(seed=3)\n"
        "inputs = model.prepare(toy_picture((18, 24)), 'the red circle')\n"
        "print(inputs.prompt_length, [view.grid for view in inputs.views], sorted(set(sys.modules) & {'_pytest'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("23 [(2, 2), (4, 3)] []", 0), done.stderr


def test_the_toy_is_a_model_by_name_for_whom_asks_for_its_plugin():
    manager = PluginManager(autoload=False, extra=["dcam_core.testing.plugin"], strict=True)
    model = load_model("toy", manager=manager)
    assert (model.family, model.name) == ("toy", "toy")
    for name, parameter in toy_adapter().model.named_parameters():
        assert torch.equal(model.model.get_parameter(name), parameter)
    assert not torch.equal(toy_adapter(seed=1).model.head.weight, model.model.head.weight)
