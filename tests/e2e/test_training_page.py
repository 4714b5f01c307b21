"""The page about training: its code runs, and it names every tag that there is."""

from pathlib import Path

from support.pages import play

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "training.md"


def test_its_code_runs(tmp_path):
    play(PAGE, tmp_path)
    sheets = list(tmp_path.rglob("contact-sheet/*.png"))
    assert sorted(path.name for path in sheets) == [f"step-{step:08d}.png" for step in (0, 4, 8)]
