"""The logits by which the model decides: what the sampler reads, and what a replay must reproduce."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.denoising.settings import SamplerSettings
    from dcam_core.inputs import Inputs

__all__ = ["decision_logits"]


def decision_logits(
    adapter: Adapter, inputs: Inputs, states: Tensor, positions: Tensor, settings: SamplerSettings
) -> Tensor:
    """Logits at some answer positions, with guidance and suppression applied as during generation.

    The sampler and the probe both come through here, so that a replayed decision is the decision.
    The unconditional pass of guidance runs without a graph: it does not read the picture.

    Args:
        adapter: the model.
        inputs: the prepared prompt.
        states: [B, G] int64, states of the answer region, on the model's device.
        positions: [P] int64, the answer positions to read.
        settings: `guidance_scale` and `suppressed_ids` are read.

    Returns:
        [B, P, V] float32; suppressed ids are -inf at positions that are masked in their state.
    """
    logits = adapter.replay(inputs, states, positions)
    if settings.guidance_scale != 0:
        with torch.no_grad():
            unconditional = adapter.replay(adapter.unconditional(inputs), states, positions)
        logits = unconditional + (settings.guidance_scale + 1) * (logits - unconditional)
    if settings.suppressed_ids:
        forbidden = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        forbidden[list(settings.suppressed_ids)] = True
        masked = states[:, positions] == adapter.mask_token_id
        logits = logits.masked_fill(masked[..., None] & forbidden, float("-inf"))
    return logits
