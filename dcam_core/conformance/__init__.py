"""What every adapter promises, examined: for `dcam check`, and for the tests of whoever writes an adapter.

The checks know the contract of `dcam_core.Adapter` alone. `dcam_core.testing.AdapterConformance` has them as a
test class for pytest.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Literal

from dcam_core.conformance import engine, gradients, layout, replaying, sight, untouched
from dcam_core.conformance.check import BrokenPromiseError, Check, NotApplicableError, Result
from dcam_core.conformance.subject import Subject
from dcam_core.errors import DcamError

__all__ = ["CHECKS", "BrokenPromiseError", "Check", "NotApplicableError", "Result", "Subject", "examine"]

CHECKS: tuple[Check[Subject], ...] = (
    Check("image-span", layout.image_span),
    Check("rectangles", layout.rectangles),
    Check("sight", sight.sight),
    Check("replay", replaying.replay),
    Check("replay-blocks", replaying.replay_blocks),
    Check("replay-temperature", replaying.replay_temperature),
    Check("replay-guidance", replaying.replay_guidance),
    Check("replay-prefix-cache", replaying.replay_prefix_cache),
    Check("replay-other-caches", replaying.replay_other_caches),
    Check("batch", replaying.batch),
    Check("positions", replaying.positions),
    Check("determinism", replaying.determinism),
    Check("gradients", gradients.gradients),
    Check("gradients-prefix-cache", gradients.gradients_prefix_cache),
    Check("untouched", untouched.after_success),
    Check("untouched-after-error", untouched.after_error),
    Check("untouched-after-interrupt", untouched.after_interrupt),
    Check("bfloat16", engine.bfloat16),
    Check("errors", engine.errors),
    Check("explanation", engine.explanation),
)
"""Every promise of an adapter, in the order in which one builds on the other."""


def examine(subject: Subject, checks: Iterable[Check[Subject]] = CHECKS) -> Iterator[Result]:
    """Examine an adapter, one promise after the other.

    Args:
        subject: the adapter, and what it is asked.
        checks: the promises.

    Yields:
        How each examination ended. Whatever an adapter raises is a failure of it, and the next check goes on;
        only an interrupt ends the examination.
    """
    for check in checks:
        began = time.perf_counter()
        status, detail = _examined(check, subject)
        yield Result(check.name, check.promise, status, detail, time.perf_counter() - began)


def _examined(check: Check[Subject], subject: Subject) -> tuple[Literal["pass", "fail", "skipped"], str]:
    """Status and detail of one examination."""
    try:
        return "pass", check(subject)
    except NotApplicableError as reason:
        return "skipped", str(reason)
    except DcamError as error:
        return "fail", _line(error)
    except Exception as error:  # noqa: BLE001  (a broken adapter may raise anything, and there is more to examine)
        return "fail", f"{type(error).__name__}: {_line(error)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
