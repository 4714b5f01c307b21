"""The rules of the house: who imports whom, who names what, what is light, what is documented."""

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dcam_core.plugins import PluginManager

ROOT = Path(__file__).parents[2]
PACKAGES = ("dcam_core", "dcam_adapters", "dcam_plugins")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
CORE = [path for path in MODULES if path.relative_to(ROOT).parts[0] == "dcam_core"]
POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["dcam"]


def relative(path):
    return str(path.relative_to(ROOT))


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path):
    """Top-level packages that a module imports, at any depth of its code, and by import string."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}: relative imports hide the direction of an arrow"
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {package for package in PACKAGES if node.value.startswith(f"{package}.")}
    return found


def code_strings(tree):
    """String constants that are no docstrings, nor strings that stand alone as documentation."""
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def identifiers(tree):
    for node in ast.walk(tree):
        for attribute in ("id", "attr", "name", "arg"):
            if isinstance(name := getattr(node, attribute, None), str):
                yield name


@pytest.fixture(scope="module")
def shipped():
    """What the shipped plugins register."""
    manager = PluginManager(autoload=False, extra=POINTS.values(), strict=True)
    return dict(manager.registries.items())


# -- the arrows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_arrows_point_to_the_core(path):
    own = path.relative_to(ROOT).parts[0]
    assert imported(path) & set(PACKAGES) <= {own, "dcam_core"}


@pytest.mark.parametrize("path", CORE, ids=relative)
def test_the_core_names_no_family_and_no_method(path, shipped):
    # Two exceptions: the default method, which the public contract fixes, and the one that has the program's name.
    free = {"diffusion-cam", "dcam"}
    named = {name for kind, registry in shipped.items() for name in registry.names} - free
    tree = parsed(path)
    assert {text for text in code_strings(tree) if text.lower() in named} == set()
    families = [
        family.replace("-", "") for family in ("llada", "lavida", "mmada", *shipped["adapters"].names)
    ]
    flat = [
        name.lower().replace("_", "").replace("-", "") for name in (*identifiers(tree), *code_strings(tree))
    ]
    assert [name for name in flat if any(family in name for family in families)] == []


def test_the_shipped_plugins_offer_something_of_every_kind_that_the_house_has(shipped):
    empty = {kind for kind, registry in shipped.items() if not len(registry)}
    assert empty == set()


# -- modules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_public_module_says_what_is_public_and_what_it_is_for(path):
    tree = parsed(path)
    assert ast.get_docstring(tree), "a module begins with a docstring"
    if path.name.startswith("_") and path.name not in ("__init__.py", "__main__.py"):
        return
    assigned = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    has_code = any(not isinstance(node, ast.Expr) for node in tree.body)
    assert "__all__" in assigned or not has_code


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_what_is_said_to_be_public_is_there(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(name)
    public = getattr(module, "__all__", [])
    assert [name for name in public if not hasattr(module, name)] == []
    assert len(public) == len(set(public))


@pytest.mark.parametrize("module", ["dcam_core", "dcam_core.plugins", *POINTS.values()])
def test_importing_a_plugin_imports_nothing_heavy(module):
    heavy = {"torch", "transformers", "lightning", "matplotlib", "kornia", "numpy"}
    code = f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed(package):
    assert (ROOT / package / "py.typed").is_file()
