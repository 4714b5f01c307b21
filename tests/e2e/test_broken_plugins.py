"""Broken plugins of every kind, as real files of real distributions: what the user of the command line reads.

`record_property` keeps every message, so that a report of the tests is a list of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support.broken_plugins import ASKED, DECIDED, EXPLAIN, LOADED, OBSERVED, Broken
from support.distributions import distribute

from dcam_core.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on `sys.path`, beside the real installation; the current directory holds a picture."""
    site, here = tmp_path / "site", tmp_path / "here"
    site.mkdir()
    here.mkdir()
    Image.linear_gradient("L").resize((40, 30)).save(here / "picture.png")
    for variable in ("PLUGINS", "STRICT_PLUGINS", "DISABLE_PLUGIN_AUTOLOAD", "TRACE_PLUGINS"):
        monkeypatch.delenv(f"DCAM_{variable}", raising=False)
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(here)
    before = set(sys.modules)
    yield site
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or ".").is_relative_to(site):
            del sys.modules[name]


@pytest.fixture
def dcam(site, capsys, record_property):
    """Run a command line with a broken plugin installed; gives (exit code, stdout, lines on stderr)."""

    def run(broken: Broken | None, command: str):
        if broken is not None:
            distribute(site, "dcam-broken", {"broken": "broken_plugin"}, {"broken_plugin": broken.module})
        with pytest.raises(SystemExit) as caught:
            main(command.split())
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        what = broken.what if broken else command
        record_property("shown", [what, f"dcam {command}", caught.value.code, captured.out, lines])
        return caught.value.code, captured.out, lines

    return run


def whats(table):
    return [pytest.param(broken, id=broken.what) for broken in table]


def assert_shown(broken: Broken, line: str):
    assert [part for part in broken.shown if part not in line] == [], line


# -- set aside when loaded -----------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", whats(LOADED))
def test_a_plugin_that_cannot_be_loaded_is_listed_with_the_cause(dcam, broken):
    code, out, err = dcam(broken, "plugins")
    assert code == 0
    assert "broken (dcam-broken 1.0): failed" in out
    (line,) = [line for line in out.splitlines() if line.startswith("  failed to ")]
    assert_shown(broken, f"plugin 'broken' (dcam-broken 1.0) {line.strip()}")
    assert "methods (dcam " in out, "the others are there"
    assert err == ["`dcam -vv plugins` shows the tracebacks of those that failed"]


def test_the_traceback_is_shown_on_demand_and_in_json(dcam, site):
    broken = LOADED[0]
    _, out, _ = dcam(broken, "-vv plugins")
    assert "Traceback (most recent call last)" in out
    assert "import no_such_module" in out
    code, out, _ = dcam(None, "plugins --json")
    (found,) = [info for info in json.loads(out) if info["status"] == "failed"]
    assert (code, found["name"], found["distribution"], found["version"]) == (
        0,
        "broken",
        "dcam-broken",
        "1.0",
    )
    assert found["failure"]["phase"] == "import"
    assert "import no_such_module" in found["failure"]["traceback"]


@pytest.mark.parametrize("way", ["-p broken plugins", "strict"])
def test_a_plugin_that_must_load_is_an_error(dcam, monkeypatch, way):
    if way == "strict":
        monkeypatch.setenv("DCAM_STRICT_PLUGINS", "1")
    code, _, err = dcam(LOADED[0], way.replace("strict", "plugins"))
    assert (code, len(err)) == (1, 1)
    assert err[0].startswith("error: ")
    assert_shown(LOADED[0], err[0])


def test_a_broken_plugin_is_one_warning_elsewhere_and_may_be_what_is_missing(dcam):
    code, _, err = dcam(LOADED[0], EXPLAIN.replace("--model toy", "--model tiny-gone"))
    assert code == 2
    assert [line.partition(":")[0] for line in err] == ["warning", "error"]
    assert_shown(LOADED[0], err[0])
    assert "It may be missing because plugin 'broken' (dcam-broken 1.0) failed to import" in err[1]


@pytest.mark.parametrize("broken", whats(LOADED[:1]))
def test_a_fresh_process_shows_the_same(site, broken):
    distribute(site, "dcam-broken", {"broken": "broken_plugin"}, {"broken_plugin": broken.module})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-m", "dcam_core", "plugins"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "broken (dcam-broken 1.0): failed" in done.stdout
    assert broken.shown[0].partition(") ")[2] in done.stdout


@pytest.mark.parametrize(
    ("command", "imported"), [("--help", False), ("--version", False), ("plugins", True)]
)
def test_plugins_are_imported_when_they_are_needed(dcam, command, imported):
    leaves_a_trace = Broken("a module that says that it is imported", "open('imported', 'w').close()", ())
    code, _, _ = dcam(leaves_a_trace, command)
    assert code == 0
    assert Path("imported").exists() is imported


# -- two of one name -----------------------------------------------------------------------------------------


def offering(name):
    return (
        "from dcam_core.hookspecs import hookimpl\n@hookimpl\ndef dcam_register_refiners(register):\n"
        f"    register({name!r}, 'builtins:dict')\n"
    )


