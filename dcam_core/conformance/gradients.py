"""Do gradients reach the image tokens?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dcam_core.conformance.check import NotApplicableError, expect
from dcam_core.probing.defaults import PublishedProbeLayer

if TYPE_CHECKING:
    from dcam_core.conformance.subject import Subject

__all__ = ["gradients", "gradients_prefix_cache"]


def gradients(subject: Subject) -> str:
    """The gradient of a token's logit reaches the image tokens at every block but the last.

    Behind the last block the answer's rows read only themselves; at any other, a gradient that is zero
    everywhere means that the forward pass was cut, or ran without a graph.
    """
    return _reached(subject, {"cache": None})


def gradients_prefix_cache(subject: Subject) -> str:
    """With a prefix cache, gradients reach the image tokens through the keys and values of the blocks above."""
    if "prefix" not in subject.adapter.caches:
        raise NotApplicableError(f"{subject.adapter.family} offers no prefix cache")
    return _reached(subject, {"cache": "prefix"})


def _reached(subject: Subject, changes: Mapping[str, Any]) -> str:
    """Probe at every block but the last."""
    adapter = subject.adapter
    count = len(adapter.blocks)
    if count < 2:
        raise NotApplicableError(f"a model of {count} block has no block but the last")
    depth = PublishedProbeLayer().dcam_probe_layer(adapter, {})
    default, shares = adapter.layer_path(depth), []
    for block in range(count - 1):
        path = adapter.layer_path(block)
        found = subject.probed(path, changes)
        expect(
            bool(found.activations.isfinite().all() and found.gradients.isfinite().all()),
            f"at {path}: activations or gradients are not finite",
        )
        share = float((found.gradients != 0).any(-1).double().mean())
        name = f"{path} (the default probe layer)" if path == default else path
        expect(share > 0, f"at {name}: the gradient is zero at every image token")
        shares.append(share)
    return f"{count - 1} of {count} blocks, {min(shares):.0%} of the image tokens or more"
