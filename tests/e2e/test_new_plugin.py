"""A stranger's way: `dcam new`, then what the generated README says, in an environment of its own, to the end.

The environment sees dcam and its dependencies in the environment that runs the tests; nothing is downloaded.
"""

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import dcam_core as dcam

# The environment's own dcam and pip: they are installed next door, and work on this one. Building needs hatchling,
# which is there already.
SHELL = """
dcam() { python -m dcam_core "$@"; }
pip() {
  if [ "$1" = install ]; then shift; set -- install --no-build-isolation "$@"; fi
  "$OUTER" -m pip --python "$(command -v python)" "$@"
}
"""

KINDS = [
    "adapter",
    pytest.param("attribution", marks=pytest.mark.slow),
    pytest.param("refiner", marks=pytest.mark.slow),
]


class Stranger:
    """Somebody with a shell, an environment and an empty folder."""

    def __init__(self, home):
        self.home = home
        environment = home / "environment"
        self._python(sys.executable, "-m", "venv", "--without-pip", environment)
        paths = {"base": str(environment), "platbase": str(environment)}
        packages = Path(sysconfig.get_path("purelib", "venv", vars=paths))
        beside = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        lines = [f"import site; site.addsitedir({path!r})" for path in sorted(beside)]
        (packages / "beside.pth").write_text("\n".join(lines) + "\n")
        scripts = sysconfig.get_path("scripts", "venv", vars=paths)
        self._environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("DCAM", "PYTEST", "PYTHON"))
            },
            "PATH": os.pathsep.join([scripts, str(Path(sys.executable).parent), os.environ["PATH"]]),
            "OUTER": sys.executable,
            "OMP_NUM_THREADS": "1",
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def _python(self, *command):
        subprocess.run([str(part) for part in command], check=True, timeout=300)

    def does(self, commands, folder=".", code=0):
        """Run lines of shell; their output, both streams."""
        done = subprocess.run(
            ["bash", "-euc", SHELL + commands],
            cwd=self.home / folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == code, f"{commands}\n{done.stdout}"
        return done.stdout

    def plugins(self):
        """Name -> what `dcam plugins` says of it."""
        return {each["name"]: each for each in json.loads(self.does("dcam plugins --json"))}


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    pytest.importorskip(
        "hatchling", reason="what `dcam new` writes is built with hatchling, which is not installed"
    )
    return Stranger(tmp_path_factory.mktemp("stranger"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_readme_leads_from_nothing_to_an_explanation_and_back(kind, stranger):
    assert f"my-{kind}" not in stranger.plugins()
    written = stranger.does(f"dcam new {kind} dcam-my-{kind}")
    folder = stranger.home / f"dcam-my-{kind}"
    assert f"dcam-my-{kind}/README.md" in written
    readme = (folder / "README.md").read_text(encoding="utf-8")
    install, listing, *use, marks, tests, uninstall = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)

    assert f"Successfully installed dcam-my-{kind}-0.1.0" in stranger.does(install, folder)
    assert f"my-{kind} (dcam-my-{kind} 0.1.0): loaded" in stranger.does(listing, folder)
    offers = {
        "adapter": ["adapters"],
        "attribution": ["attributions", "methods"],
        "refiner": ["refiners", "methods"],
    }
    assert stranger.plugins()[f"my-{kind}"]["offers"] == {what: [f"my-{kind}"] for what in offers[kind]}
    assert f"my-{kind}" not in stranger.does(f"dcam -p no:my-{kind} plugins | grep -v blocked")

    said = "".join(stranger.does(block, folder) for block in use)
    USED[kind](folder, said)

    assert len(stranger.does(marks, folder).splitlines()) >= 3
    results = stranger.does(tests, folder)
    assert re.search(r"\d+ passed", results)
    assert "failed" not in results

    stranger.does(uninstall, folder)
    assert f"my-{kind}" not in stranger.plugins()
    command, said, code = GONE[kind]
    assert re.search(said, stranger.does(command, folder, code))


def _refined(folder, said):
    own = dcam.load_explanation(folder / "dcam-my-refiner")
    assert list(own.settings["refiners"]) == ["my-refiner"]
    added = dcam.load_explanation(folder / "dcam-added")
    assert list(added.settings["refiners"])[-1] == "my-refiner"
    assert added.settings["refiners"]["my-refiner"] == {"radius": 2}
    assert own.answer == added.answer
    assert not own.maps.equal(added.maps)


def _attributed(folder, said):
    own = dcam.load_explanation(folder / "dcam-my-attribution")
    assert own.settings["attribution"] == {"name": "my-attribution", "order": 2}
    swapped = dcam.load_explanation(folder / "dcam-swapped")
    assert swapped.settings["attribution"]["name"] == "my-attribution"
    assert swapped.settings["refiners"]


def _adapted(folder, said):
    assert re.search(r"toy-checkpoint \(my-adapter\): \d+ passed, 0 failed", said)
    explanation = dcam.load_explanation(folder / "dcam-toy")
    assert explanation.answer
    assert explanation.maps.isfinite().all()


USED = {"refiner": _refined, "attribution": _attributed, "adapter": _adapted}
"""What the commands of the README leave behind."""

_EXPLAIN = 'dcam explain dcam-demo/picture.png --prompt x --model tiny-llada-v --method "my-{}"'

GONE = {
    "refiner": (_EXPLAIN.format("refiner"), "unknown method 'my-refiner'", 2),
    "attribution": (_EXPLAIN.format("attribution"), "unknown method 'my-attribution'", 2),
    "adapter": ("dcam check ./toy-checkpoint", "no adapter claims it", 1),
}
"""What uses the plugin, what is said where it is gone, and the exit code."""
