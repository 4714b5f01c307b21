"""Whether the tensors of a checkpoint are those of the model, and what is the likely cause where they are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from dcam_adapters.common.checkpoint.listing import listed
from dcam_core.models import MisfitError

__all__ = ["check_fit"]

Shapes = Mapping[str, tuple[int, ...]]

QUANTISED = (".SCB", ".absmax", ".quant_map", ".qweight", ".qzeros", ".weight_scale", ".weight_format")
"""Endings of the tensors that quantised checkpoints have beside their weights."""


def check_fit(folder: Path, expected: Shapes, found: Shapes) -> None:
    """Compares names and shapes.

    Args:
        folder: the checkpoint, for the message.
        expected: what the model needs.
        found: what the files have, without the tensors that the family ignores.

    Raises:
        MisfitError: tensors are missing, unexpected or mis-shaped; they are named, with the likely cause.
    """
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshaped = [
        f"{name} {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if not (missing or unexpected or misshaped):
        return
    parts = [
        f"{len(names)} {kind}: {listed(names)}"
        for kind, names in (("mis-shaped", misshaped), ("missing", missing), ("unexpected", unexpected))
        if names
    ]
    cause = _cause(missing, unexpected, misshaped)
    raise MisfitError(
        f"the weights in {folder} do not fit: {'; '.join(parts)}. Likely cause: {cause}", tuple(found)
    )


def _cause(missing: Sequence[str], unexpected: Sequence[str], misshaped: Sequence[str]) -> str:
    if any("lora_" in name for name in unexpected):
        return "these are LoRA weights: merge them into the base model first"
    if any(name.endswith(QUANTISED) for name in unexpected):
        return "the weights were saved quantised: take the unquantised checkpoint, and quantise while loading"
    if (extra := _prefix(unexpected, missing)) is not None:
        return f"a training framework put the prefix {extra!r} before the names: save them without it"
    if (lost := _prefix(missing, unexpected)) is not None:
        return f"the prefix {lost!r} of the names was lost: save the whole model, not a part of it"
    if misshaped:
        return (
            "config.json is not the one that belongs to these weights (another size or version of the model)"
        )
    if missing and unexpected:
        return "the weights are of another family, or of another version of this one"
    if missing:
        return "the checkpoint was saved in part; take the complete one"
    return "the model has parts that config.json does not speak of"


def _prefix(longer: Sequence[str], shorter: Sequence[str]) -> str | None:
    """What stands before most of the shorter names to give longer ones; None if nothing does."""
    wanted, prefixes = set(shorter), Counter[str]()
    for name in longer:
        head, _, rest = name.partition(".")
        prefix = head + "."
        while rest:
            if rest in wanted:
                prefixes[prefix] += 1
            head, _, rest = rest.partition(".")
            prefix += head + "."
    if not prefixes:
        return None
    prefix, count = prefixes.most_common(1)[0]
    return prefix if count > len(wanted) / 2 else None
