"""Does a replay give what the run decided by, alone and in batches, and does a seed give the same run again?"""

from __future__ import annotations

import dataclasses
import pickle
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dcam_core.conformance.check import NotApplicableError, expect
from dcam_core.denoising.decision import Decider

if TYPE_CHECKING:
    from dcam_core.conformance.subject import Subject

__all__ = [
    "batch",
    "determinism",
    "positions",
    "replay",
    "replay_blocks",
    "replay_guidance",
    "replay_other_caches",
    "replay_prefix_cache",
    "replay_temperature",
]


def replay(subject: Subject) -> str:
    """Replaying the state before a token was decided gives the logits by which it was decided.

    An explanation differentiates the replayed logit: if it is not the one of the run, the map explains a
    decision that the model did not make. Here with the family's own sampler settings.
    """
    return _replayed(subject, {})


def replay_blocks(subject: Subject) -> str:
    """Replay equals generation where the answer is denoised block by block."""
    length = subject.settings.answer_length
    if length < 2:
        raise NotApplicableError(f"an answer of {length} position has no blocks")
    blocks = next(count for count in range(2, length + 1) if length % count == 0)
    return _replayed(subject, {"block_length": length // blocks, "steps": length})


def replay_temperature(subject: Subject) -> str:
    """Replay equals generation where tokens are sampled: what is recorded is free of the noise."""
    return _replayed(subject, {"temperature": 0.7})


def replay_guidance(subject: Subject) -> str:
    """Replay equals generation with classifier-free guidance, where two passes decide."""
    return _replayed(subject, {"guidance_scale": 0.5})


def replay_prefix_cache(subject: Subject) -> str:
    """Replay equals generation where the prompt is read once and does not see the answer."""
    _need_prefix_cache(subject)
    return _replayed(subject, {"cache": "prefix"})


def replay_other_caches(subject: Subject) -> str:
    """With any other cache, replay equals generation at the steps that the adapter calls exact, and these are valid.

    At the other steps a cache served what a replay computes: there the decision is made anew.
    """
    caches = [cache for cache in subject.adapter.caches if cache != "prefix"]
    if not caches:
        raise NotApplicableError(f"{subject.adapter.family} offers no further cache")
    return "; ".join(f"{cache}: {_replayed(subject, {'cache': cache})}" for cache in caches)


@torch.no_grad()
def batch(subject: Subject) -> str:
    """States replayed together give what each gives alone.

    The engine replays many states in one forward pass; a state must not see its neighbours.
    """
    run, figures = subject.default_run, []
    steps = range(0, run.steps, max(1, run.steps // 6))
    states = run.states[list(steps)].to(subject.adapter.device)
    handed = [run.conditioning_of(step) for step in steps]
    where = torch.arange(run.states.shape[1], device=subject.adapter.device)
    for cache in dict.fromkeys([subject.settings.cache, *_prefix_caches(subject)]):
        decider = Decider(subject.adapter, subject.inputs, dataclasses.replace(subject.settings, cache=cache))
        together = decider.logits(states, where, handed)
        alone = torch.cat(
            [decider.logits(state[None], where, [own]) for state, own in zip(states, handed, strict=True)]
        )
        name = "with a prefix cache" if cache else f"{len(states)} states"
        figures.append(f"{name}: {_compared(subject, together, alone)}")
    return "; ".join(figures)


@torch.no_grad()
def positions(subject: Subject) -> str:
    """Logits asked for at some positions, in any order, are those rows of the logits at all positions.

    The engine asks for the few rows that it reads; row p must predict the token at the p-th position asked.
    """
    run, adapter = subject.default_run, subject.adapter
    state = run.states[run.steps // 2][None].to(adapter.device)
    handed = [run.conditioning_of(run.steps // 2)]
    where = torch.arange(state.shape[1], device=adapter.device)
    some = where.flip(0)[:: max(1, len(where) // 5)]
    decider = Decider(adapter, subject.inputs, subject.settings)
    everywhere = decider.logits(state, where, handed)
    expect(
        everywhere.shape[:2] == (1, len(where)) and everywhere.dtype == torch.float32,
        f"replay gave {list(everywhere.shape)} {everywhere.dtype}, expected [1, {len(where)}, V] float32",
    )
    found = decider.logits(state, some, handed)
    return f"{len(some)} of {len(where)}: {_compared(subject, found, everywhere[:, some])}"


def determinism(subject: Subject) -> str:
    """One seed gives one run; global random numbers are neither read nor changed.

    Otherwise nobody can repeat an explanation, and explaining changes what the caller does next.
    """
    # A family whose sampler has no temperature draws its tokens at all times.
    sampled: dict[str, Any] = {} if "temperature" in subject.settings.unused else {"temperature": 0.7}
    changes = {**sampled, "seed": 11}
    before = _random_states()
    first_inputs, first = subject.prepare(subject.shown), subject.run(changes)
    changed = [name for name, state in _random_states().items() if state != before[name]]
    expect(not changed, f"the global random state of {', '.join(changed)} is another after a run")
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if _uses_cuda() else ()):
        torch.manual_seed(20)
        second_inputs, second = subject.prepare(subject.shown), subject.run(changes)
    expect(
        torch.equal(first_inputs.embeddings, second_inputs.embeddings),
        "the same picture and prompt were prepared twice, and the embeddings differ",
    )
    expect(
        first.states.shape == second.states.shape and torch.equal(first.states, second.states),
        "two runs with the same seed decided differently",
    )
    expect(
        torch.equal(first.commit_logits.nan_to_num(), second.commit_logits.nan_to_num()),
        "two runs with the same seed decided the same by different logits",
    )
    return f"{first.steps} steps{' at temperature 0.7' if sampled else ''}, twice the same"


@torch.no_grad()
def _replayed(subject: Subject, changes: Mapping[str, Any]) -> str:
    """Run, replay every decision, and compare logits and probabilities.

    The probability is that of one token among all: it compares the whole row.
    """
    adapter, run = subject.adapter, subject.run(changes) if changes else subject.default_run
    decider = Decider(adapter, subject.inputs, run.settings)
    error, tokens = 0.0, 0
    for step in range(run.steps):
        where = (run.commit_steps == step).nonzero()[:, 0]
        if len(where) == 0 or not adapter.exact_replay(run, step):
            continue
        reason = adapter.invalid_reason(run, step)
        expect(reason is None, f"step {step} is said to be replayed exactly, and to be invalid: {reason}")
        state = run.states[step][None].to(adapter.device)
        logits = decider.logits(state, where.to(adapter.device), [run.conditioning_of(step)])[0].cpu()
        chosen = run.final[where][:, None]
        found = logits.gather(-1, chosen)[:, 0]
        likely = logits.double().softmax(-1).gather(-1, chosen)[:, 0]
        differences = (found - run.commit_logits[where], likely - run.commit_probabilities[where])
        error = max(error, *(float(part.abs().nan_to_num(nan=torch.inf).max()) for part in differences))
        tokens += len(where)
    expect(tokens > 0, "no step that decided a token is replayed exactly")
    tolerance = subject.tolerance(run.commit_logits.nan_to_num(), run.settings.guidance_scale)
    figures = f"{tokens} tokens, largest error {error:.2e}, tolerance {tolerance:.0e}"
    expect(error <= tolerance, figures)
    return figures


def _compared(subject: Subject, found: Tensor, expected: Tensor) -> str:
    """Largest difference of logits, within tolerance."""
    agreed = ~found.isfinite() & (found == expected)
    error = float((found - expected).masked_fill(agreed, 0).abs().nan_to_num(nan=torch.inf).max())
    tolerance = subject.tolerance(expected, subject.settings.guidance_scale)
    figures = f"largest error {error:.2e}, tolerance {tolerance:.0e}"
    expect(error <= tolerance, figures)
    return figures


def _prefix_caches(subject: Subject) -> list[str]:
    return [name for name in subject.adapter.caches if name == "prefix"]


def _need_prefix_cache(subject: Subject) -> None:
    if "prefix" not in subject.adapter.caches:
        raise NotApplicableError(f"{subject.adapter.family} offers no prefix cache")


def _random_states() -> dict[str, Any]:
    """State of every global generator of random numbers, in a form that can be compared."""
    found = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": pickle.dumps(np.random.get_state()),
        "random": random.getstate(),
    }
    if _uses_cuda():
        found["torch.cuda"] = [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()]
    return found


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
