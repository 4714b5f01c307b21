"""One thing that a plugin offers: imported when somebody asks for it, and held to what its kind promises."""

from __future__ import annotations

import importlib
import inspect
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast

from dcam_core.errors import PluginError
from dcam_core.plugins.failure import describe, indefinite, origin_of

__all__ = ["Contract", "Entry", "file", "folder", "import_object", "normalise", "subclass_of"]

T = TypeVar("T")

Contract = Callable[[object], str]
"""(a thing) -> what is wrong with it, as "is X: expected Y"; "" if it is what its kind promises."""

_IMPORT_STRING = re.compile(r"[^\W\d]\w*(\.\w+)*:[^\W\d]\w*(\.\w+)*")


def normalise(name: str) -> str:
    """The form in which names are compared: lower case, "-" for "_"."""
    return name.strip().lower().replace("_", "-")


def import_object(target: str) -> Any:
    """Import what an import string "package.module:attribute" names.

    Raises:
        ValueError: `target` is no import string.
        ImportError: the module cannot be imported.
        AttributeError: the module has no such attribute.
    """
    if not _IMPORT_STRING.fullmatch(target):
        raise ValueError(f"{target!r} is no import string: write 'package.module:attribute'")
    module, _, attribute = target.partition(":")
    return operator.attrgetter(attribute)(importlib.import_module(module))


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One thing that a plugin offers.

    Attributes:
        kind: what it is, in the singular ("refiner").
        name: its normalised name.
        target: the thing, or an import string "package.module:attribute" for it.
        plugin: name of the plugin that registered it.
        distribution: the distribution that brought the plugin; "" if none did.
        metadata: facts known without importing it (see the registering hooks).
        contract: what a thing of this kind must be; None: anything.
    """

    kind: str
    name: str
    target: T | str
    plugin: str
    distribution: str = ""
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    contract: Contract | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.target, str) and not _IMPORT_STRING.fullmatch(self.target):
            raise PluginError(
                self.plugin,
                f"{self.kind} {self.name!r} is registered as {self.target!r}, which is no import string: "
                "write 'package.module:attribute', or register the object itself",
            )

    @property
    def origin(self) -> str:
        """Who brought it, for messages."""
        return origin_of(self.plugin, self.distribution)

    @property
    def label(self) -> str:
        """What it is and who brought it, for messages: "refiner 'sharp' of plugin 'mine' (dcam-mine)"."""
        return f"{self.kind} {self.name!r} of {self.origin}"

    def load(self) -> T:
        """The thing itself, imported now if it was not before.

        Raises:
            PluginError: the import failed, or what was imported is not what its kind promises.
        """
        thing = self._imported()
        if self.contract is not None and (complaint := self.contract(thing)):
            where = f", {self.target!r}," if isinstance(self.target, str) else ""
            raise PluginError(self.plugin, f"{self.label}{where} {complaint}")
        return thing

    def _imported(self) -> T:
        if not isinstance(self.target, str):
            return self.target
        try:
            return cast(T, import_object(self.target))
        # A module that calls sys.exit() while it is imported must not end the program.
        except (Exception, SystemExit) as error:
            raise PluginError(
                self.plugin, f"{self.label} cannot be imported from {self.target!r}: {describe(error)}"
            ) from error


def subclass_of(*bases: str) -> Contract:
    """The contract of a kind whose things are classes.

    Args:
        bases: import strings of the classes of which they derive from one; imported when the first one is loaded.
    """

    def complaint(thing: object) -> str:
        expected = tuple(import_object(base) for base in bases)
        public = " or ".join(f"dcam_core.{base.__name__}" for base in expected)
        if not inspect.isclass(thing):
            return f"is {indefinite(type(thing).__name__)}: expected a class, a subclass of {public}"
        if not issubclass(thing, expected):
            return f"is the class {thing.__qualname__}: expected a subclass of {public}"
        if inspect.isabstract(thing):
            missing = ", ".join(sorted(getattr(thing, "__abstractmethods__", ())))
            return f"does not implement {missing}: every {public} must"
        return ""

    return complaint


def file(thing: object) -> str:
    """The contract of a kind whose things are files."""
    if not isinstance(thing, Path):
        return f"is {indefinite(type(thing).__name__)}: expected the pathlib.Path of a file"
    return "" if thing.is_file() else f"is {thing}, which is not there: expected the path of a file"


def folder(thing: object) -> str:
    """The contract of a kind whose things are folders."""
    if not isinstance(thing, Path):
        return f"is {indefinite(type(thing).__name__)}: expected the pathlib.Path of a folder"
    return "" if thing.is_dir() else f"is {thing}, which is not there: expected the path of a folder"
