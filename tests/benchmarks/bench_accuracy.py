"""What the embedded model gets right on scenes from a split that it was never trained on."""

from __future__ import annotations

from typing import Any

from dcam_adapters.embedded.training.conversations import Conversations
from dcam_adapters.embedded.training.evaluation import accuracy
from dcam_core import load_model
from dcam_plugins.scenes import Scenes

__all__ = ["run", "to_markdown"]


def run(*, model: str = "tiny-llada-v", split: str = "test", scenes: int = 500) -> dict[str, Any]:
    """Ask every kind of prompt of every scene.

    Args:
        model: what `load_model` takes.
        split: split of the generated scenes.
        scenes: number of scenes.
    """
    found = accuracy(load_model(model), Scenes(split, scenes), Conversations(Scenes.shapes, Scenes.colours))
    return {
        "what": "share of right answers",
        "settings": {"model": model, "split": split, "scenes": scenes},
        "results": [{"kind": kind, "accuracy": value} for kind, value in found.items()],
    }


def to_markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    settings = report["settings"]
    lines = [
        f"{settings['model']}, {settings['scenes']} scenes of the {settings['split']} split; "
        "objects: colour and shape right, in their place of the list",
        "",
        "| prompt | right |",
        "|---|--:|",
        *(f"| {row['kind'].replace('_', ' ')} | {row['accuracy']:.1%} |" for row in report["results"]),
    ]
    return "\n".join(lines) + "\n"
