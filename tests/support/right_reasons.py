"""The code of docs/right-reasons.md: what it defines, and the experiment that it ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.recipe import Block, blocks

__all__ = ["experiment", "pieces"]

PAGE = Path(__file__).parents[2] / "docs" / "right-reasons.md"


def pieces() -> dict[str, Any]:
    """Everything that the page defines, by name: all of its code but the last block."""
    namespace: dict[str, Any] = {"__name__": "right_reasons"}
    for block in _code()[:-1]:
        _run(block, namespace)
    return namespace


def experiment() -> dict[str, dict[str, float]]:
    """The figures of the experiment: model -> what is measured -> value."""
    namespace = pieces()
    _run(_code()[-1], namespace)
    return namespace["figures"]


def _code() -> list[Block]:
    return [block for block in blocks(PAGE) if block.language == "python"]


def _run(block: Block, namespace: dict[str, Any]) -> None:
    # The page does not import from __future__ what this module does.
    exec(compile("\n" * block.line + block.text, str(PAGE), "exec", dont_inherit=True), namespace)
