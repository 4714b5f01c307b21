"""What the conformance classes share: one test per promise, and failures that are expected for a reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from dcam_core.conformance.check import Check, NotApplicableError

__all__ = ["Conformance"]


class Conformance:
    """Base of the conformance classes, which name their promises and give the fixture `subject`.

    Attributes:
        checks: the promises, one test each.
        expected_failures: name of a promise -> why it is not kept. It must fail then: one that is kept again is
            to be taken off the list.
    """

    checks: ClassVar[tuple[Check[Any], ...]] = ()
    expected_failures: ClassVar[Mapping[str, str]] = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test per promise."""
        if "check" in metafunc.fixturenames:
            metafunc.parametrize("check", self.checks, ids=lambda check: check.name)

    def test_promise(self, check: Check[Any], subject: Any, request: pytest.FixtureRequest) -> None:
        """The promise is kept, or cannot be examined here."""
        unknown = set(self.expected_failures) - {known.name for known in self.checks}
        if unknown:
            pytest.fail(f"expected_failures names no check: {', '.join(sorted(unknown))}")
        if check.name in self.expected_failures:
            reason = self.expected_failures[check.name]
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
        try:
            check(subject)
        except NotApplicableError as reason:
            pytest.skip(str(reason))
