"""How much of a run's time explanations may take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from dcam_core.errors import ConfigurationError

__all__ = ["TimeBudget"]


class TimeBudget:
    """Bounds the share of the wall-clock time that explanations take.

    The first explanation is always made: before it nobody knows what one costs. Each further one is made
    if, taking as long as the last, it leaves the share within the bound.

    Args:
        max_fraction: the bound, above 0 and at most 1; None: there is none.

    Attributes:
        spent: seconds that explanations have taken since `start`.

    Raises:
        ConfigurationError: the bound is not such a number.
    """

    def __init__(self, max_fraction: float | None) -> None:
        if max_fraction is not None and not 0 < max_fraction <= 1:
            raise ConfigurationError(
                f"max_time_fraction is {max_fraction}: it must be above 0 and at most 1, or None for no bound"
            )
        self.max_fraction = max_fraction
        self.start()

    def start(self) -> None:
        """Begin to count anew: a run begins."""
        self._began = time.monotonic()
        self._last = 0.0
        self.spent = 0.0

    @property
    def allows(self) -> bool:
        """Whether one more explanation stays within the bound."""
        if self.max_fraction is None or not self._last:
            return True
        elapsed = time.monotonic() - self._began
        return self.spent + self._last <= self.max_fraction * (elapsed + self._last)

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Count what the body takes, which explains, also if it raises."""
        before = self.spent
        try:
            with self.counting():
                yield
        finally:
            self._last = self.spent - before

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what the body takes, which may find that there is nothing to explain."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.spent += time.monotonic() - began
