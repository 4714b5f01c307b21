"""What all pages of dcam are made with: templates that escape every text, and a policy for one script."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from dcam_core.results.report.overlay import heat_palette, percent

__all__ = ["flattened", "heat_gradient", "page_environment", "script_digest"]

_OWN = "dcam_core.results.report"


def page_environment(*packages: str) -> Environment:
    """The templates of some packages.

    Args:
        packages: each with a folder `templates`; looked through in this order, the report's own at last.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "templates") for package in (*packages, _OWN)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment


def script_digest(script: str) -> str:
    """What a Content-Security-Policy allows a script by: its SHA-256, in base 64."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def heat_gradient() -> str:
    """The colours of a map from 0 to 1, for a linear gradient in CSS."""
    palette = heat_palette()
    return ", ".join(
        f"rgb({r} {g} {b} / {a / 255:.3f})" for r, g, b, a in palette[:: len(palette) // 15].tolist()
    )


def flattened(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """List nested settings with dotted keys, as they are written on the command line."""
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _written(value)


def _written(value: Any) -> str:
    """Write a setting as it is written in YAML and on the command line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
