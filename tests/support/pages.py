"""Pages of the documentation, played by a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["play"]

PLAYER = Path(__file__).with_name("recipe.py")


def play(page: Path, folder: Path) -> None:
    """Does in a folder what a page says, and holds it to what the page shows."""
    done = subprocess.run(
        [sys.executable, str(PLAYER), str(page)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
