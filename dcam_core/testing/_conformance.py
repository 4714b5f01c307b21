"""What the conformance classes share: one test per promise, and failures that are expected for a reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeVar

import pytest

from dcam_core.conformance.check import Check, NotApplicableError

__all__ = ["Conformance"]

S = TypeVar("S")


class Conformance:
    """Base of the conformance classes.

    Attributes:
        expected_failures: name of a promise -> why it is not kept. It must fail then: one that is kept again is
            to be taken off the list.
    """

    expected_failures: ClassVar[Mapping[str, str]] = {}

    def _hold_to(
        self, check: Check[S], subject: S, checks: Sequence[Check[S]], request: pytest.FixtureRequest
    ) -> None:
        """Examine one promise.

        Args:
            check: the promise.
            subject: what is held to it.
            checks: all promises of the class, for the names in `expected_failures`.
            request: pytest's, to expect a failure.
        """
        unknown = set(self.expected_failures) - {known.name for known in checks}
        if unknown:
            pytest.fail(f"expected_failures names no check: {', '.join(sorted(unknown))}")
        if check.name in self.expected_failures:
            reason = self.expected_failures[check.name]
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
        try:
            check(subject)
        except NotApplicableError as reason:
            pytest.skip(str(reason))