TWINS = {
    "a name of a thing": (
        [("dcam-a", "a", "twin_a", "soft"), ("dcam-b", "b", "twin_b", "Soft")],
        "b (dcam-b 1.0): failed",
        "refiner 'soft' of plugin 'b' (dcam-b) is already registered by plugin 'a' (dcam-a), which stays",
    ),
    "a name of a plugin": (
        [("dcam-a", "twin", "twin_a", "soft"), ("dcam-b", "twin", "twin_b", "hard")],
        "twin (dcam-b 1.0): failed",
        "its name is already that of plugin 'twin' (dcam-a 1.0), which stays",
    ),
    "the name of one of dcam's own": (
        [("aaa-first", "methods", "twin_a", "soft")],
        "methods (aaa-first 1.0): failed",
        "its name is already that of plugin 'methods' (dcam ",
    ),
    "a name of a module": (
        [("dcam-a", "a", "twin_a", "soft"), ("dcam-b", "b", "twin_a", "soft")],
        "b (dcam-b 1.0): failed",
        "is already there as plugin 'a' (dcam-a 1.0): leave one of the two out, or, if two distributions brought",
    ),
}


@pytest.mark.parametrize(("distributions", "status", "message"), TWINS.values(), ids=TWINS)
def test_of_two_that_claim_one_name_the_first_stays(dcam, site, distributions, status, message):
    for distribution, point, module, name in distributions:
        distribute(site, distribution, {point: module}, {module: offering(name)})
    code, out, _ = dcam(None, "plugins")
    assert code == 0
    assert status in out
    assert out.count(": failed") == 1
    assert message in out


# -- switched off, misspelt ----------------------------------------------------------------------------------


def test_a_family_that_is_switched_off_says_so(dcam):
    command = "-p no:llada_v explain picture.png --prompt moon --model tiny-llada-v"
    code, _, err = dcam(None, command)
    assert (code, len(err)) == (2, 1)
    assert "unknown adapter 'llada-v'" in err[0]
    assert "plugin 'llada_v' (dcam " in err[0]
    assert err[0].endswith("is blocked: switch it on with `-p llada_v`.")


def test_a_family_that_is_not_loaded_says_so(dcam, monkeypatch):
    monkeypatch.setenv("DCAM_DISABLE_PLUGIN_AUTOLOAD", "1")
    code, out, _ = dcam(None, "-p methods plugins")
    assert code == 0
    assert "): not loaded (`-p llada_v` switches it on)" in out
    _, _, err = dcam(None, "-p embedded explain picture.png --prompt moon --model tiny-llada-v")
    assert err[0].endswith("is not loaded: switch it on with `-p llada_v`.")


@pytest.mark.parametrize(
    ("command", "variable", "code", "message"),
    [
        ("-p no:lada_v plugins", "", 0, "warning: there is no plugin 'lada_v' to block: there are "),
        ("plugins", "no:lada_v", 0, "warning: there is no plugin 'lada_v' to block: there are "),
        (
            "-p lada_v plugins",
            "",
            1,
            "'lada_v' is neither an installed plugin nor a module that can be imported",
        ),
        (
            "demo --model no",
            "lada_v",
            2,
            "'lada_v' is neither an installed plugin nor a module that can be imported",
        ),
    ],
)
def test_a_misspelt_switch_is_noticed(dcam, monkeypatch, command, variable, code, message):
    monkeypatch.setenv("DCAM_PLUGINS", variable)
    found, _, err = dcam(None, command)
    assert found == code
    assert message in err[0]
    assert "Did you mean 'llada_v'?" in err[0]


# -- what they offer, what they answer -----------------------------------------------------------------------


@pytest.mark.parametrize("broken", [*whats(ASKED), *whats(DECIDED)])
def test_what_breaks_a_promise_is_one_line_that_names_the_plugin(dcam, broken):
    code, out, err = dcam(broken, f"{EXPLAIN} {broken.arguments}".strip())
    assert code in (1, 2)
    assert out == ""
    (line,) = [line for line in err if line]
    assert line.startswith("error: ")
    assert_shown(broken, line)
    assert not Path("out").exists()


@pytest.mark.parametrize("broken", whats(OBSERVED))
def test_who_only_hears_stops_a_strict_run(dcam, monkeypatch, broken):
    monkeypatch.setenv("DCAM_STRICT_PLUGINS", "1")
    code, _, err = dcam(broken, EXPLAIN)
    assert (code, len(err)) == (1, 1)
    assert err[0].startswith("error: ")
    assert_shown(broken, err[0])


def test_who_only_hears_stops_no_other_run(dcam):
    hooks = "\n".join(broken.source for broken in OBSERVED)
    everything = Broken("an exception in every observing hook", hooks, ())
    code, out, err = dcam(everything, EXPLAIN)
    assert (code, out) == (0, f"{Path('out/report.html')}\n")
    warned = [line for line in err if line.startswith("warning: ")]
    assert len(warned) == len(OBSERVED)
    for broken, line in zip(OBSERVED, warned, strict=True):
        assert_shown(broken, line)
        assert line.endswith("; the run goes on without it")
