"""Exact replay: the state before a commit step gives back the logits by which the model decided."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from dcam_core.denoising import SamplerSettings, decision_logits, denoise
from dcam_core.denoising.trajectory import NEVER_COMMITTED
from dcam_core.testing.toy import ToyAdapter

ADAPTER = ToyAdapter()
INPUTS = ADAPTER.prepare(Image.linear_gradient("L").resize((40, 30)).convert("RGB"), "the blue moon")


@pytest.mark.parametrize("block_length", [None, 4, 2])
@pytest.mark.parametrize("guidance", [0.0, 1.5])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("cache", [None, "prefix"])
def test_replayed_logits_are_those_of_the_decision(block_length, guidance, temperature, cache):
    settings = SamplerSettings(
        answer_length=8,
        block_length=block_length,
        steps=4,
        guidance_scale=guidance,
        temperature=temperature,
        cache=cache,
        suppressed_ids=(0, 2),
    )
    run = denoise(ADAPTER, INPUTS, settings)
    assert (run.commit_steps != NEVER_COMMITTED).all()
    for position in range(8):
        state = run.states[run.commit_steps[position]]
        with torch.no_grad():
            logits = decision_logits(ADAPTER, INPUTS, state[None], torch.tensor([position]), settings)[0, 0]
        chosen = run.final[position]
        torch.testing.assert_close(logits[chosen], run.commit_logits[position], atol=1e-5, rtol=0)
        torch.testing.assert_close(
            logits.softmax(-1)[chosen], run.commit_probabilities[position], atol=1e-5, rtol=0
        )
