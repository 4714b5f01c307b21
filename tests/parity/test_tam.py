"""Estimated causal inference and the filter against Token Activation Map's own numbers (tests/fixtures/method)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dcam_plugins.attributions import estimated_causal_inference
from dcam_plugins.refiners import rank_gaussian_filter

FIXTURE = Path(__file__).parents[1] / "fixtures" / "method" / "tam.npz"

CASES = {
    # case: (grid, first image token, first prompt token, prompt tokens, answer tokens)
    "basic": ((6, 5), 3, 34, 4, 3),
    "repeats": ((7, 7), 2, 52, 5, 5),
}


@pytest.fixture(params=CASES)
def recorded(request):
    with np.load(FIXTURE) as archive:
        arrays = {name: torch.from_numpy(values) for name, values in archive.items()}
    prefix = f"{request.param}__"
    return CASES[request.param], {
        name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)
    }


def maps_and_scores(case, arrays):
    """[T, N] raw maps, [T, T] text scores and [T, T] which earlier word counts, as TAM goes through its words.

    Words are those of the prompt and then those of the answer. TAM reads the logits that predict the *next* token,
    and takes the last token of the prompt's frame for the class of the first answer word.
    """
    (rows, cols), image, prompt, asked, answered = case
    tokens, first = arrays["tokens"], arrays["logits_round0"][0]
    start = len(tokens) - answered
    logits = torch.cat([first, *(arrays[f"logits_round{r}"][0] for r in range(1, answered))])
    places = [*range(prompt, prompt + asked), *range(start - 1, start - 1 + answered)]
    words = [*tokens[prompt : prompt + asked].tolist(), *tokens[start:].tolist()]
    classes = [int(first[prompt].argmax()), *words[1:asked]]
    classes += [int(tokens[start - 1]), *words[asked + 1 :]]
    maps = logits[image : image + rows * cols, classes].mT.relu()
    scores = logits[places][:, classes].mT.relu()
    words = torch.tensor(words)
    earlier = (words[:, None] != words) & torch.ones(len(words), len(words), dtype=torch.bool).tril(-1)
    return maps, scores, earlier


def test_raw_maps_are_the_logits_at_the_image_tokens(recorded):
    case, arrays = recorded
    maps, _, _ = maps_and_scores(case, arrays)
    torch.testing.assert_close(maps, arrays["raw_maps_in_call_order"], atol=1e-6, rtol=0)


def test_estimated_causal_inference(recorded):
    case, arrays = recorded
    maps, scores, earlier = maps_and_scores(case, arrays)
    cleaned = estimated_causal_inference(maps, scores, earlier)
    # TAM stretches a map together with the scores of the words before it.
    for number, (own, expected) in enumerate(
        zip(cleaned, arrays["normalised_prefilter_in_call_order"], strict=True)
    ):
        everything = torch.cat([own, scores[number, :number]])
        low, high = everything.min(), everything.max()
        found = ((own - low) / (high - low)).view(case[0])
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


def test_filter(recorded):
    _, arrays = recorded
    # TAM filters in float32.
    filtered = rank_gaussian_filter(arrays["normalised_prefilter_in_call_order"], 3)
    torch.testing.assert_close(filtered, arrays["filtered_in_call_order"], atol=1e-6, rtol=0)
