"""Step schedules: how many tokens every denoising step of a block commits."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from dcam_core.denoising.settings import SamplerSettings
from dcam_core.errors import UnknownNameError

__all__ = ["SCHEDULES", "tokens_per_step"]


def _uniform(masked: int, steps: int, shift: float) -> list[int]:
    """Equal shares; the first `masked % steps` steps commit one more (LLaDA, LLaDA-V, MMaDA)."""
    share, remainder = divmod(masked, steps)
    return [share + (step < remainder) for step in range(steps)]


def _along(curve: Callable[[torch.Tensor, float], torch.Tensor]) -> Callable[[int, int, float], list[int]]:
    """A schedule that follows `curve: [0, 1] -> [0, 1]` (LaViDa)."""

    def counts(masked: int, steps: int, shift: float) -> list[int]:
        steps = min(steps, masked)
        time = torch.linspace(0, 1, steps + 1, dtype=torch.float32)
        reached = (curve(time, shift) * masked).to(torch.int64)
        reached[-1] = masked  # a curve that ends at 0.9999 in float32 must not leave a token undecided
        taken = reached.diff().clamp(min=1).tolist()
        # Raising empty steps to one token may overshoot: take the surplus back, one unit at a time.
        surplus, step = sum(taken) - masked, 0
        while surplus > 0:
            if taken[step] > 1:
                taken[step] -= 1
                surplus -= 1
            step = (step + 1) % steps
        return [int(count) for count in reversed(taken)]

    return counts


def _timesteps(masked: int, steps: int, shift: float) -> list[int]:
    """The share of noise that a falling time takes away: from 1 to 1e-3 in equal strides (Dream).

    Because of the final 1e-3 and of rounding down, early steps may commit nothing and the last one several.
    """
    time, counts = torch.linspace(1, 1e-3, steps + 1, dtype=torch.float32), []
    for step in range(steps):
        share = 1 - time[step + 1] / time[step]
        counts.append(int(masked * share) if step < steps - 1 else masked)
        masked -= counts[-1]
    return counts


SCHEDULES: dict[str, Callable[[int, int, float], list[int]]] = {
    "uniform": _uniform,
    "linear": _along(lambda t, shift: t),
    "shift": _along(lambda t, shift: shift * t / (1 + (shift - 1) * t)),
    "cosine": _along(lambda t, shift: 1 - 0.5 * (1 + torch.cos(math.pi * t))),
    "timesteps": _timesteps,
    "logit-normal": _along(lambda t, shift: 0.5 * (1 + torch.erf(torch.log(t / (1 - t)) / math.sqrt(2)))),
}
"""Name -> (masked tokens, steps, shift) -> tokens committed at each step."""


def tokens_per_step(masked: int, settings: SamplerSettings) -> list[int]:
    """Number of tokens that each step of a block commits.

    Args:
        masked: masked positions in the block when it begins, >= 0.
        settings: `schedule`, `shift` and the steps per block are read.

    Returns:
        One count >= 0 per step; they sum to `masked`. Curved schedules never spend more steps than there
        are tokens.

    Raises:
        UnknownNameError: there is no schedule of that name.
    """
    if settings.schedule not in SCHEDULES:
        raise UnknownNameError("schedule", settings.schedule, SCHEDULES)
    if masked == 0:
        return []
    return SCHEDULES[settings.schedule](masked, settings.steps_per_block, settings.shift)
