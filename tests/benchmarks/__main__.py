"""All benchmarks by one command: `python -m tests.benchmarks [NAME]... [KEY=VALUE]... [--out FOLDER]`.

Writes NAME.json and NAME.md for each, and prints the tables. Ratios compare two figures of the same run. A
KEY=VALUE is handed to the benchmark's `run`: `python -m tests.benchmarks map-quality split=train`.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from pathlib import Path
from typing import Any

# `benchmarks` is imported from tests/, as pytest does it.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import (
    bench_accuracy,
    bench_explaining,
    bench_loading,
    bench_map_quality,
    bench_modules,
    bench_refinement,
    bench_reliance,
    bench_upsampling,
)

BENCHMARKS = {
    "refinement": bench_refinement,
    "explaining": bench_explaining,
    "loading": bench_loading,
    "accuracy": bench_accuracy,
    "map-quality": bench_map_quality,
    "modules": bench_modules,
    "reliance": bench_reliance,
    "upsampling": bench_upsampling,
}


def main() -> None:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="NAME|KEY=VALUE", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument(
        "--out", type=Path, default=Path("build/benchmarks"), help="folder for JSON and Markdown"
    )
    chosen = parser.parse_args()
    options = dict(_option(word) for word in chosen.words if "=" in word)
    names = [word for word in chosen.words if "=" not in word]
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"unknown {', '.join(sorted(unknown))}: there are {', '.join(BENCHMARKS)}")
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name in names or BENCHMARKS:
        report = BENCHMARKS[name].run(**options)
        table = BENCHMARKS[name].to_markdown(report)
        (chosen.out / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
        (chosen.out / f"{name}.md").write_text(table)
        print(f"## {name}\n\n{table}", flush=True)


def _option(word: str) -> tuple[str, Any]:
    """KEY=VALUE, the value as a Python literal where it is one."""
    key, _, value = word.partition("=")
    try:
        return key, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return key, value


if __name__ == "__main__":
    main()
