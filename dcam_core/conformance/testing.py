"""The checks as tests: subclass `AdapterConformance` in a test module, and pytest shows one test per promise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest

from dcam_core.adapter import Adapter
from dcam_core.conformance import CHECKS, Check, NotApplicableError, Subject

__all__ = ["AdapterConformance"]


class AdapterConformance:
    """One test per promise of the adapter contract.

    Override the fixture `adapter`, and `subject` where the model is to be asked something else:

        class TestMine(AdapterConformance):
            expected_failures = {"sight": "the tower of the test model is random"}

            @pytest.fixture
            def adapter(self):
                return load_model("tests/my-checkpoint")

    Attributes:
        expected_failures: name of a check -> why it fails. It must fail then: one that passes again is to be
            taken off the list.
    """

    expected_failures: ClassVar[Mapping[str, str]] = {}

    @pytest.fixture
    def adapter(self) -> Adapter:
        """The adapter under examination."""
        raise NotImplementedError(f"{type(self).__name__} must override the fixture `adapter`")

    @pytest.fixture
    def subject(self, adapter: Adapter) -> Subject:
        """The adapter, and what it is asked."""
        return Subject(adapter)

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
    def test_promise(self, check: Check, subject: Subject, request: pytest.FixtureRequest) -> None:
        """The promise is kept, or cannot be examined with this model."""
        unknown = set(self.expected_failures) - {known.name for known in CHECKS}
        if unknown:
            pytest.fail(f"expected_failures names no check: {', '.join(sorted(unknown))}")
        if check.name in self.expected_failures:
            reason = self.expected_failures[check.name]
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
        try:
            check(subject)
        except NotApplicableError as reason:
            pytest.skip(str(reason))
