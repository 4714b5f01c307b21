"""`dcam explain FOLDER/`: every picture gets the explanation that it would get alone, by one process or two."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch

from dcam_core import Explainer, load_explanation
from dcam_core.errors import PictureError, UsageError
from dcam_core.picture_folder import explain_folder
from dcam_core.plugins import PluginManager
from dcam_core.testing.toy import toy_adapter, toy_picture

TESTS = Path(__file__).parents[1]
PLUGINS = ("dcam_plugins.plugin", "dcam_core.testing.plugin")
PROMPT = "the blue moon"
NAMES = ("a.jpg", "a.png", "b.png")


@pytest.fixture
def root(tmp_path):
    """A folder with three pictures, one that is none, and what is not meant."""
    pictures = tmp_path / "pictures"
    (pictures / "further").mkdir(parents=True)
    for turn, name in enumerate(NAMES):
        toy_picture().rotate(90 * turn).save(pictures / name)
    (pictures / "broken.png").write_bytes(b"no picture")
    (pictures / "notes.txt").write_text("no picture either")
    return tmp_path


@pytest.fixture
def explain(root):
    def run(out="out", **more):
        manager = PluginManager(autoload=False, extra=PLUGINS)
        options = {
            "method": "grad-cam",
            "explaining": {"targets": "all", "baselines": ()},
            "manager": manager,
        }
        return explain_folder("toy", root / "pictures", PROMPT, root / out, **{**options, **more})

    return run


def test_every_picture_is_explained_as_it_would_be_alone(explain, root):
    outcome = explain()
    assert tuple(outcome.explained) == NAMES
    assert list(outcome.skipped) == ["broken.png"]
    assert "no known format" in outcome.skipped["broken.png"]
    alone = Explainer(toy_adapter(), "grad-cam", manager=PluginManager(autoload=False, extra=PLUGINS))
    for name, folder in outcome.explained.items():
        expected = alone.explain(root / "pictures" / name, PROMPT, "all", baselines=())
        found = load_explanation(folder)
        assert found.answer == expected.answer
        assert torch.equal(found.pictures[0].maps, expected.pictures[0].maps)


def test_a_page_shows_all_pictures_and_its_addresses_hold(explain, root):
    toy_picture().save(root / "pictures/50% & more.png")
    explain()
    shutil.rmtree(root / "out/a.png")
    explain()
    page = (root / "out/index.html").read_text(encoding="utf-8")
    addresses = {unquote(each) for each in re.findall(r'(?:href|src)="([^"#]+)"', page)} - {"data:,"}
    assert {f"{name}/report.html" for name in (*NAMES, "50% & more.png")} <= addresses
    assert len([each for each in addresses if "/overlay-" in each]) >= 2 * (len(NAMES) + 1)
    assert [each for each in addresses if not (root / "out" / each).is_file()] == []
    assert "50% &amp; more.png" in page
    assert "broken.png" in page
    assert PROMPT in page


def test_the_explanations_of_another_folder_are_not_taken_for_these(explain, root):
    explain()
    (root / "pictures").rename(root / "others")
    (root / "pictures").symlink_to(root / "others")
    with pytest.raises(
        UsageError, match=r"holds another run over a folder: folder was '.*pictures', is '.*others'"
    ):
        explain()


def test_what_a_killed_process_left_is_cleared_and_a_skipped_picture_is_tried_again(explain, root):
    explain()
    shutil.rmtree(root / "out/b.png")
    (root / "out/.b.png-x7.unfinished").mkdir()
    (root / "out/skipped/broken.png.txt").unlink()
    toy_picture().save(root / "pictures/broken.png")
    assert tuple(explain().explained) == (*NAMES, "broken.png")
    assert not list((root / "out").glob(".*"))


def test_the_same_call_explains_what_is_not_explained_yet(explain, root):
    first = explain()
    times = {name: (folder / "report.html").stat().st_mtime_ns for name, folder in first.explained.items()}
    shutil.rmtree(root / "out/a.png")
    toy_picture().save(root / "pictures/c.png")
    again = explain()
    assert tuple(again.explained) == (*NAMES, "c.png")
    later = {name: (folder / "report.html").stat().st_mtime_ns for name, folder in again.explained.items()}
    assert {name for name in later if later[name] != times.get(name)} == {"a.png", "c.png"}
    with pytest.raises(UsageError, match=r"explaining\.seed is new"):
        explain(explaining={"targets": "all", "baselines": (), "seed": 3})


def test_a_picture_whose_answer_has_no_such_word_is_skipped(explain):
    outcome = explain(explaining={"targets": ["zebra"], "baselines": ()})
    assert not outcome.explained
    assert all("zebra" in outcome.skipped[name] for name in NAMES)


def test_folders_that_will_not_do(explain, root, tmp_path):
    (root / "taken").mkdir()
    (root / "taken/file").touch()
    with pytest.raises(UsageError, match="not empty"):
        explain("taken")
    shutil.rmtree(root / "pictures")
    with pytest.raises(PictureError, match="does not exist"):
        explain()
    (root / "pictures").mkdir()
    with pytest.raises(PictureError, match="no picture"):
        explain()


@pytest.mark.slow
def test_two_processes_by_the_command_line(explain, root):
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "DCAM_"))},
        "DCAM_DISABLE_PLUGIN_AUTOLOAD": "1",
        "DCAM_PLUGINS": ",".join(PLUGINS),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "dcam_core", "explain", "pictures", "--prompt", PROMPT, "--model", "toy"]
    command += ["--method", "grad-cam", "-t", "all", "--baseline", "none", "-o", "two", "--devices", "2"]
    ended = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == [*(f"two/{name}/report.html" for name in NAMES), "two/index.html"]
    assert ended.stderr.startswith("broken.png is not explained: ")
    expected = explain("one").explained
    for name in NAMES:
        found, one = (load_explanation(folder) for folder in (root / "two" / name, expected[name]))
        assert torch.equal(found.pictures[0].maps, one.pictures[0].maps)
    assert json.loads((root / "two/run.json").read_text())["prompt"] == PROMPT
