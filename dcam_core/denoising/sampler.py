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

from dcam_core.denoising.decision import Decider, Forward
from dcam_core.denoising.remasking import REMASKING
from dcam_core.denoising.schedules import tokens_per_step
from dcam_core.denoising.settings import SamplerSettings
from dcam_core.denoising.stopping import first_stop
from dcam_core.denoising.trajectory import GIVEN, NEVER_COMMITTED, Trajectory
from dcam_core.errors import ConfigurationError, UnknownNameError

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.inputs import Inputs

__all__ = ["Decision", "DenoisingStep", "decide", "denoise"]


@dataclass(frozen=True, eq=False)
class DenoisingStep:
    """What an observer hears after every denoising step.

    Attributes:
        index: number of the step, from 0.
        total: steps of a run that is not ended early.
        ids: [G] int64 on the CPU, the answer region after the step.
        committed: [k] int64, the answer positions that this step decided. A family that may take tokens back
            names those that it accepted at this step; whether they stay is known at the end.
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
    *,
    forward: Forward | None = None,
) -> Trajectory:
    """Write the answer, and record how it was written.

    Args:
        adapter: the model; `replay`, `unconditional` and `encode_prefix` are called.
        inputs: the prepared prompt.
        settings: length, steps, blocks, schedule, remasking, temperature, guidance, stop sequences.
        on_step: called after every step.
        forward: computes the logits in place of `adapter.replay`; for a cache that a family brings.

    Returns:
        The recorded run. Same inputs, settings and machine: the same trajectory, since all noise comes
        from one generator seeded with `settings.seed`; global random state is neither read nor changed.

    Raises:
        UnknownNameError: `settings.remasking` or `settings.schedule` names nothing.
        ConfigurationError: the family has no mask token.
    """
    if settings.remasking not in REMASKING:
        raise UnknownNameError("remasking rule", settings.remasking, REMASKING)
    run = _Run(
        adapter, Decider(adapter, inputs, settings, forward), inputs.embeddings.device, settings, on_step
    )
    length = settings.answer_length
    prefix = run.decider.prefix
    if prefix is not None and prefix.first_logits is not None and run.masked[0]:
        # The prompt's last row predicts the first position, whatever the answer holds: decided before the rest.
        run.step(torch.tensor([0]), 1)
    block_length = settings.block_length or length
    for start in range(0, length, block_length):
        end = start + block_length
        if run.stop is not None and run.stop <= start:
            break
        for count in tokens_per_step(int(run.masked[start:end].sum()), settings):
            if not run.masked[start:end].any() or (run.stop is not None and not run.masked[: run.stop].any()):
                break
            # Positions that an earlier block left masked stay candidates; behind a stop nothing matters.
            run.step(run.masked[: end if run.stop is None else run.stop].nonzero()[:, 0], count)
    return run.trajectory()


class _Run:
    """One denoising run: the answer region as it stands, and the record of how it came about."""

    def __init__(
        self,
        adapter: Adapter,
        decider: Decider,
        device: torch.device,
        settings: SamplerSettings,
        on_step: Callable[[DenoisingStep], None] | None,
    ) -> None:
        self.decider = decider
        self._device, self._settings, self._on_step = device, settings, on_step
        if adapter.mask_token_id is None:
            raise ConfigurationError(
                f"{adapter.family} has no mask token, and this sampler fills in mask tokens: its adapter must "
                "override `denoise`"
            )
        self._mask = adapter.mask_token_id
        # Noise is drawn on the CPU: the same seed then gives the same answer on every device.
        self._generator = torch.Generator().manual_seed(settings.seed)
        length = settings.answer_length
        ids = torch.full((length,), self._mask, dtype=torch.int64)
        ids[: len(settings.draft_ids)] = torch.tensor(settings.draft_ids, dtype=torch.int64)
        self._states = [ids]
        self._commit_steps = torch.where(ids == self._mask, NEVER_COMMITTED, GIVEN)
        self._commit_logits = torch.full((length,), float("nan"))
        self._commit_probabilities = torch.full((length,), float("nan"))
        self.stop = first_stop(ids, settings.stop_sequences)

    @property
    def masked(self) -> Tensor:
        """[G] bool, the positions that are not decided."""
        return self._states[-1] == self._mask

    def step(self, candidates: Tensor, count: int) -> None:
        """Predict all candidate positions, and commit the `count` surest of them."""
        ids = self._states[-1].clone()
        decision = decide(self.decider, self._device, ids, candidates, self._settings, self._generator)
        kept = decision.confidence.topk(min(count, len(candidates))).indices
        ids[candidates[kept]] = decision.ids[kept]
        # A model may choose the mask token itself: that position is not decided.
        decided = kept[decision.ids[kept] != self._mask]
        positions = candidates[decided]
        self._commit_steps[positions] = len(self._states) - 1
        self._commit_logits[positions] = decision.logits[decided]
        self._commit_probabilities[positions] = decision.probabilities[decided]
        self._states.append(ids)
        self.stop = first_stop(ids, self._settings.stop_sequences)
        if self._on_step is not None:
            index, total = len(self._states) - 2, self._settings.total_steps
            self._on_step(DenoisingStep(index, max(total, index + 1), ids, positions.sort().values))

    def trajectory(self) -> Trajectory:
        """The record."""
        return Trajectory(
            states=torch.stack(self._states),
            commit_steps=self._commit_steps,
            commit_logits=self._commit_logits,
            commit_probabilities=self._commit_probabilities,
            answer_length=self._settings.answer_length if self.stop is None else self.stop,
            settings=self._settings,
        )


@dataclass(frozen=True, eq=False)
class Decision:
    """Predictions at P candidate positions, on the CPU: everything that the commit loop reads.

    Attributes:
        ids: [P] int64, the tokens chosen.
        confidence: [P] float64, how sure the remasking rule is of them.
        logits: [P] float32, theirs.
        probabilities: [P] float64, theirs, before noise.
    """

    ids: Tensor
    confidence: Tensor
    logits: Tensor
    probabilities: Tensor


def decide(
    decider: Decider,
    device: torch.device,
    ids: Tensor,
    candidates: Tensor,
    settings: SamplerSettings,
    generator: torch.Generator,
) -> Decision:
    """Predict a token, and how sure the model is of it, at every candidate position.

    Args:
        decider: the model's, for one prompt.
        device: of the model.
        ids: [G] int64, the answer region as it stands.
        candidates: [P] int64, answer positions.
        settings: temperature, remasking, `top_k` and `top_p`.
        generator: of the noise.
    """
    logits = decider.logits(ids[None].to(device), candidates.to(device))[0]
    kept = _filtered(logits, settings)
    chosen = _perturbed(kept, settings.temperature, generator).argmax(-1)
    # Confidence is the noise-free probability, in float64 as upstream: near-ties decide the order.
    probabilities = logits.double().softmax(-1)
    considered = probabilities if kept is logits else kept.double().softmax(-1)
    confidence = REMASKING[settings.remasking](considered, chosen, generator)
    return Decision(
        ids=chosen.cpu(),
        confidence=confidence.cpu(),
        logits=logits.gather(-1, chosen[:, None])[:, 0].float().cpu(),
        probabilities=probabilities.gather(-1, chosen[:, None])[:, 0].float().cpu(),
    )


def _filtered(logits: Tensor, settings: SamplerSettings) -> Tensor:
    """Logits with those of the tokens that do not count at -inf (`top_k`, `top_p`)."""
    kept = logits
    if settings.top_k is not None and settings.top_k < logits.shape[-1]:
        least = kept.topk(settings.top_k, dim=-1).values[:, -1:]
        kept = kept.masked_fill(kept < least, -torch.inf)
    if settings.top_p is not None and settings.top_p < 1:
        probabilities, order = (
            (logits / (settings.temperature or 1)).softmax(-1).sort(dim=-1, descending=True)
        )
        # A token is left out if those before it have the probability already; the first never is.
        beyond = probabilities.cumsum(-1) - probabilities > settings.top_p
        kept = kept.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
    return kept


def _perturbed(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Logits with Gumbel noise: argmax(l / T + g) samples from softmax(l / T).

    Upstream writes it as exp(l) / (-log u)^T; the logarithm of that, used here, has the same argmax and
    does not overflow.
    """
    if temperature == 0:
        return logits
    uniform = torch.rand(logits.shape, dtype=torch.float64, generator=generator).to(logits.device)
    return logits.double() - temperature * torch.log(-torch.log(uniform))
