"""The page about training: its code runs, and it names every tag that there is."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "training.md"


def test_its_code_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "recipe.py"), str(PAGE)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sheets = list(tmp_path.rglob("contact-sheet/*.png"))
    assert sorted(path.name for path in sheets) == [f"step-{step:08d}.png" for step in (0, 4, 8)]
