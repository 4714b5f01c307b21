"""Distributions as pip leaves them, written in a line: what `importlib.metadata` finds is real."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["distribute"]


def distribute(
    folder: Path,
    name: str,
    entry_points: Mapping[str, str],
    modules: Mapping[str, str],
    *,
    version: str = "1.0",
) -> None:
    """Write a distribution into a folder that is, or will be, on `sys.path`.

    Args:
        folder: where modules and metadata go.
        name: name of the distribution ("dcam-sharp").
        entry_points: of the group "dcam": name -> what is imported.
        modules: name of a module -> its source.
        version: version of the distribution.
    """
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    points = "\n".join(f"{point} = {target}" for point, target in entry_points.items())
    (metadata / "entry_points.txt").write_text(f"[dcam]\n{points}\n")
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
