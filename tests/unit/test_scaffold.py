"""`dcam new`: names, what is refused, and that what is written is whole, clean Python with no gaps."""

import ast
import itertools
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dcam_core.errors import DcamError, UnknownNameError, UsageError
from dcam_core.plugins import PluginManager
from dcam_core.scaffold import KINDS, Names, refuse_taken, write_distribution
from dcam_core.scaffold.names import LONGEST_NAME

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "dcam_core" / "scaffold" / "templates"
SHORTEST, LONGEST = "q", "q" + "w" * (LONGEST_NAME - 1)


@pytest.fixture(scope="module")
def manager():
    return PluginManager(autoload=True)


@pytest.fixture(scope="module")
def written(tmp_path_factory, manager):
    """Kind and name -> a distribution; every kind with a usual name, and with the shortest and the longest."""
    root = tmp_path_factory.mktemp("written")
    folders = {}
    for kind, name in itertools.product(KINDS, ("dcam-box-blur", SHORTEST, LONGEST)):
        folders[kind, name] = root / f"{kind}-{name}"
        write_distribution(kind, Names.of(name), folders[kind, name], manager)
    return folders


def ran(*command, cwd):
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, check=False, timeout=300
    )


# -- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "distribution", "package", "registered", "stem"),
    [
        ("dcam-box-blur", "dcam-box-blur", "dcam_box_blur", "box-blur", "BoxBlur"),
        ("Box_Blur", "box-blur", "box_blur", "box-blur", "BoxBlur"),
        ("x.y--z2", "x-y-z2", "x_y_z2", "x-y-z2", "XYZ2"),
        ("dcam", "dcam", "dcam", "dcam", "Dcam"),
    ],
)
def test_what_follows_from_a_name(name, distribution, package, registered, stem):
    names = Names.of(name)
    assert (names.distribution, names.package) == (distribution, package)
    assert (names.registered, names.stem) == (registered, stem)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "no name of a distribution"),
        ("my refiner", "no name of a distribution"),
        ("-x", "no name of a distribution"),
        ("../x", "no name of a distribution"),
        ("größe", "no name of a distribution"),
        ("3d", "no class begins with a digit"),
        ("dcam-3d", "no class begins with a digit"),
        ("class", "keyword of Python: call it dcam-class"),
        ("q" * (LONGEST_NAME + 1), f"at most {LONGEST_NAME}"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_with_the_reason(name, message):
    with pytest.raises(UsageError, match=message):
        Names.of(name)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("refiner", "statistics", r"Python's own library.*such as dcam-my-statistics"),
        ("refiner", "jinja2", r"distribution of that name is installed \(version 3"),
        ("refiner", "dcam", "distribution of that name is installed"),
        ("refiner", "dcam-core", r"a package 'dcam_core' is installed"),
        ("refiner", "dcam-methods", "distribution 'dcam' brings a plugin 'methods'; choose another name$"),
        ("refiner", "dcam-min-max", "plugin 'methods' .*offers refiner 'min-max'"),
        ("refiner", "grad-cam", "offers method 'grad-cam'"),
        ("attribution", "layer-cam", "offers attribution 'layer-cam'"),
        ("adapter", "llada-v", "brings a plugin 'llada_v'"),
    ],
)
def test_a_name_that_is_taken_is_refused_with_the_owner(kind, name, message, manager):
    with pytest.raises(UsageError, match=message):
        refuse_taken(Names.of(name), KINDS[kind], manager)


def test_kinds_have_names_of_their_own(manager):
    # An adapter may be called like a refiner; a folder in the way is no package.
    refuse_taken(Names.of("dcam-min-max"), KINDS["adapter"], manager)


def test_a_mere_folder_takes_no_name(tmp_path, monkeypatch, manager):
    (tmp_path / "box_blur").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    refuse_taken(Names.of("box-blur"), KINDS["refiner"], manager)
    (tmp_path / "box_blur" / "__init__.py").touch()
    with pytest.raises(UsageError, match="a package 'box_blur' is installed"):
        refuse_taken(Names.of("box-blur"), KINDS["refiner"], manager)


# -- what is written -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dcam-box-blur", SHORTEST, LONGEST])
@pytest.mark.parametrize("kind", KINDS)
def test_every_file_is_whole(kind, name, written):
    folder, names = written[kind, name], Names.of(name)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    package = f"src/{names.package}"
    common = {".gitignore", "README.md", "pyproject.toml", "tests/test_conformance.py"}
    own = {f"{package}/{stem}" for stem in ("__init__.py", "plugin.py", "py.typed", f"{kind}.py")}
    assert common | own | {f"tests/test_{kind}.py"} <= set(files)
    for path in files.values():
        text = path.read_text(encoding="utf-8")
        assert not [mark for mark in ("{{", "{%", "PACKAGE", "jinja") if mark in text], path
        if path.suffix == ".py":
            assert ast.get_docstring(ast.parse(text)), path
    project = tomllib.loads(files["pyproject.toml"].read_text())["project"]
    assert project["name"] == names.distribution
    assert project["entry-points"]["dcam"] == {names.registered: f"{names.package}.plugin"}
    assert "license" not in project
    assert "licence" in files["README.md"].read_text()
    if kind != "adapter":
        method = OmegaConf.load(files[f"{package}/methods/{names.registered}.yaml"])
        assert names.registered in (method.attribution.name, *method.refiners)


