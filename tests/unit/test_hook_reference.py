"""The reference page of the hooks: up to date, complete, and every line of it tested somewhere.

A hook's argument has a test if a module `test_hooks_*.py` holds a function that is named like the hook, asks for
the argument and reads it: such a function is an implementation that a real engine calls.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from dcam_core import errors
from dcam_core.plugins import reference
from dcam_core.plugins.life import LIFE

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "hooks.md"
HOOKS = reference.hook_references()
each_hook = pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.name)


@pytest.fixture(scope="module")
def tested():
    """Hook -> the arguments that implementations in our tests read."""
    read = defaultdict(set)
    for path in (ROOT / "tests" / "unit").glob("test_hooks_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("dcam_"):
                names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
                read[node.name] |= {argument.arg for argument in node.args.args} & names
    return read


def test_the_page_is_up_to_date():
    command = [sys.executable, "-m", "dcam_core.plugins.reference"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert PAGE.read_text(encoding="utf-8") == done.stdout, (
        "run: python -m dcam_core.plugins.reference > docs/hooks.md"
    )


@each_hook
def test_a_hook_is_on_the_page_with_its_exact_arguments(hook):
    _, _, entry = PAGE.read_text(encoding="utf-8").partition(f"\n### {hook.name}\n")
    assert entry, "the hook is not on the page"
    rows = [
        line.split("|")[1].strip() for line in entry.partition("\n#")[0].splitlines() if line[:3] == "| `"
    ]
    assert rows == [f"`{argument}`" for argument in hook.signature.parameters]


@each_hook
def test_a_hook_documents_its_exact_arguments(hook):
    assert list(hook.arguments) == list(hook.signature.parameters)
    assert all(text.endswith(".") for text in hook.arguments.values())
    assert hook.text.partition("\n")[0].endswith(".")


@each_hook
def test_deciding_hooks_and_only_they_say_what_they_answer_and_what_is_refused(hook):
    decides = hook.kind == "Deciding"
    assert (hook.signature.return_annotation != "None") is decides
    assert bool(hook.returns) is decides
    assert bool(hook.raises) is decides


@each_hook
def test_an_error_that_is_documented_is_an_error_of_ours(hook):
    assert [name for name in hook.raises if not hasattr(errors, name)] == []


@each_hook
def test_a_hook_has_its_moment_in_the_life_of_a_run(hook):
    assert [phase.name for phase in LIFE if hook.name in phase.hooks]


@each_hook
def test_every_argument_of_a_hook_has_a_test(hook, tested):
    untested = set(hook.signature.parameters) - tested[hook.name]
    assert not untested, f"no implementation of {hook.name} in tests/unit/test_hooks_*.py reads {untested}"


def test_a_docstring_is_read_section_by_section():
    def dcam_made_up(one: int, two: str | None) -> float:
        """Do a thing.

        It has a second paragraph.

        Args:
            one: a number, told
                on two lines.
            two: a word.

        Returns:
            A number.

        Raises:
            TargetError: never.
            PluginError: rarely, and then
                for a reason.
        """
        raise NotImplementedError

    read = reference._reference("dcam_made_up", "Deciding", dcam_made_up)
    assert read.text == "Do a thing.\n\nIt has a second paragraph."
    assert read.arguments == {"one": "a number, told on two lines.", "two": "a word."}
    assert read.returns == "A number."
    assert read.raises == {"TargetError": "never.", "PluginError": "rarely, and then for a reason."}
    entry = "\n".join(reference._entry(read))
    assert r"| `two` | `str \| None` | a word. |" in entry
