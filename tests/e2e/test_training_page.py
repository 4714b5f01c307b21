"""The page about training: its code runs, and it names every tag that there is."""

from pathlib import Path

from support.pages import play

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "training.md"


def test_its_code_runs(tmp_path):
    play(PAGE, tmp_path)
    (sheet,) = tmp_path.rglob("contact-sheet.png")
    words = [path for path in sheet.parent.iterdir() if path.is_dir()]
    assert words
    for word in words:
        assert sorted(path.name for path in word.iterdir()) == [f"step-{step:08d}.png" for step in (0, 4, 8)]
