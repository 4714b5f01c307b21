"""Parameters for tests of the test kit: what breaks a promise, and how the kit says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from dcam_core.conformance import Check


def breaking(checks: Iterable[Check[Any]], broken: Mapping[str, list[tuple[Any, str]]]) -> list[Any]:
    """(check, something that breaks it, what the message must match), for every check in its order."""
    return [
        pytest.param(check, subject, found, id=f"{check.name}-{number}")
        for check in checks
        for number, (subject, found) in enumerate(broken.get(check.name, []))
    ]
