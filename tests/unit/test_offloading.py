"""Graphs that lie elsewhere between forward and backward passes; "cpu:0" stands for another device than "cpu"."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from dcam_core.estimating import PeakTensorMemory
from dcam_core.estimating.fakes import elsewhere, fake_weights
from dcam_core.estimating.probing import FirstStates
from dcam_core.probing import offloading
from dcam_core.probing.offloading import offloaded
from dcam_core.probing.untouched import untouched
from dcam_core.testing.model_attributions import toy_replays
from dcam_plugins.attributions import AttentionRollout

AWAY = torch.device("cpu:0")


@pytest.fixture
def everything(monkeypatch):
    """The toy's tensors are all small."""
    monkeypatch.setattr(offloading, "OFFLOADED_FROM", 1)


@pytest.fixture
def replays(everything):
    replays = toy_replays(cache=None)
    with torch.inference_mode(False), untouched(replays.adapter.model):
        yield replays


def test_tensors_of_the_graph_go_and_weights_stay(everything, monkeypatch):
    moved = []
    to = torch.Tensor.to

    def noted(tensor, device):
        moved.append((tuple(tensor.shape), str(device)))
        return to(tensor, device)

    layers = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).requires_grad_(False)
    given = torch.randn(2, 4, requires_grad=True)
    (expected,) = torch.autograd.grad(layers(given).square().sum(), given)
    monkeypatch.setattr(torch.Tensor, "to", noted)
    with offloaded(layers, AWAY):
        score = layers(given).square().sum()
    assert moved == [((2, 6), "cpu:0"), ((2, 3), "cpu:0")]  # what tanh gave, and what is squared; no weight
    (found,) = torch.autograd.grad(score, given)
    assert sorted(moved[2:]) == [((2, 3), "cpu"), ((2, 6), "cpu")]
    assert torch.equal(found, expected)
    moved.clear()
    with offloaded(layers, None):
        layers(given)
    with offloaded(layers, torch.device("cpu")):
        layers(given)
    assert not moved


def test_what_is_small_stays():
    given = torch.ones(2, requires_grad=True)
    large = torch.ones(2**12, requires_grad=True)
    with offloaded(nn.Identity(), AWAY):
        small_score, score = given.exp(), large.exp()
    assert isinstance(small_score.grad_fn._raw_saved_result.data, torch.Tensor)
    assert isinstance(score.grad_fn._raw_saved_result.data, offloading._Away)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("targets_per_backward", [1, 2])
def test_offloading_changes_no_bit(replays, checkpointing, targets_per_backward):
    options = {"checkpointing": checkpointing, "targets_per_backward": targets_per_backward}
    (expected,) = dataclasses.replace(replays, **options).probe()
    (found,) = dataclasses.replace(replays, offload=AWAY, **options).probe()
    assert torch.equal(found.gradients, expected.gradients)
    assert torch.equal(found.activations, expected.activations)
    assert found.gradients.device == expected.gradients.device


def test_input_gradients_and_prefixes(everything):
    for cache in (None, "prefix"):
        replays = toy_replays(cache=cache)
        with torch.inference_mode(False), untouched(replays.adapter.model):
            expected = dict(replays.input_gradients())
            found = dict(dataclasses.replace(replays, offload=AWAY, checkpointing=True).input_gradients())
        assert expected.keys() == found.keys() == set(range(len(replays.readings)))
        assert all(torch.equal(found[index], expected[index]) for index in expected)


def test_maps_that_are_differentiated_again(replays):
    found = []
    for offload in (None, AWAY):
        given = dataclasses.replace(replays, offload=offload, with_graph=True)
        head = replays.adapter.model.head.weight.requires_grad_()
        with torch.enable_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            (probed,) = given.probe()
            found += torch.autograd.grad(probed.gradients.square().sum(), head)
        head.requires_grad_(False)
    assert found[0].any()
    assert torch.equal(*found)


def test_attention_of_all_blocks_lies_elsewhere_too(replays, monkeypatch):
    expected = AttentionRollout()(replays)
    kept = []
    original = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor,
        "to",
        lambda tensor, *given, **more: kept.append(given) or original(tensor, *given, **more),
    )
    found = AttentionRollout()(dataclasses.replace(replays, offload=AWAY))
    assert sum(given == (AWAY,) for given in kept) == 3 * 3  # blocks and states
    assert torch.equal(found, expected)


# -- in an estimate ------------------------------------------------------------------------------------------


def test_where_fakes_go():
    cpu, meta = torch.device("cpu"), torch.device("meta")
    assert elsewhere(None, meta) is None
    assert elsewhere(cpu, cpu) is None  # nothing is gained where the model is
    assert elsewhere(cpu, meta) == meta == elsewhere(cpu, torch.device("cuda", 0))


def test_what_is_offloaded_is_counted_apart(replays):
    peaks, away = [], []
    for offload in (None, torch.device("meta")):
        with fake_weights(replays.adapter) as fakes, PeakTensorMemory() as memory:
            shown = dataclasses.replace(replays, inputs=fakes.prompt(replays.inputs), offload=offload)
            peaks.append(FirstStates(shown).peak(memory, 3))
            away.append(memory.peak_elsewhere)
        assert memory.elsewhere == 0
    assert away[0] == 0
    assert peaks[1] < 0.7 * peaks[0]
    assert away[1] > peaks[0] - peaks[1]
