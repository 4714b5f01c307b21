"""The promises of an adapter as tests."""

from __future__ import annotations

import pytest

from dcam_core.adapter import Adapter
from dcam_core.conformance import CHECKS, Subject
from dcam_core.testing._conformance import Conformance

__all__ = ["AdapterConformance"]


class AdapterConformance(Conformance):
    """One test per promise of the adapter contract, those that `dcam check` examines.

    Override the fixture `adapter`, and `subject` where the model is to be asked something else:

        class TestMine(AdapterConformance):
            expected_failures = {"sight": "the tower of the test model is random"}

            @pytest.fixture
            def adapter(self):
                return load_model("tests/my-checkpoint")
    """

    checks = CHECKS

    @pytest.fixture
    def adapter(self) -> Adapter:
        """The adapter under examination."""
        raise NotImplementedError(f"{type(self).__name__} must override the fixture `adapter`")

    @pytest.fixture
    def subject(self, adapter: Adapter) -> Subject:
        """The adapter, and what it is asked."""
        return Subject(adapter)
