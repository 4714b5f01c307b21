"""What is said of plugins: whose they are, why one was set aside, and the error and the warning that say so."""

from __future__ import annotations

from dataclasses import dataclass, field

from dcam_core.errors import DcamError, PluginError

__all__ = ["PluginFailure", "PluginLoadError", "PluginWarning", "describe", "indefinite", "origin_of"]


@dataclass(frozen=True)
class PluginFailure:
    """Why a plugin was set aside; everything that it had registered was taken back.

    Attributes:
        name: name of the plugin (of its entry point).
        distribution: the distribution that brought it; "" if it is a module without one.
        version: version of the distribution; "" if there is none.
        phase: "import", "validate" (its hooks do not fit the hook declarations) or "register" (it raised
            while registering, or claimed a name that is taken).
        cause: the exception.
        traceback: the formatted traceback of `cause`.
        offered: names of the things that it had begun to register.
        hook: the registering hook that raised; "" if none did.
    """

    name: str
    distribution: str
    version: str
    phase: str
    cause: BaseException = field(repr=False)
    traceback: str = field(repr=False)
    offered: frozenset[str] = frozenset()
    hook: str = ""

    def __str__(self) -> str:
        return f"{origin_of(self.name, self.distribution, self.version)} {self.reason}"

    @property
    def reason(self) -> str:
        """What failed and why, on one line: "failed to import: ImportError: no module named cv3"."""
        where = f" in {self.hook}" if self.hook and not isinstance(self.cause, PluginError) else ""
        return f"failed to {self.phase}{where}: {describe(self.cause)}"


class PluginLoadError(PluginError):
    """A plugin that was asked for could not be loaded.

    Args:
        failure: the record, kept as `.failure`.
    """

    def __init__(self, failure: PluginFailure) -> None:
        self.failure = failure
        super().__init__(failure.name, str(failure))
        self.__cause__ = failure.cause


class PluginWarning(UserWarning):
    """A plugin failed and was set aside, or failed to observe, or a switch names none; the run goes on."""


def origin_of(name: str, distribution: str = "", version: str = "") -> str:
    """Whose a plugin is, as every message says it: "plugin 'sharp' (dcam-sharp 1.0)"."""
    brought = " ".join(part for part in (distribution, version) if part)
    return f"plugin {name!r} ({brought})" if brought else f"plugin {name!r}"


def indefinite(noun: str) -> str:
    """A noun with its article: "a list", "an int"."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def describe(error: BaseException) -> str:
    """Type and message of an exception on one line; our own errors speak for themselves."""
    message = " ".join(str(error).split())
    return message if isinstance(error, DcamError) else f"{type(error).__name__}: {message}".rstrip(": ")
