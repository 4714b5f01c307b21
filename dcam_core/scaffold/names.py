"""One name, in all the forms that a distribution needs, and whether it is free."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import keyword
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from dcam_core.errors import UsageError
from dcam_core.hookspecs import PROJECT
from dcam_core.plugins.registry import normalise

if TYPE_CHECKING:
    from dcam_core.plugins import PluginManager

__all__ = ["LONGEST_NAME", "PREFIX", "Names", "refuse_taken"]

PREFIX = f"{PROJECT}-"
"""What the names of distributions that bring plugins begin with, by custom. Users of a plugin do not type it."""

LONGEST_NAME = 32
"""Characters of a name: modules and classes are called after it, and their lines should stay readable."""

# Names of distributions as the packaging standards allow them, which is what pip will be given.
_DISTRIBUTION = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", re.IGNORECASE)


@dataclass(frozen=True)
class Names:
    """A name and what follows from it: "dcam-box-blur" is imported as `dcam_box_blur` and asked for as "box-blur".

    Attributes:
        distribution: what pip installs, normalised: lower case, "-" between words.
    """

    distribution: str

    @classmethod
    def of(cls, name: str) -> Self:
        """The names that follow from what the user typed.

        Args:
            name: a distribution's name; "Box_Blur" and "box-blur" are the same.

        Raises:
            UsageError: pip, or Python, cannot work with it.
        """
        if not _DISTRIBUTION.fullmatch(name):
            raise UsageError(
                f"{name!r} is no name of a distribution: use letters, digits and single '-' between them, such as "
                f"{PREFIX}box-blur"
            )
        names = cls(re.sub(r"[-_.]+", "-", name).lower())
        if len(names.distribution) > LONGEST_NAME:
            raise UsageError(
                f"{name!r} has {len(name)} characters, and modules and classes are named after it: give at most "
                f"{LONGEST_NAME}"
            )
        if not names.stem[0].isalpha():
            raise UsageError(
                f"{name!r} would need a Python class {names.stem!r}, and no class begins with a digit: begin it "
                "with a letter"
            )
        if keyword.iskeyword(names.package):
            raise UsageError(
                f"{name!r} cannot be imported, because {names.package!r} is a keyword of Python: call it "
                f"{PREFIX}{names.distribution}"
            )
        return names

    @property
    def package(self) -> str:
        """What is imported: "dcam_box_blur"."""
        return self.distribution.replace("-", "_")

    @property
    def registered(self) -> str:
        """What users ask for, and the name of the plugin: "box-blur"."""
        return self.distribution.removeprefix(PREFIX)

    @property
    def stem(self) -> str:
        """What the names of its classes begin with: "BoxBlur"."""
        return "".join(part.capitalize() for part in self.registered.split("-"))


def refuse_taken(names: Names, kinds: tuple[str, ...], manager: PluginManager) -> None:
    """Refuse a name that something installed has already: the new distribution would hide it, or fail to load.

    Args:
        names: the new distribution's names.
        kinds: the kinds of things that it registers under `names.registered`, as registries are called
            ("refiners", "methods").
        manager: the plugins that are installed.

    Raises:
        UsageError: it is taken; the message says by whom.
    """
    for owner in _owners(names, kinds, manager):
        other = (
            "choose another name"
            if names.distribution.startswith(PREFIX)
            else f"choose another name, such as {PREFIX}my-{names.registered}"
        )
        raise UsageError(f"{names.distribution!r} is taken: {owner}; {other}")


def _owners(names: Names, kinds: tuple[str, ...], manager: PluginManager) -> Iterator[str]:
    """Whoever has one of the names, in words."""
    if names.package in sys.stdlib_module_names:
        yield f"{names.package!r} is a module of Python's own library, which it would hide"
    if (installed := _installed(names.distribution)) is not None:
        yield f"a distribution of that name is installed (version {installed})"
    spec = importlib.util.find_spec(names.package)
    # A mere folder can be imported too, as a namespace; it has no origin, and hides nobody.
    if spec is not None and spec.origin is not None:
        yield f"a package {names.package!r} is installed ({spec.origin})"
    for info in manager.plugins:
        if normalise(info.name) == names.registered:
            origin = f"distribution {info.distribution!r}" if info.distribution else info.source
            yield f"{origin} brings a plugin {info.name!r}"
    registries = dict(manager.registries.items())
    for kind in kinds:
        if names.registered in registries[kind]:
            entry = registries[kind].entry(names.registered)
            yield f"{entry.origin} offers {entry.kind} {entry.name!r}"


def _installed(distribution: str) -> str | None:
    """Version of an installed distribution."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
