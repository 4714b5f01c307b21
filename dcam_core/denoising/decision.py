"""The logits by which the model decides: what the sampler reads, and what a replay must reproduce."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.denoising.settings import SamplerSettings
    from dcam_core.inputs import Inputs, Prefix

__all__ = ["Decider", "Forward", "decision_logits"]

Forward = Callable[[Tensor, Tensor], Tensor]
"""(states [B, G], positions [P]) -> logits [B, P, V]: a forward pass of one prompt."""


class Decider:
    """Decides for one prompt: logits with guidance and suppression applied as during generation.

    The sampler and the probe both come through here, so that a replayed decision is the decision. Under
    prefix caching the prompt is encoded once, when it is first needed.

    Args:
        adapter: the model.
        inputs: the prepared prompt.
        settings: `guidance_scale`, `suppressed_ids` and `cache` are read.
        forward: computes the conditional logits in place of `adapter.replay`; a family's own cache.
    """

    def __init__(
        self,
        adapter: Adapter,
        inputs: Inputs,
        settings: SamplerSettings,
        forward: Forward | None = None,
    ) -> None:
        self._adapter, self._inputs, self._settings = adapter, inputs, settings
        self._forward = forward

    @cached_property
    def prefix(self) -> Prefix | None:
        """The encoded prompt, with a graph if it is first asked for in grad mode; None without prefix caching."""
        return self._adapter.encode_prefix(self._inputs) if self._settings.cache == "prefix" else None

    def logits(self, states: Tensor, positions: Tensor, conditioning: Sequence[Any] | None = None) -> Tensor:
        """Logits at some answer positions.

        The unconditional pass of guidance runs without a graph: it does not read the picture.

        Args:
            states: [B, G] int64, states of the answer region, on the model's device.
            positions: [P] int64, the answer positions to read.
            conditioning: for each state, what was handed to its step besides the ids; None: nothing. See
                `Trajectory.conditioning`.

        Returns:
            [B, P, V] float32, on the device of the states; suppressed ids are -inf at positions that are masked in
            their state, or everywhere in a family without a mask token, whose tokens may all change again.
        """
        settings = self._settings
        if self._forward is None:
            logits = self._replay(states, positions, conditioning)
        else:
            logits = self._forward(states, positions)
        # A head that lies on another device leaves its output there.
        logits = logits.to(states.device)
        if settings.guidance_scale != 0:
            with torch.no_grad():
                unconditional = self._unconditional.logits(states, positions, conditioning)
            logits = unconditional + (settings.guidance_scale + 1) * (logits - unconditional)
        if settings.suppressed_ids:
            forbidden = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
            forbidden[list(settings.suppressed_ids)] = True
            mask = self._adapter.mask_token_id
            if mask is not None:
                forbidden = (states[:, positions] == mask)[..., None] & forbidden
            logits = logits.masked_fill(forbidden, float("-inf"))
        return logits

    @cached_property
    def _unconditional(self) -> Decider:
        plain = self._settings.merged({"guidance_scale": 0.0, "suppressed_ids": ()})
        return Decider(self._adapter, self._adapter.unconditional(self._inputs), plain)

    def _replay(self, states: Tensor, positions: Tensor, conditioning: Sequence[Any] | None) -> Tensor:
        # What a family does not have, its `replay` need not know of.
        prefix = () if self.prefix is None else (self.prefix,)
        further: dict[str, Any] = {}
        if conditioning is not None and any(handed is not None for handed in conditioning):
            further["conditioning"] = conditioning
        return self._adapter.replay(self._inputs, states, positions, *prefix, **further)


def decision_logits(
    adapter: Adapter,
    inputs: Inputs,
    states: Tensor,
    positions: Tensor,
    settings: SamplerSettings,
    conditioning: Sequence[Any] | None = None,
) -> Tensor:
    """Logits at some answer positions, once; see `Decider.logits`."""
    return Decider(adapter, inputs, settings).logits(states, positions, conditioning)
