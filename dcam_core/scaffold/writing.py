"""Fills in the templates and puts the result in its place: whole, or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import dcam_core
from dcam_core.errors import DcamError, UsageError
from dcam_core.scaffold.names import Names

if TYPE_CHECKING:
    from dcam_core.plugins import PluginManager
    from dcam_core.plugins.registry import Entry

__all__ = ["KINDS", "write_distribution"]

KINDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "adapter": ("adapters",),
        "attribution": ("attributions", "methods"),
        "refiner": ("refiners", "methods"),
    }
)
"""What can be generated -> the kinds of things that it registers under its name."""

_TEMPLATES = Path(__file__).with_name("templates")
_SUFFIX = ".jinja"
_PACKAGE, _NAME = "PACKAGE", "NAME"
"""Parts of the templates' paths that stand for the import name, and for the name that users ask for."""


def write_distribution(kind: str, names: Names, folder: Path, manager: PluginManager) -> tuple[Path, ...]:
    """Write a distribution.

    Everything is rendered and written beside the folder first, and moved there in one go.

    Args:
        kind: one of `KINDS`.
        names: what it is called.
        folder: where it goes; it does not exist yet, or is empty.
        manager: the installed plugins: examples use what they offer.

    Returns:
        The files, relative to the folder, sorted.

    Raises:
        UsageError: the folder holds something, or cannot be written.
        DcamError: no plugin offers what the examples need.
    """
    folder = folder.expanduser().absolute()
    _check_free(folder)
    rendered = dict(_render(kind, _values(kind, names, manager)))
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            made = Path(temporary, "made")  # a folder of its own: the temporary one is nobody else's to read
            for path, text in rendered.items():
                file = made / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8", newline="\n")
            if folder.is_dir():  # empty, but perhaps where somebody's shell is: filled, not replaced
                for child in sorted(made.iterdir()):
                    child.rename(folder / child.name)
            else:
                made.rename(folder)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written ({error.strerror or error}): choose another folder"
        ) from error
    return tuple(sorted(rendered))


def _check_free(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: give a folder that is empty or does not exist")
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(
            f"{folder} is not empty, and nothing in it is overwritten: give a folder that is empty or does not exist"
        )
    if not folder.parent.is_dir():
        raise UsageError(f"{folder} cannot be made, because {folder.parent} does not exist: make that first")


def _values(kind: str, names: Names, manager: PluginManager) -> dict[str, Any]:
    """What the templates may use."""
    from dcam_core.method import DEFAULT_METHOD, resolve_method

    method = resolve_method(DEFAULT_METHOD, manager.registries.methods.get(DEFAULT_METHOD))
    demo = _demo(manager)
    return {
        "kind": kind,
        "distribution": names.distribution,
        "package": names.package,
        "name": names.registered,
        "stem": names.stem,
        "dcam_version": dcam_core.__version__,
        "attribution": method.attribution["name"],
        "demo_model": demo.name,
        "demo_prompt": demo.metadata["demo_prompt"],
    }


def _demo(manager: PluginManager) -> Entry[Any]:
    """A model that is there without a download, with a prompt that it understands."""
    models = [entry for entry in manager.registries.models if "demo_picture" in entry.metadata]
    if not models:
        raise DcamError("the examples need a model to run on, and no plugin offers one: see `dcam plugins`")
    return next((entry for entry in models if entry.metadata.get("demo")), models[0])


def _render(kind: str, values: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Path within the distribution, and content, of every file."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # The kind's own folder first: what it has replaces what is common to all.
    roots = [_TEMPLATES / kind, _TEMPLATES / "common"]
    environment = Environment(
        loader=FileSystemLoader(roots),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701  (Python, TOML and Markdown, not HTML)
    )
    for template in sorted(environment.list_templates(filter_func=lambda name: name.endswith(_SUFFIX))):
        path = template.removesuffix(_SUFFIX).replace(_PACKAGE, values["package"])
        yield (
            Path(path.replace(_NAME, values["name"])),
            environment.get_template(template).render(values),
        )
