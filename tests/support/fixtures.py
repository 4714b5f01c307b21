"""Readers of the parity fixtures, for every family."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from PIL import Image
from safetensors.torch import load_file

__all__ = ["FIXTURES", "read_fixture"]

FIXTURES = Path(__file__).parents[1] / "fixtures"


def read_fixture(folder: Path) -> SimpleNamespace:
    """Everything in a fixture folder."""
    return SimpleNamespace(
        folder=folder,
        config=json.loads((folder / "config.json").read_text()),
        facts=json.loads((folder / "parity.json").read_text()),
        inputs=load_file(folder / "inputs.safetensors"),
        expected=load_file(folder / "expected.safetensors"),
        weights=load_file(folder / "model.safetensors"),
        picture=Image.open(folder / "image.png").convert("RGB"),
    )
