"""The errors that dcam raises on purpose.

Every message is one line that says what was found, where, why it is wrong, and what to do. The command
line prints exactly that line; a `UsageError` exits with 2 (the call was wrong), every other `DcamError`
with 1 (the work failed). Anything that is not a `DcamError` is a defect of dcam or of a plugin.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "CheckpointError",
    "ConfigurationError",
    "DatasetError",
    "DcamError",
    "LostProcessError",
    "PictureError",
    "PluginError",
    "ReplayError",
    "SavedExplanationError",
    "StructuralValidityError",
    "TargetError",
    "UnknownNameError",
    "UsageError",
]


class DcamError(Exception):
    """Base class of every error that dcam raises on purpose."""


class UsageError(DcamError):
    """The call itself was wrong: the user can mend it (exit code 2)."""


class ConfigurationError(UsageError):
    """A method, sampler or command-line setting is unknown, has the wrong type or a wrong value."""


class UnknownNameError(UsageError):
    """Something was asked for by a name that nobody registered.

    Args:
        kind: what was looked for, in the singular ("refiner").
        name: the name asked for.
        known: the names there are.
        hint: a further sentence, e.g. that a plugin which would have registered the name failed.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        self.kind, self.name, self.known, self.hint = kind, name, tuple(sorted(known)), hint
        close = difflib.get_close_matches(name, self.known, n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        there = ", ".join(self.known) or "none"
        super().__init__(f"unknown {kind} {name!r}: there are {there}.{guess}{' ' + hint if hint else ''}")


class PictureError(UsageError):
    """A picture is missing, unreadable or of no use."""


class DatasetError(UsageError):
    """The folder or file of a dataset is missing, unreadable or not in the format that it should be in."""


class TargetError(UsageError):
    """A target is not in the answer, or does not say which of several words is meant."""


class CheckpointError(DcamError):
    """A checkpoint folder is incomplete, of another family, or does not fit its own configuration."""


class StructuralValidityError(DcamError):
    """A denoising step cannot be probed at this module: its output does not hold the image-token span.

    Paper: "structurally valid step"; specs of the method, section 2.
    """


class ReplayError(DcamError):
    """A replayed forward pass did not give what it must: no call of the probed module, no gradient."""


class LostProcessError(DcamError):
    """Another of the processes that share the work has ended before its time."""


class SavedExplanationError(DcamError):
    """A folder of a saved explanation cannot be written, or read back."""


class PluginError(DcamError):
    """A plugin failed to load or broke its contract.

    Args:
        plugin: name of the plugin, kept as `.plugin` for debuggers.
        message: what it did.
    """

    def __init__(self, plugin: Any, message: str) -> None:
        self.plugin = plugin
        super().__init__(message)
