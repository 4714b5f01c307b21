"""The reference page of the hooks, written from their declarations.

    python -m dcam_core.plugins.reference > docs/hooks.md

What the page says of a hook is its docstring in `dcam_core/hookspecs.py`, and when it is called is told by
`dcam_core/plugins/life.py`; a test compares the committed page with both.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dcam_core import hookspecs
from dcam_core.plugins.fit import HOOKS
from dcam_core.plugins.life import LIFE, Phase
from dcam_core.plugins.relay import REGISTERING

__all__ = ["HookReference", "hook_references", "page"]

KINDS = ("Registering", "Deciding", "Observing")

_SECTION = re.compile(r"^(Args|Returns|Raises):$", re.MULTILINE)
_ITEM = re.compile(r"^(\w+): ", re.MULTILINE)


@dataclass(frozen=True)
class HookReference:
    """What is known about one hook, or about a callback that hooks are given.

    Attributes:
        name: its name.
        kind: one of `KINDS`.
        signature: arguments with their types, and the type of the answer, as declared.
        text: what it is for, in Markdown.
        arguments: name -> what it holds, as documented and in that order.
        returns: what an implementation answers; "" where a return value is ignored.
        raises: name of an error -> when it is raised.
    """

    name: str
    kind: str
    signature: inspect.Signature
    text: str
    arguments: dict[str, str]
    returns: str
    raises: dict[str, str]


def hook_references() -> tuple[HookReference, ...]:
    """Every hook, in the order of declaration."""
    hooks = ((name, getattr(hookspecs, name)) for name in HOOKS)
    return tuple(_reference(name, _kind(name, hook), hook) for name, hook in hooks)


def page() -> str:
    """The page, in Markdown."""
    parts = [
        "# The hooks",
        "<!-- Written by `python -m dcam_core.plugins.reference > docs/hooks.md`; change "
        "dcam_core/hookspecs.py or dcam_core/plugins/life.py, not this page. -->",
        inspect.getdoc(hookspecs) or "",
        "[The recipes](recipes/) show how each kind of plugin is written, tested and packaged.",
        "## The life of a run",
        "\n".join(_phase(number, phase) for number, phase in enumerate(LIFE, start=1)),
    ]
    references = hook_references()
    for kind in KINDS:
        parts.append(f"## {kind} hooks")
        if kind == "Registering":
            parts += _entry(_reference("register", kind, hookspecs.Register.__call__))
        for reference in references:
            if reference.kind == kind:
                parts += _entry(reference)
    parts += ["## Where the types are", _table(("type", "module"), _types(references))]
    return "\n\n".join(parts) + "\n"


# -- reading -------------------------------------------------------------------------------------------------


def _kind(name: str, hook: Any) -> str:
    if name.startswith(REGISTERING):
        return "Registering"
    return "Deciding" if hook.dcam_spec["firstresult"] else "Observing"


def _reference(name: str, kind: str, function: Any) -> HookReference:
    text, *rest = _SECTION.split(inspect.getdoc(function) or "")
    sections = dict(zip(rest[::2], map(inspect.cleandoc, rest[1::2]), strict=True))
    signature = inspect.signature(function)
    return HookReference(
        name,
        kind,
        signature.replace(parameters=[p for p in signature.parameters.values() if p.name != "self"]),
        text.strip(),
        _items(sections.get("Args", "")),
        sections.get("Returns", ""),
        _items(sections.get("Raises", "")),
    )


def _items(section: str) -> dict[str, str]:
    """The entries `name: text` of a docstring's section, each text on one line."""
    _, *rest = _ITEM.split(section)
    return {name: " ".join(text.split()) for name, text in zip(rest[::2], rest[1::2], strict=True)}


def _types(references: Sequence[HookReference]) -> Iterator[tuple[str, str]]:
    """(type, module) of every class of ours in a signature; read from the imports that only annotations need."""
    named = set(re.findall(r"\w+", " ".join(str(reference.signature) for reference in references)))
    for node in ast.walk(ast.parse(inspect.getsource(hookspecs))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if alias.name in named and node.module.startswith("dcam_core."):
                    yield f"`{alias.name}`", f"`{node.module}`"


# -- writing -------------------------------------------------------------------------------------------------


def _phase(number: int, phase: Phase) -> str:
    """One item of the numbered life of a run."""
    module, _, function = phase.caller.partition(":")
    lead = f"{number}. **{phase.name}.** Once for each {phase.each}, during `{function}` of `{module}`."
    hooks = [f"    * [`{hook}`](#{hook})" for hook in phase.hooks]
    return "\n".join([f"{lead} {phase.says}", *hooks])


def _entry(reference: HookReference) -> Iterator[str]:
    """One hook."""
    yield f"### {reference.name}"
    yield f"```python\n{_declaration(reference)}\n```"
    yield reference.text
    yield from (f"Called once for each {phase.each}." for phase in LIFE if reference.name in phase.hooks)
    parameters = reference.signature.parameters
    rows = [(f"`{name}`", _type(parameters[name]), text) for name, text in reference.arguments.items()]
    yield _table(("argument", "type", "what it holds"), rows)
    if reference.returns:
        yield f"**Answer.** {reference.returns}"
    if reference.raises:
        yield "**Errors.**"
        yield "\n".join(f"* `{error}`: {text}" for error, text in reference.raises.items())


def _declaration(reference: HookReference) -> str:
    """The signature as Python, one argument a line where it is long."""
    line = f"def {reference.name}{reference.signature}".replace("'", "")
    if len(line) <= 100:
        return line
    arguments = "".join(f"    {p},\n".replace("'", "") for p in reference.signature.parameters.values())
    return f"def {reference.name}(\n{arguments}) -> {reference.signature.return_annotation}"


def _type(parameter: inspect.Parameter) -> str:
    return f"`{parameter.annotation}`"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    sys.stdout.write(page())
