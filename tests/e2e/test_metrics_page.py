"""The page about metrics: its code runs, and it names everything that there is."""

from __future__ import annotations

import re
from pathlib import Path

from support.pages import play

import dcam_core.faithfulness
import dcam_plugins.plugin

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"


def test_its_code_runs(tmp_path):
    play(PAGE, tmp_path)


def test_every_metric_has_a_row():
    names: dict[str, str] = {}
    dcam_plugins.plugin.dcam_register_metrics(lambda name, target, **facts: names.update({name: target}))
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    first = " ".join(re.match(r"\|[^|]*\|", row).group() for row in rows)
    assert [name for name in names if f"`{name}`" not in first] == []


def test_every_measure_of_faithfulness_is_named():
    text = PAGE.read_text(encoding="utf-8")
    measures = [name for name in dcam_core.faithfulness.__all__ if name[0].islower()]
    helpers = {"impute", "modules_from_the_top", "noisy", "randomised_parameters", "spearman"}
    helpers |= {"structural_similarity"}
    assert [name for name in measures if name not in helpers and f"`{name}`" not in text] == []
