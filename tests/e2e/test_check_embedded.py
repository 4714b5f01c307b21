"""`dcam check` through the real command line: every shipped model keeps every promise of its adapter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dcam_core.conformance import CHECKS
from dcam_core.plugins import PluginManager

ROOT = Path(__file__).parents[2]
MODELS = PluginManager(autoload=True).registries.models.names

# What a family does not offer cannot be examined; everything else is.
MAY_BE_SKIPPED = {"replay-prefix-cache", "replay-other-caches", "gradients-prefix-cache"}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_shipped_model_keeps_every_promise(model, tmp_path):
    command = [sys.executable, "-m", "dcam_core", "check", model, "--json", str(tmp_path / "results.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DCAM_STRICT_PLUGINS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())["checks"]
    assert [result["name"] for result in results] == [check.name for check in CHECKS]
    assert {result["name"] for result in results if result["status"] == "skipped"} <= MAY_BE_SKIPPED
    assert done.stdout.splitlines()[-1].startswith(f"{model} (")


def test_there_are_shipped_models():
    assert "tiny-llada-v" in MODELS
