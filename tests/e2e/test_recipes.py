"""Every recipe does what it says: its files are written, its code and its commands run, its messages appear."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RECIPES = sorted((DOCS / "recipes").glob("*.md"))
PLAYER = ROOT / "tests" / "support" / "recipe.py"
EXPECTED = {
    "attribution",
    "dataset",
    "mask-step-policy",
    "metric",
    "new-family-from-scratch",
    "refiner",
    "wrapping-upstream-code",
}


def play(recipe: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    # The recipe's folder is found first, also by the interpreter's own search for installed distributions.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DCAM_")}
    return subprocess.run(
        [sys.executable, str(PLAYER), str(recipe)],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_does_what_it_says(recipe, tmp_path):
    done = play(recipe, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_a_recipe_for_everything_that_can_be_written():
    assert {recipe.stem for recipe in RECIPES} == EXPECTED


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda path: str(path.relative_to(DOCS)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)", page.read_text(encoding="utf-8"))
    files = [link for link in links if "://" not in link]
    assert [link for link in files if not (page.parent / link).exists()] == []


def test_the_index_leads_to_every_page():
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"README.md"}
    assert {page for page in pages if f"]({page})" not in index} == set()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "bad.md:5: expected"),
        ("```python\n1 / 0\n```\n", "ZeroDivisionError"),
        ("```python\n# pond/idle.py\nx = 1\n```\n", "nothing imports pond/idle.py"),
        ("```console\n$ rm pond\n```\n", "not rm"),
        ("```console\n$ dcam explain pond.png\n```\n", "ended with 2"),
    ],
    ids=["output", "exception", "unread file", "command", "exit code"],
)
def test_a_recipe_that_is_wrong_is_found_out(text, message, tmp_path):
    recipe = tmp_path / "bad.md"
    recipe.write_text(text)
    done = play(recipe, tmp_path)
    assert done.returncode != 0
    assert message in done.stderr


def test_the_player_takes_a_right_recipe(tmp_path):
    recipe = tmp_path / "good.md"
    recipe.write_text(
        "```python\n# pond/fish.py\nname = 'carp'\n```\n\n"
        "```python\nfrom pond.fish import name\n\nprint('a', name, 'of', 3, 'pounds')\n```\n\n"
        "```text\na carp ... pounds\n```\n"
    )
    done = play(recipe, tmp_path)
    assert done.returncode == 0, done.stderr
