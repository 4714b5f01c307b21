"""What is known about each plugin, and what may be missing because some of them are not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from dcam_core.plugins.entry import normalise
from dcam_core.plugins.failure import PluginFailure, PluginLoadError, origin_of

__all__ = ["PluginInfo", "Status", "missing_because"]

Status = Literal["loaded", "failed", "blocked", "not loaded"]


@dataclass(frozen=True)
class PluginInfo:
    """One line of the list of plugins.

    Attributes:
        name: name of the plugin.
        distribution: the distribution that brings it; "" if it is a module without one.
        version: version of the distribution; "" if there is none.
        source: what is imported.
        status: "loaded"; "failed"; "blocked" by name; or "not loaded", because only named plugins are
            (`DCAM_DISABLE_PLUGIN_AUTOLOAD`).
        hooks: names of the hooks that it implements.
        offers: kind -> names of what it registered.
        failure: why it failed, or None.
    """

    name: str
    distribution: str
    version: str
    source: str
    status: Status
    hooks: tuple[str, ...] = ()
    offers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    failure: PluginFailure | None = None

    @property
    def origin(self) -> str:
        """Whose it is, for messages."""
        return origin_of(self.name, self.distribution, self.version)

    def answers_to(self, name: str) -> bool:
        """Whether a name means this plugin: its own, or what is imported for it."""
        return normalise(name) in (normalise(self.name), normalise(self.source))


def missing_because(plugins: Iterable[PluginInfo], name: str = "") -> tuple[str, Exception | None]:
    """Why something may be missing: plugins that failed, were blocked, or were not loaded.

    Args:
        plugins: all plugins there are.
        name: what is missing. A plugin that had begun to register it, or that is named like it, is the only
            suspect; otherwise all are.

    Returns:
        A sentence, "" if all plugins are there, and the record of the failure, if any, as an exception: a
        `PluginLoadError`, or a group of them.
    """
    absent = [info for info in plugins if info.status != "loaded"]
    key = normalise(name)
    sure = [info for info in absent if info.failure is not None and key in info.failure.offered]
    sure = sure or [info for info in absent if normalise(info.name) == key]
    absent = sure or absent
    failures = [info.failure for info in absent if info.failure is not None]
    reasons = [str(failure) for failure in failures]
    for status in ("blocked", "not loaded"):
        alike = [info for info in absent if info.status == status]
        if alike:
            which = alike[0].name if len(alike) == 1 else "NAME"
            verb = "is" if len(alike) == 1 else "are"
            reasons.append(
                f"{', '.join(info.origin for info in alike)} {verb} {status}: switch it on with `-p {which}`"
            )
    errors = [PluginLoadError(failure) for failure in failures]
    cause = ExceptionGroup("plugins that failed to load", errors) if len(errors) > 1 else None
    sentence = f"It may be missing because {'; '.join(reasons)}." if reasons else ""
    return sentence, cause or (errors[0] if errors else None)
