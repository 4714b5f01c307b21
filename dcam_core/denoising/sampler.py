"""Masked-diffusion sampling, with every state and every decision recorded.

The loop of LLaDA (Nie et al., 2025), which LLaDA-V, LaViDa and MMaDA share: predict every masked
position, keep the surest predictions, leave the others masked, repeat; block by block from left to right.
A committed token is never changed again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcam_core.denoising.decision import decision_logits
from dcam_core.denoising.remasking import REMASKING
from dcam_core.denoising.schedules import tokens_per_step
from dcam_core.denoising.settings import SamplerSettings
from dcam_core.denoising.stopping import first_stop
from dcam_core.denoising.trajectory import NEVER_COMMITTED, Trajectory
from dcam_core.errors import UnknownNameError

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.inputs import Inputs

__all__ = ["DenoisingStep", "denoise"]


@dataclass(frozen=True, eq=False)
class DenoisingStep:
    """What an observer hears after every denoising step.

    Attributes:
        index: number of the step, from 0.
        total: steps of a run that is not ended early.
        ids: [G] int64 on the CPU, the answer region after the step.
        committed: [k] int64, the answer positions that this step decided.
    """

    index: int
    total: int
    ids: Tensor
    committed: Tensor


@torch.no_grad()
def denoise(
    adapter: Adapter,
    inputs: Inputs,
    settings: SamplerSettings,
    on_step: Callable[[DenoisingStep], None] | None = None,
) -> Trajectory:
    """Write the answer, and record how it was written.

    Args:
        adapter: the model; `replay` and `unconditional` are called.
        inputs: the prepared prompt.
        settings: length, steps, blocks, schedule, remasking, temperature, guidance, stop sequences.
        on_step: called after every step.

    Returns:
        The recorded run. Same inputs, settings and machine: the same trajectory, since all noise comes
        from one generator seeded with `settings.seed`; global random state is neither read nor changed.

    Raises:
        UnknownNameError: `settings.remasking` or `settings.schedule` names nothing.
    """
    if settings.remasking not in REMASKING:
        raise UnknownNameError("remasking rule", settings.remasking, REMASKING)
    length, mask = settings.answer_length, adapter.mask_token_id
    # Noise is drawn on the CPU: the same seed then gives the same answer on every device.
    generator = torch.Generator().manual_seed(settings.seed)
    ids = torch.full((length,), mask, dtype=torch.int64)
    states = [ids.clone()]
    commit_steps = torch.full((length,), NEVER_COMMITTED, dtype=torch.int64)
    commit_logits = torch.full((length,), float("nan"))
    commit_probabilities = torch.full((length,), float("nan"))
    stop: int | None = None

    block_length = settings.block_length or length
    for start in range(0, length, block_length):
        end = start + block_length
        if stop is not None and stop <= start:
            break
        for count in tokens_per_step(int((ids[start:end] == mask).sum()), settings):
            masked = ids == mask
            if not masked[start:end].any() or (stop is not None and not masked[:stop].any()):
                break
            # Positions that an earlier block left masked stay candidates; behind a stop nothing matters.
            candidates = masked[: end if stop is None else stop].nonzero()[:, 0]
            decision = _decide(adapter, inputs, ids, candidates, settings, generator)
            kept = decision.confidence.topk(min(count, len(candidates))).indices
            positions = candidates[kept]
            ids = ids.clone()
            ids[positions] = decision.ids[kept]
            # A model may choose the mask token itself: that position is not decided.
            decided = kept[decision.ids[kept] != mask]
            positions = candidates[decided]
            commit_steps[positions] = len(states) - 1
            commit_logits[positions] = decision.logits[decided]
            commit_probabilities[positions] = decision.probabilities[decided]
            states.append(ids)
            stop = first_stop(ids, settings.stop_sequences)
            if on_step is not None:
                on_step(DenoisingStep(len(states) - 2, settings.total_steps, ids, positions.sort().values))

    return Trajectory(
        states=torch.stack(states),
        commit_steps=commit_steps,
        commit_logits=commit_logits,
        commit_probabilities=commit_probabilities,
        answer_length=length if stop is None else stop,
        settings=settings,
    )


@dataclass(frozen=True, eq=False)
class _Decision:
    """Predictions at P candidate positions, on the CPU: everything that the commit loop reads."""

    ids: Tensor
    confidence: Tensor
    logits: Tensor
    probabilities: Tensor


def _decide(
    adapter: Adapter,
    inputs: Inputs,
    ids: Tensor,
    candidates: Tensor,
    settings: SamplerSettings,
    generator: torch.Generator,
) -> _Decision:
    """Predict a token, and how sure the model is of it, at every candidate position."""
    device = inputs.embeddings.device
    logits = decision_logits(adapter, inputs, ids[None].to(device), candidates.to(device), settings)[0]
    chosen = _perturbed(logits, settings.temperature, generator).argmax(-1)
    # Confidence is the noise-free probability, in float64 as upstream: near-ties decide the order.
    probabilities = logits.double().softmax(-1)
    confidence = REMASKING[settings.remasking](probabilities, chosen, generator)
    return _Decision(
        ids=chosen.cpu(),
        confidence=confidence.cpu(),
        logits=logits.gather(-1, chosen[:, None])[:, 0].float().cpu(),
        probabilities=probabilities.gather(-1, chosen[:, None])[:, 0].float().cpu(),
    )


def _perturbed(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Logits with Gumbel noise: argmax(l / T + g) samples from softmax(l / T).

    Upstream writes it as exp(l) / (-log u)^T; the logarithm of that, used here, has the same argmax and
    does not overflow.
    """
    if temperature == 0:
        return logits
    uniform = torch.rand(logits.shape, dtype=torch.float64, generator=generator).to(logits.device)
    return logits.double() - temperature * torch.log(-torch.log(uniform))