@pytest.mark.parametrize("config", [[], ["--config", str(ROOT / "pyproject.toml")]], ids=["own", "ours"])
def test_every_file_is_clean_and_formatted(config, written):
    for folder in written.values():
        for command in (["check"], ["format", "--check"]):
            done = ran("-m", "ruff", *command, "--no-cache", *config, ".", cwd=folder)
            assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_every_type_is_right(written):
    sources = [
        str(written[kind, name] / "src")
        for kind, name in zip(KINDS, (SHORTEST, LONGEST, "dcam-box-blur"), strict=True)
    ]
    done = ran("-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *sources, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_templates_name_no_family_and_no_method(manager):
    # What the examples run on is looked up among the installed plugins: the core knows none by name.
    kinds = ("adapters", "attributions", "refiners", "methods", "models")
    names = {name for kind in kinds for name in getattr(manager.registries, kind).names}
    names -= {"dcam"}  # the method that has the program's name
    named = re.compile(rf"\b({'|'.join(map(re.escape, sorted(names)))})\b")
    for path in TEMPLATES.rglob("*.*"):
        assert not named.findall(path.read_text(encoding="utf-8")), path


def test_the_wheel_holds_the_templates():
    wheel = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    packed = {file.distribution_path for file in wheel.recurse_included_files()}
    templates = {path.relative_to(ROOT).as_posix() for path in TEMPLATES.rglob("*") if path.is_file()}
    assert len(templates) > 30
    assert templates <= packed


# -- whole, or not at all ------------------------------------------------------------------------------------


def test_nothing_is_overwritten(tmp_path, manager):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, message in {
        "taken": "not empty, and nothing in it is overwritten",
        "file": "is a file",
        "no/where": "does not exist: make that first",
    }.items():
        with pytest.raises(UsageError, match=message):
            write_distribution("refiner", Names.of("box-blur"), tmp_path / name, manager)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "mine.txt", "taken"]


def test_an_empty_folder_is_filled_where_it_stands(tmp_path, manager):
    folder = tmp_path / "empty"
    folder.mkdir()
    before = folder.stat().st_ino
    files = write_distribution("refiner", Names.of("box-blur"), folder, manager)
    assert folder.stat().st_ino == before
    assert {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} == set(files)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("error", "raised"),
    [(OSError(28, "No space left on device"), UsageError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_failure_in_the_middle_leaves_nothing(error, raised, tmp_path, monkeypatch, manager):
    write_text, calls = Path.write_text, itertools.count()

    def failing(self, *arguments, **keywords):
        if next(calls) == 3:
            raise error
        return write_text(self, *arguments, **keywords)

    monkeypatch.setattr(Path, "write_text", failing)
    with pytest.raises(raised, match="No space left" if raised is UsageError else None):
        write_distribution("adapter", Names.of("box-blur"), tmp_path / "new", manager)
    assert next(calls) > 3
    assert list(tmp_path.iterdir()) == []


def test_without_the_shipped_plugins_the_example_has_nothing_to_run_on(tmp_path):
    bare = PluginManager(autoload=False)
    with pytest.raises(UnknownNameError, match="unknown method"):
        write_distribution("refiner", Names.of("box-blur"), tmp_path / "new", bare)
    without_models = PluginManager(autoload=True, blocked=["embedded"])
    with pytest.raises(DcamError, match="need a model to run on"):
        write_distribution("refiner", Names.of("box-blur"), tmp_path / "new", without_models)
    assert list(tmp_path.iterdir()) == []


# -- the command ---------------------------------------------------------------------------------------------


def test_the_command_writes_and_tells_without_importing_torch(tmp_path):
    code = (
        "import json, sys\n"
        "from dcam_core.cli import main\n"
        "try:\n"
        "    main(['new', 'attribution', 'dcam-my-way'])\n"
        "except SystemExit as stop:\n"
        "    print(json.dumps([stop.code, sorted({'torch', 'transformers', 'numpy'} & set(sys.modules))]))\n"
    )
    done = ran("-c", code, cwd=tmp_path)
    *paths, last = done.stdout.splitlines()
    assert json.loads(last) == [0, []], done.stderr
    assert "pip install -e dcam-my-way" in done.stderr
    assert all((tmp_path / path).is_file() for path in paths)
    assert "dcam-my-way/src/dcam_my_way/attribution.py" in paths


def test_a_wrong_call_is_one_line_and_code_2(tmp_path):
    for arguments in (["refiner", "dcam-min-max"], ["refiner", "two words"], ["nonsense", "x"]):
        done = ran("-m", "dcam_core", "new", *arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
