"""The estimate of a model by its name: without its weights, wherever its family can be built without them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcam_core.adapter import Adapter
from dcam_core.explainer import Explainer
from dcam_core.method import DEFAULT_METHOD
from dcam_core.models import outline_model

if TYPE_CHECKING:
    from dcam_core.estimating.estimate import MemoryEstimate
    from dcam_core.plugins import PluginManager

__all__ = ["estimate_memory"]


def estimate_memory(
    model: Adapter | str | Path,
    image_size: tuple[int, int],
    targets: int = 1,
    *,
    method: str | Path = DEFAULT_METHOD,
    prompt: str = "describe the picture",
    loading: Mapping[str, Any] | None = None,
    manager: PluginManager | None = None,
    **options: Any,
) -> MemoryEstimate:
    """How much memory an explanation will take.

    Args:
        model: a loaded model, or what `dcam_core.load_model` takes: then its weights are not read, if its family can
            be built without them (`Adapter.outline`).
        image_size: (width, height) of the picture in pixels.
        targets: how many words are explained.
        method: as for `Explainer`.
        prompt: what is asked; only its length matters.
        loading: further keywords of `load_model`, where a name is given: `dtype`, `quantisation`, ...
        manager: the plugins to use; None: all that are installed.
        options: further keywords of `Explainer`: `overrides`, `states_per_forward`, `checkpointing`, ...

    Raises:
        UsageError: the picture has no pixels, or the answer region is shorter than so many targets.
        ConfigurationError: the run cannot be followed without numbers.
        CheckpointError: the folder is not a checkpoint of a known family, or has no tokenizer.
    """
    loading = dict(loading or {})
    if not isinstance(model, Adapter):
        model = outline_model(model, manager=manager, **loading)
    explainer = Explainer(model, method, manager=manager, **options)
    return explainer.estimate_memory(
        image_size, targets, prompt=prompt, quantisation=loading.get("quantisation")
    )
