"""Tests of the test kit's promises: what keeps them passes, and what breaks one is found, with a message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest

from dcam_core.conformance import Check, NotApplicableError


class PromisesOfTheKit:
    """Subclass it as `TestPromises`.

    Attributes:
        checks: the promises.
        proper: makes something that keeps all of them.
        broken: name of a promise -> (something that breaks it, what the message must match).
    """

    checks: ClassVar[tuple[Check[Any], ...]]
    proper: ClassVar[Callable[[], Any]]
    broken: ClassVar[Mapping[str, list[tuple[Any, str]]]]

    def pytest_generate_tests(self, metafunc):
        """For every check in its order: itself, or also each thing that breaks it."""
        if "broken_one" in metafunc.fixturenames:
            cases = [
                pytest.param(check, subject, found, id=f"{check.name}-{number}")
                for check in self.checks
                for number, (subject, found) in enumerate(self.broken.get(check.name, []))
            ]
            metafunc.parametrize(("check", "broken_one", "found"), cases)
        elif "check" in metafunc.fixturenames:
            metafunc.parametrize("check", self.checks, ids=lambda check: check.name)

    def test_what_keeps_its_promises_passes(self, check):
        assert check(type(self).proper())

    def test_a_broken_promise_is_found(self, check, broken_one, found):
        with pytest.raises(Exception, match=found) as caught:
            check(broken_one)
        assert not isinstance(caught.value, NotApplicableError)

    def test_for_every_promise_there_is_something_that_breaks_it(self):
        assert {check.name for check in self.checks} == set(self.broken)
        assert all(check.promise.endswith(".") for check in self.checks)
