"""The tutorial about fine-tuning: it runs as it is written, with fewer pictures."""

import csv
import re
from pathlib import Path

import pytest
from support.pages import play

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "fine-tuning.md"
FEWER = {"PICTURES = 480 ": "PICTURES = 32 ", "ASKED = 32 ": "ASKED = 2 "}


@pytest.mark.slow
def test_it_runs_with_fewer_pictures(tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    for setting, fewer in FEWER.items():
        assert text.count(setting) == 1
        text = text.replace(setting, fewer)
    # The figures are those of the whole run.
    text = re.sub(r"[\d.]+%?(?= before| after)", "...", text)
    page = tmp_path / PAGE.name
    page.write_text(text, encoding="utf-8")
    play(page, tmp_path)
    # 32 pictures are 8 steps, so that every step is shown; and they already make the captions likelier.
    with next(tmp_path.rglob("metrics.csv")).open() as lines:
        likely = [
            float(row["dcam/train/probability"])
            for row in csv.DictReader(lines)
            if row["dcam/train/probability"]
        ]
    assert len(likely) == 9
    assert max(likely) > likely[0]
