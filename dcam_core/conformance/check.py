"""One promise of a contract, and how its examination ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from dcam_core.errors import DcamError

__all__ = ["BrokenPromiseError", "Check", "NotApplicableError", "Result", "expect"]


S = TypeVar("S")


class BrokenPromiseError(DcamError):
    """The subject does not do what its contract promises. The message says what was found."""


class NotApplicableError(DcamError):
    """A promise cannot be examined with this subject. The message says why."""


@dataclass(frozen=True)
class Check(Generic[S]):
    """A named promise. Call it with a subject, such as an adapter: it gives its figures, or raises.

    Attributes:
        name: short and unique: "replay-guidance".
        examine: examines the promise and returns its figures. Raises `BrokenPromiseError` or
            `NotApplicableError`; whatever else it raises is a failure of the subject too. Its docstring says what
            is promised, and why it matters.
    """

    name: str
    examine: Callable[[S], str]

    @property
    def promise(self) -> str:
        """What is promised, in one line."""
        return (self.examine.__doc__ or self.name).strip().partition("\n")[0]

    def __call__(self, subject: S) -> str:
        """Examine the promise; see `examine`."""
        return self.examine(subject)


@dataclass(frozen=True)
class Result:
    """How the examination of one promise ended.

    Attributes:
        name: name of the check.
        promise: what is promised, in one line.
        status: "pass", "fail" or "skipped".
        detail: the figures, what was found, or why it could not be examined; one line.
        seconds: how long it took.
    """

    name: str
    promise: str
    status: Literal["pass", "fail", "skipped"]
    detail: str
    seconds: float

    def __str__(self) -> str:
        """One line: status, name and detail."""
        return f"{self.status:<8}{self.name:<26}{self.detail}"


def expect(condition: bool, message: str) -> None:
    """Raise `BrokenPromiseError` with a message unless the condition holds."""
    if not condition:
        raise BrokenPromiseError(message)
