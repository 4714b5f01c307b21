"""A map as a training signal: raw maps with a graph, so that a loss can say where a word shall look.

A raw map is made of activations and of the gradients of a word's score. Kept with their graph, both depend on the
parameters, and the map can be differentiated once more. Three things are special then:

* The graph begins at the embedded prompt, which adapters hand over without one: it reaches the language model (its
  blocks, the adapters of a LoRA in them, the head), and not the vision tower.
* Fused attention kernels have no second derivative: attention is computed by its formula.
* FSDP gathers weights for one backward pass and lets go of them before the second; a model that it has sharded is
  refused.
* The model is in evaluation mode while the graph is made, so that the map is that of the model and not of a dropout
  mask. The loss of the task is the caller's own forward pass, in whatever mode.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dcam_core.attribution import Attribution, ModelAttribution
from dcam_core.errors import ConfigurationError
from dcam_core.probing.untouched import untouched
from dcam_core.results.picture_maps import choose_picture

if TYPE_CHECKING:
    from dcam_core.probing.targets import Target

__all__ = ["DifferentiableMaps", "differentiating"]


@dataclass(frozen=True, eq=False)
class DifferentiableMaps:
    """Raw maps of some words, with a graph.

    Attributes:
        answer: the answer that is explained.
        targets: T words of it.
        pictures: one [T, H, W] float32 per picture, on the model's device, >= 0, not normalised: raw maps on the
            picture grid. A map may be zero everywhere, and has no gradient then.
    """

    answer: str
    targets: tuple[Target, ...]
    pictures: tuple[Tensor, ...]

    @property
    def raw(self) -> Tensor:
        """Raw maps [T, H, W] of the only picture.

        Raises:
            UsageError: there are several.
        """
        return choose_picture(self.pictures, None, "pictures[0]")

    def share_within(self, masks: Tensor) -> Tensor:
        """Which share of each map's evidence lies on some pixels of the only picture.

        The energy-based pointing game, differentiable: `1 - share_within(masks)` is a loss that moves evidence onto
        an object, `share_within(masks)` one that moves it away from a shortcut.

        Args:
            masks: [T, height, width] or [height, width] bool or floating in [0, 1], of any size: a mask is averaged
                over each cell.

        Returns:
            [T] float32 in [0, 1]; 0, without a gradient, where nothing speaks for the word.
        """
        maps = self.raw
        sized = masks.to(maps.device, maps.dtype).expand(len(maps), *masks.shape[-2:])
        cells = nn.functional.adaptive_avg_pool2d(sized, (maps.shape[1], maps.shape[2]))
        total = maps.sum((1, 2))
        return (maps * cells).sum((1, 2)) / total.where(total > 0, 1)


@contextmanager
def differentiating(
    model: nn.Module, label: str, attribution: Attribution | ModelAttribution
) -> Iterator[None]:
    """Run the body so that what it computes can be differentiated twice; the model is left as it was found.

    Args:
        model: the model; `requires_grad` of its parameters counts.
        label: what the attribution is and whose, for messages.
        attribution: the method's.

    Raises:
        ConfigurationError: no parameter is trainable, the attribution has no gradient, or FSDP has sharded the model.
    """
    if isinstance(attribution, ModelAttribution):
        raise ConfigurationError(
            f"{label} asks the model itself, without a graph: its maps cannot be differentiated; choose a method "
            "whose attribution is made of activations and gradients"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigurationError(
            "no parameter of the model requires a gradient, so a map has none either: unfreeze what is to be "
            "trained, or use `explain`"
        )
    if _sharded(model):
        raise ConfigurationError(
            "FSDP has sharded the model, and lets go of gathered weights before the second backward pass that a map "
            "as a training signal needs: train with a model that is whole in every process (DDP), or use `explain`, "
            "which takes one"
        )
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),
        untouched(model, freeze=False),
    ):
        yield


def _sharded(model: nn.Module) -> bool:
    """Whether a part of the model gathers its weights for each pass, in either of torch's ways."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # where nobody has imported it, nothing is sharded
    if fsdp is None:
        return False
    kinds = (fsdp.FSDPModule, fsdp.FullyShardedDataParallel)
    return any(isinstance(module, kinds) for module in model.modules())
