"""Plays a recipe of docs/recipes as its reader would, in the current folder; one process plays one recipe.

    python tests/support/recipe.py docs/recipes/refiner.md

Fenced blocks are played from top to bottom:

* a block of any language whose first line is a comment with a file name, "# pyproject.toml", is written to that
  file; with pyproject.toml the distribution counts as installed from then on: its entry points are found;
* any other `python` block is executed, all of them in one namespace;
* the lines of a `console` block that begin with "$ dcam" or "$ pytest" are run, `$ pip` and `$ dcam new` are not
  (the folder is on the path already);
* a `text` block is what the block before it printed; "..." in it stands for anything.

At the end every Python file that was written must have been imported: what nobody reads was not tested.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w./-]+\.\w+)\n")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and where it begins."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        match = FILE.match(self.text)
        return match.group(1) if match else None


def blocks(recipe: Path) -> Iterator[Block]:
    text = recipe.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        yield Block(match.group(1), match.group(2), text.count("\n", 0, match.start()) + 1)


def play(recipe: Path) -> None:
    """Play a recipe; whatever is not as it says is raised."""
    sys.path.insert(0, "")
    namespace = sys.modules["recipe"] = ModuleType("recipe")
    printed = ""
    for block in blocks(recipe):
        where = f"{recipe.name}:{block.line}"
        if block.language == "text":
            expect_printed(block.text, printed, where)
        elif block.file is not None:
            write(block)
        elif block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile("\n" * block.line + block.text, recipe.name, "exec"), namespace.__dict__)
            printed = out.getvalue()
        elif block.language == "console":
            printed = "".join(run(line[2:], where) for line in block.text.splitlines() if line[:2] == "$ ")
    loaded = {Path(file).resolve() for module in list(sys.modules.values()) if (file := file_of(module))}
    unread = [path for path in Path().rglob("*.py") if path.resolve() not in loaded]
    if unread:
        raise AssertionError(f"{recipe.name}: nothing imports {', '.join(map(str, unread))}")


def file_of(module: ModuleType) -> str | None:
    return vars(module).get("__file__") if isinstance(module, ModuleType) else None


def write(block: Block) -> None:
    """Write a file of the recipe; pyproject.toml also installs the distribution, as far as its entry points go."""
    path = Path(block.file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text, encoding="utf-8")
    importlib.invalidate_caches()
    if path.name == "pyproject.toml":
        project = tomllib.loads(block.text)["project"]
        package = project["name"].replace("-", "_")
        if not Path(package, "__init__.py").exists():
            raise AssertionError(f"hatchling finds nothing to pack: there is no {package}/__init__.py yet")
        info = Path(f"{package}-{project['version']}.dist-info")
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
        lines = [f"{name} = {value}" for name, value in project["entry-points"]["dcam"].items()]
        (info / "entry_points.txt").write_text("\n".join(["[dcam]", *lines, ""]))
        from dcam_core import default_manager

        default_manager.cache_clear()


def run(command: str, where: str) -> str:
    """Run a command in this process; what it printed."""
    program, *arguments = shlex.split(command)
    if program == "pip" or arguments[:1] == ["new"]:
        return ""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        if program == "dcam":
            from dcam_core.cli import main

            code: object = 0
            try:
                main(arguments)
            except SystemExit as end:
                code = end.code
        elif program == "pytest":
            import pytest

            code = int(pytest.main(["-p", "no:cacheprovider", *arguments]))
        else:
            raise AssertionError(f"{where}: a recipe runs dcam, pytest and pip, not {program}")
    if code:
        raise AssertionError(f"{where}: {command!r} ended with {code}:\n{out.getvalue()}")
    return out.getvalue()


def expect_printed(expected: str, printed: str, where: str) -> None:
    """Compare word by word; "..." stands for anything."""
    parts = (re.escape(" ".join(part.split())) for part in expected.split("..."))
    if not re.fullmatch(r"\s*.*\s*".join(parts), " ".join(printed.split()), re.DOTALL):
        raise AssertionError(f"{where}: expected\n{expected}\nprinted\n{printed}")


if __name__ == "__main__":
    play(Path(sys.argv[1]).resolve())
