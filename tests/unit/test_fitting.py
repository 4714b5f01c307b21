"""Work that fits into memory: chunks that halve, chunks by the free memory, blocks that are computed anew."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from dcam_core import Explainer, default_manager
from dcam_core.conformance.untouched import ModelState
from dcam_core.errors import ConfigurationError
from dcam_core.estimating import PeakTensorMemory, chunks
from dcam_core.estimating.chunks import STATES_PER_FORWARD, free_memory, states_that_fit
from dcam_core.estimating.fakes import fake_weights
from dcam_core.estimating.probing import FirstStates
from dcam_core.probing.attributing import attribute
from dcam_core.probing.fitting import ChunkSize, is_out_of_memory
from dcam_core.probing.untouched import untouched
from dcam_core.testing.model_attributions import toy_replays
from dcam_core.testing.toy import ToyAdapter, ToyModel, toy_adapter, toy_picture

EVERY = [f"@{position}" for position in range(5)]


def explained(adapter, *, targets=EVERY, answer=None, **options):
    settings = {"overrides": ["mask_step=commit", "probe_layer=0"], **options}
    explainer = Explainer(adapter, "diffusion-cam", **settings)
    return explainer.explain(toy_picture(), "the red circle", targets, answer=answer, baselines=[])


def raw_maps(explanation):
    return explanation.pictures[0].raw


def deep(blocks=10):
    adapter = toy_adapter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapter.model = ToyModel(blocks).eval()
    return adapter


def replays_of(adapter):
    explainer = Explainer(adapter, "diffusion-cam", overrides=["mask_step=commit", "probe_layer=0"])
    inputs, asked = explainer._ask([toy_picture()], "the red circle", EVERY, None, None, 0, None)
    readings = explainer._bound.readings(asked.targets, asked.trajectory)
    return explainer._replaying.of(inputs, asked.trajectory, readings, [])


# -- halving -------------------------------------------------------------------------------------------------


def test_a_chunk_that_does_not_fit_is_halved_for_good(caplog):
    asked = []

    def work(chunk):
        asked.append(len(chunk))
        if len(chunk) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sum(chunk)

    chunks = ChunkSize(8)
    with caplog.at_level(logging.WARNING, logger="dcam.probing"):
        found = list(chunks.over(range(10), work))
        assert (sum(found), asked) == (45, [8, 4, 2, 2, 2, 2, 2])
        assert list(chunks.over(range(3), work)) == [1, 2]
    assert [record.message for record in caplog.records] == [
        "out of memory with 8 states of a forward pass: going on with 4",
        "out of memory with 4 states of a forward pass: going on with 2",
    ]


def test_the_last_chunk_halves_nothing():
    chunks = ChunkSize(4)
    assert list(chunks.over("abcde", len)) == [4, 1]
    assert chunks.size == 4


@pytest.mark.parametrize(("size", "error"), [(1, torch.OutOfMemoryError("all")), (4, RuntimeError("shapes"))])
def test_what_cannot_be_mended_is_raised_at_once(size, error):
    tried = []

    def work(count):
        tried.append(count)
        raise error

    with pytest.raises(type(error), match=str(error)):
        ChunkSize(size, "things").fitting(work)
    assert tried == [size]


def test_the_cpu_says_it_in_words():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_out_of_memory_changes_no_map_and_leaves_the_model_as_it_was(monkeypatch):
    expected = raw_maps(explained(toy_adapter()))
    adapter, asked = toy_adapter(), []
    adapter.model.train()
    replay, differentiate = adapter.replay, torch.autograd.grad

    def small_device(inputs, states, *further):
        if torch.is_grad_enabled():
            asked.append(len(states))
            if len(states) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return replay(inputs, states, *further)

    def no_vectorised(*given, **options):
        if options.get("is_grads_batched"):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return differentiate(*given, **options)

    adapter.replay = small_device
    monkeypatch.setattr(torch.autograd, "grad", no_vectorised)
    # Two words are read in every state: only a state on its own may differentiate them one by one.
    found = raw_maps(explained(adapter, overrides=["mask_step=all", "probe_layer=0"], targets_per_backward=2))
    assert asked[0] > 2
    assert min(asked) == 1
    assert all(module.training for module in adapter.model.modules())
    assert all(parameter.requires_grad for parameter in adapter.model.parameters())
    monkeypatch.undo()
    everywhere = explained(toy_adapter(), overrides=["mask_step=all", "probe_layer=0"])
    torch.testing.assert_close(found, raw_maps(everywhere), atol=1e-5, rtol=1e-5)
    asked.clear()
    torch.testing.assert_close(raw_maps(explained(adapter)), expected, atol=1e-5, rtol=1e-5)
    assert max(asked[1:]) == 2


class SmallDevice(ToyAdapter):
    """Has room for so many states, and after so many forward passes for none."""

    room, last = 1, 10**6

    def replay(self, inputs, states, positions, prefix=None):
        logits = super().replay(inputs, states, positions, prefix)
        self.last -= 1
        if len(states) > self.room or self.last < 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return logits


@pytest.mark.parametrize("cache", [None, "prefix"])
@pytest.mark.parametrize("name", default_manager().registries.attributions.names)
def test_no_attribution_needs_room_for_two_states(name, cache):
    attribution = default_manager().registries.attributions.entry(name).load()()
    replays = toy_replays(cache=cache)
    found = []
    for shown in (
        dataclasses.replace(replays, states_per_forward=1),
        dataclasses.replace(replays, adapter=SmallDevice(), states_per_forward=3),
    ):
        with torch.inference_mode(False), untouched(shown.adapter.model):
            parts = [evidence for _, evidence in attribute([(name, attribution)], shown)]
        found.append({index: row for part in parts for index, row in rows_of(part)})
    assert found[0].keys() == found[1].keys() == set(range(5))
    assert all(torch.equal(found[1][index], row) for index, row in found[0].items())


def rows_of(evidence):
    return zip(evidence.readings, evidence.values, strict=True)


@pytest.mark.parametrize("options", [{}, {"checkpointing": True, "offload": torch.device("cpu:0")}])
@pytest.mark.parametrize("passes", [0, 1])
@pytest.mark.parametrize(
    "name", ["attention-relevance", "attention-rollout", "input-gradient", "occlusion", "score-cam", "tam"]
)
def test_nothing_is_left_behind_where_a_single_state_is_too_much(name, passes, options):
    attribution = default_manager().registries.attributions.entry(name).load()()
    adapter = SmallDevice()
    replays = dataclasses.replace(toy_replays(), adapter=adapter, states_per_forward=1, **options)
    adapter.last = passes
    before = ModelState.of(adapter.model)
    fast = torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad(), untouched(adapter.model), pytest.raises(torch.OutOfMemoryError):
        attribution(replays)
    before.expect_unchanged(adapter.model, "after running out of memory")
    assert torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert len(_get_current_dispatch_mode_stack()) == 0
    assert not any("forward" in vars(block) for block in adapter.blocks)


# -- by the free memory --------------------------------------------------------------------------------------


def test_as_many_states_as_the_free_memory_holds(monkeypatch):
    replays = replays_of(toy_adapter())
    states = FirstStates(replays)
    assert states.count >= 4
    with fake_weights(replays.adapter), PeakTensorMemory() as memory:
        peaks = [states.peak(memory, count) for count in range(1, states.count + 1)]
    for free, expected in ((None, states.count), (0, 1), (2**40, states.count)):
        monkeypatch.setattr(chunks, "free_memory", lambda device, free=free: free)
        assert states_that_fit(replays) == expected
    monkeypatch.setattr(chunks, "free_memory", lambda device: 1.25 * (peaks[2] + peaks[3]) / 2)
    count = states_that_fit(replays)
    assert 1 < count < states.count
    # What is planned with is used, and not exceeded, up to a tenth.
    assert peaks[count - 1] < 1.1 * (peaks[2] + peaks[3]) / 2 < 1.2 * peaks[count]
    expected = raw_maps(explained(toy_adapter(), states_per_forward=count))
    found = raw_maps(explained(toy_adapter(), states_per_forward="auto"))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_model_that_looks_at_numbers_gets_the_usual_number(caplog):
    adapter = toy_adapter()
    replay = adapter.replay
    adapter.replay = lambda *given: replay(*given) * (float(adapter.model.head.weight.detach().sum()) != 0)
    with caplog.at_level(logging.WARNING, logger="dcam.probing"):
        assert states_that_fit(replays_of(adapter)) == STATES_PER_FORWARD
    assert "no estimate for toy" in caplog.text


def test_free_memory_of_the_cpu():
    free = free_memory(torch.device("cpu"))
    assert free is None or free > 2**20
    assert free_memory(torch.device("meta")) is None


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "all"])
def test_no_number_of_states(wrong):
    with pytest.raises(ConfigurationError, match="states_per_forward is"):
        Explainer(toy_adapter(), states_per_forward=wrong)


# -- checkpointing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["null", "prefix"])
@pytest.mark.parametrize("layers", [0, "blocks.1.norm", [0, "blocks.2.norm"]])
@pytest.mark.parametrize("targets_per_backward", [1, 2])
def test_checkpointing_changes_no_bit(layers, cache, targets_per_backward):
    calls = []
    adapter = deep(5)
    handle = adapter.model.blocks[3].register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    asked = {
        "overrides": ["mask_step=all", f"sampler.cache={cache}"],
        "probe_layer": layers,
        "targets_per_backward": targets_per_backward,
    }
    plain = explained(adapter, **asked)
    once = len(calls)
    anew = explained(adapter, **asked, checkpointing=True)
    assert len(calls) == 2 * once  # hooks of a block are called once in a forward pass, as always
    handle.remove()
    assert torch.equal(raw_maps(anew), raw_maps(plain))
    assert not any("forward" in vars(block) for block in adapter.blocks)


def test_blocks_with_a_memory_are_refused():
    adapter, rows = deep(3), []
    block = adapter.model.blocks[2]
    forward = type(block).forward

    class Forgetful(type(block)):
        def forward(self, hidden, prefix=None):
            rows.append(hidden)
            seen = torch.cat(rows, dim=1) if torch.is_grad_enabled() else hidden
            return forward(self, seen, prefix)[0][:, -hidden.shape[1] :], hidden

    block.__class__ = Forgetful
    with pytest.raises(
        ConfigurationError, match=r"blocks of toy compute something else.*leave checkpointing"
    ):
        explained(
            adapter, targets=["@0"], answer="a red circle", overrides=["probe_layer=0"], checkpointing=True
        )


def test_checkpointing_takes_less_memory():
    peaks = []
    for checkpointing in (False, True):
        replays = dataclasses.replace(replays_of(deep(10)), checkpointing=checkpointing)
        with fake_weights(replays.adapter), PeakTensorMemory() as memory:
            peaks.append(FirstStates(replays).peak(memory, 4))
    assert peaks[1] < 0.5 * peaks[0]
    real = []
    for checkpointing in (False, True):
        with PeakTensorMemory() as memory:
            explained(deep(10), checkpointing=checkpointing)
        real.append(memory.peak)
    assert real[1] < 0.7 * real[0]
