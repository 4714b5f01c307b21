"""What the README promises, done as it says: its own commands, in an empty folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import dcam_core as dcam
from dcam_plugins.metrics import pointing
from dcam_plugins.scenes import Scenes

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


def _block(marker: str) -> str:
    """The code block that follows a marker."""
    match = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert match, f"README.md has no block marked {marker!r}"
    return match.group(1).strip()


def _run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command of the README with the environment that runs the tests in place of its own."""
    own = command.split("&& ")[-1].replace(".venv/bin/", f"{BIN}/")
    return subprocess.run(own, shell=True, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder in which the demo has been run."""
    folder = tmp_path_factory.mktemp("readme")
    done = _run(_block("demo command"), folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("report.html")
    return folder


def _scene_of(picture: Path):
    """The generated scene that a picture shows."""
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    return next(scene for scene in Scenes("test", 100) if np.array_equal(scene.image, pixels))


def test_the_demo_names_every_object_and_points_at_it(folder):
    explanation = dcam.load_explanation(folder / "dcam-demo")
    scene = _scene_of(folder / "dcam-demo" / "picture.png")
    assert explanation.answer == scene.caption
    for thing in scene.objects:
        places = [i for i, target in enumerate(explanation.targets) if target.word == thing.shape]
        assert places, f"the demo does not explain {thing.shape!r}"
        heat = explanation.heatmap(places[0])[None]
        mask = thing.mask[None]
        half_cell = round(scene.image.width / explanation.raw.shape[-1] / 2)
        assert pointing(heat, mask, half_cell).all(), f"{thing.name} is not where its map is highest"


def test_the_folder_holds_what_the_readme_lists(folder):
    demo = folder / "dcam-demo"
    facts = json.loads((demo / "explanation.json").read_text())
    tensors = load_file(demo / "maps.safetensors")
    assert set(tensors) == {"raw", "maps"}
    assert len(tensors["maps"]) == len(facts["targets"]) == len(list(demo.glob("overlay-*.png")))
    assert facts["schema_version"] == 1
    assert facts["versions"]["dcam"] == dcam.__version__
    for target in facts["targets"]:
        assert {"word", "positions", "token_ids", "probability"} <= set(target)


def test_the_report_stands_alone(folder):
    class Links(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[str] = []

        def handle_starttag(self, tag, attributes):
            self.found += [value or "" for name, value in attributes if name in ("src", "href")]

    parser = Links()
    parser.feed((folder / "dcam-demo" / "report.html").read_text(encoding="utf-8"))
    assert parser.found
    assert all(link.startswith(("data:", "#")) for link in parser.found)


def test_the_explain_command(folder):
    done = _run(_block("explain command"), folder)
    assert done.returncode == 0, done.stderr
    demo, again = (dcam.load_explanation(folder / name) for name in ("dcam-demo", "explained"))
    assert demo.answer == again.answer
    assert (demo.maps == again.maps).all(), "the same picture, prompt and seed gave other maps"


def test_the_check_command(folder):
    done = _run(_block("check command"), folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiny-lavida (lavida): " in done.stdout
    assert " 0 failed" in done.stdout


def test_the_python_example(folder):
    code = _block("python example")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = dcam.load_explanation(folder / "from-python").answer
    assert done.stdout.startswith(answer)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("missing.png --prompt x --model tiny-llada-v", 2, "does not exist"),
        ("text.png --prompt x --model tiny-llada-v", 2, "not a picture"),
        ("picture.png --prompt 'describe the picture' --model tiny-llada-v -t zebra", 2, "its words are"),
        ("picture.png --prompt x --model no-weights", 1, "no-weights"),
        ("picture.png --prompt x --model tiny-llada-v mask_stp=first", 2, "Did you mean 'mask_step'"),
        ("picture.png --prompt x --model tiny-llava-v", 2, "Did you mean 'tiny-llada-v'"),
        ("picture.png --prompt x --model tiny-llada-v --method grad-kam", 2, "Did you mean 'grad-cam'"),
    ],
)
def test_mistakes_get_one_line(folder, arguments, code, message):
    (folder / "text.png").write_text("I am no picture")
    (folder / "no-weights").mkdir(exist_ok=True)
    Image.open(folder / "dcam-demo" / "picture.png").save(folder / "picture.png")
    before = set(folder.iterdir())
    done = _run(f".venv/bin/dcam explain {arguments} --out mistake", folder)
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert lines[-1].startswith("error: ")
    assert message in lines[-1]
    assert "Traceback" not in done.stderr
    assert set(folder.iterdir()) == before, "something half-written was left behind"


def test_the_readme_names_every_preset_and_policy():
    manager = dcam.default_manager()
    for entry in manager.registries.methods:
        assert f"`{entry.name}`" in README
    for kind in ("attributions", "refiners"):
        for entry in getattr(manager.registries, kind):
            assert entry.name in README or entry.name == "rank-gaussian"
