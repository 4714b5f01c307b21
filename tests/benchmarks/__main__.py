"""All benchmarks by one command: `python -m tests.benchmarks [NAME]... [--out FOLDER]`.

Writes NAME.json and NAME.md for each, and prints the tables. Ratios compare two figures of the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

# `support` and `benchmarks` are imported from tests/, as pytest does it.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import bench_accuracy, bench_explaining, bench_map_quality, bench_refinement

BENCHMARKS = {
    "refinement": bench_refinement,
    "explaining": bench_explaining,
    "accuracy": bench_accuracy,
    "map-quality": bench_map_quality,
}


def main() -> None:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="which; default: all")
    parser.add_argument(
        "--out", type=Path, default=Path("build/benchmarks"), help="folder for JSON and Markdown"
    )
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name in chosen.names or BENCHMARKS:
        report = BENCHMARKS[name].run()
        table = BENCHMARKS[name].to_markdown(report)
        (chosen.out / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
        (chosen.out / f"{name}.md").write_text(table)
        print(f"## {name}\n\n{table}", flush=True)


if __name__ == "__main__":
    main()
