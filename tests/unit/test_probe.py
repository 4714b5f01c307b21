"""The probe: exact gradients, shared work, and a model that is left as it was found."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from PIL import Image

from dcam_core.denoising import SamplerSettings, denoise
from dcam_core.errors import ReplayError, StructuralValidityError
from dcam_core.probing.gradient_targets import GradientTarget
from dcam_core.probing.probe import probe, probe_layers
from dcam_core.probing.replayed import Reading
from dcam_core.probing.untouched import untouched
from dcam_core.testing.toy import ToyAdapter

PICTURE = Image.linear_gradient("L").resize((40, 30)).convert("RGB")
SETTINGS = SamplerSettings(answer_length=8, suppressed_ids=(0, 2))
LOGIT = GradientTarget(lambda logits, ids: logits[: len(ids)].gather(-1, ids[:, None]).mean())


@pytest.fixture
def adapter():
    return ToyAdapter()


@pytest.fixture
def run(adapter):
    inputs = adapter.prepare(PICTURE, "the blue moon")
    return inputs, denoise(adapter, inputs, SETTINGS)


def _readings(trajectory, states, positions=((0,), (1, 2), (5,))):
    return [
        Reading(trajectory.states[step], place, tuple(int(trajectory.final[p]) for p in place), LOGIT)
        for step in states
        for place in positions
    ]


def _collect(adapter, inputs, layer, readings, settings=SETTINGS, **options):
    where = torch.cat([view.positions.flatten() for view in inputs.views])
    with untouched(adapter.model):
        batches = list(probe(adapter, inputs, layer, readings, where, settings, **options))
    order = torch.tensor([index for batch in batches for index in batch.readings])
    back = order.argsort()
    fields = ("activations", "gradients", "scores", "log_probabilities")
    return {name: torch.cat([getattr(batch, name) for batch in batches])[back] for name in fields}


@pytest.mark.parametrize("layer", ["blocks.0", "blocks.1.norm", "blocks.2.attention"])
def test_gradients_are_those_of_plain_autograd(adapter, run, layer):
    inputs, trajectory = run
    readings = _readings(trajectory, [0, 3])
    found = _collect(adapter, inputs, layer, readings)
    where = torch.cat([view.positions.flatten() for view in inputs.views])
    for index, reading in enumerate(readings):
        seen = []
        handle = adapter.model.get_submodule(layer).register_forward_hook(
            lambda module, args, output, seen=seen: seen.append(
                output if isinstance(output, torch.Tensor) else output[0]
            )
        )
        adapter.model.requires_grad_(True)
        logits = adapter.replay(inputs, reading.state[None], torch.tensor(reading.positions))[0]
        handle.remove()
        score = LOGIT.score(logits, torch.tensor(reading.token_ids))
        (gradient,) = torch.autograd.grad(score, seen[0])
        torch.testing.assert_close(found["gradients"][index], gradient[0, where])
        torch.testing.assert_close(found["activations"][index], seen[0].detach()[0, where])
        torch.testing.assert_close(found["scores"][index], score.detach())


@pytest.mark.parametrize("layer", ["blocks.0", "blocks.1.norm"])
@pytest.mark.parametrize("options", [{}, {"states_per_forward": 1}, {"targets_per_backward": 3}])
def test_with_a_prefix_cache_gradients_reach_the_prompt_through_keys_and_values(adapter, run, layer, options):
    inputs, trajectory = run
    readings = _readings(trajectory, [0, 3])
    settings = dataclasses.replace(SETTINGS, cache="prefix")
    found = _collect(adapter, inputs, layer, readings, settings, **options)
    where = torch.cat([view.positions.flatten() for view in inputs.views])
    for index, reading in enumerate(readings):
        seen = []
        handle = adapter.model.get_submodule(layer).register_forward_hook(
            lambda module, args, output, seen=seen: seen.append(
                output if isinstance(output, torch.Tensor) else output[0]
            )
        )
        adapter.model.requires_grad_(True)
        prefix = adapter.encode_prefix(inputs)
        handle.remove()
        logits = adapter.replay(inputs, reading.state[None], torch.tensor(reading.positions), prefix)[0]
        score = LOGIT.score(logits, torch.tensor(reading.token_ids))
        (gradient,) = torch.autograd.grad(score, seen[0])
        torch.testing.assert_close(found["gradients"][index], gradient[0, where])
        torch.testing.assert_close(found["activations"][index], seen[0].detach()[0, where])
        torch.testing.assert_close(found["scores"][index], score.detach())
    assert found["gradients"].abs().sum() > 0


def test_with_a_prefix_cache_the_last_block_is_refused(adapter, run):
    inputs, trajectory = run
    settings = dataclasses.replace(SETTINGS, cache="prefix")
    with pytest.raises(ReplayError, match=r"no gradient reaches it.*earlier layer"):
        _collect(adapter, inputs, "blocks.2", _readings(trajectory, [0]), settings)


@pytest.mark.parametrize("options", [{"states_per_forward": 1}, {"targets_per_backward": 3}])
def test_batching_changes_nothing(adapter, run, options):
    inputs, trajectory = run
    readings = _readings(trajectory, [0, 2, 3, 7])
    together = _collect(adapter, inputs, "blocks.1", readings)
    apart = _collect(adapter, inputs, "blocks.1", readings, **options)
    for name, values in together.items():
        torch.testing.assert_close(values, apart[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cache", [None, "prefix"])
@pytest.mark.parametrize("options", [{}, {"states_per_forward": 1}, {"targets_per_backward": 3}])
@pytest.mark.parametrize("layers", [["blocks.0", "blocks.1.norm"], ["blocks.1", "blocks.1.norm", "blocks.0"]])
def test_several_layers_are_read_at_once_as_one_by_one(adapter, run, layers, options, cache):
    inputs, trajectory = run
    readings = _readings(trajectory, [0, 3])
    settings = dataclasses.replace(SETTINGS, cache=cache)
    where = torch.cat([view.positions.flatten() for view in inputs.views])
    calls = []
    handle = adapter.model.blocks[0].register_forward_hook(lambda *_: calls.append(None))
    with untouched(adapter.model):
        batches = list(probe_layers(adapter, inputs, layers, readings, where, settings, **options))
    handle.remove()
    assert len(calls) <= 2 * len(batches)  # the prefix, and the answer
    for number, layer in enumerate(layers):
        alone = _collect(adapter, inputs, layer, readings, settings, **options)
        parts = [batch[number] for batch in batches]
        back = torch.tensor([index for part in parts for index in part.readings]).argsort()
        for name, expected in alone.items():
            found = torch.cat([getattr(part, name) for part in parts])[back]
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_of_several_layers_the_one_that_is_not_reached_is_named(adapter, run):
    inputs, trajectory = run
    settings = dataclasses.replace(SETTINGS, cache="prefix")
    where = inputs.views[0].positions.flatten()
    with untouched(adapter.model), pytest.raises(ReplayError, match=r"output of 'blocks.2'"):
        list(
            probe_layers(
                adapter, inputs, ["blocks.0", "blocks.2"], _readings(trajectory, [0]), where, settings
            )
        )


def test_states_are_replayed_once(adapter, run):
    inputs, trajectory = run
    calls = []
    adapter.model.blocks[0].register_forward_hook(lambda m, a, o: calls.append(o[0].shape[0]))
    _collect(adapter, inputs, "blocks.1", _readings(trajectory, [0, 0, 3]))
    assert calls == [2], "six readings of two states are one forward pass of two rows"


def test_no_graph_below_the_probe(adapter, run):
    inputs, trajectory = run
    graphs = []
    for block in adapter.model.blocks:
        block.register_forward_hook(lambda m, a, o: graphs.append((a[0].requires_grad, o[0].requires_grad)))
    _collect(adapter, inputs, "blocks.1", _readings(trajectory, [3]))
    # The test's hook on block 1 runs before the probe's own, so it still sees the output without a graph.
    assert graphs == [(False, False), (False, False), (True, True)]


def _snapshot(model):
    return {
        "weights": copy.deepcopy(model.state_dict()),
        "modes": [module.training for module in model.modules()],
        "flags": [parameter.requires_grad for parameter in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "rng": torch.get_rng_state(),
    }


def _assert_same(before, after):
    for key in ("modes", "flags", "hooks"):
        assert before[key] == after[key], key
    assert torch.equal(before["rng"], after["rng"])
    for name, tensor in before["weights"].items():
        assert torch.equal(tensor, after["weights"][name])
    for old, new in zip(before["grads"], after["grads"], strict=True):
        assert (old is None) == (new is None)
        assert old is None or torch.equal(old, new)


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("error", [None, RuntimeError("out of memory"), Interrupted()])
def test_model_is_left_as_found(adapter, run, error):
    inputs, trajectory = run
    model = adapter.model
    model.train()
    model.blocks[1].eval()
    model.head.weight.requires_grad_(False)
    model.place.weight.grad = torch.ones_like(model.place.weight)
    if error is not None:

        def fail(module, args, output):
            if output[0].requires_grad:
                raise error

        model.blocks[2].register_forward_hook(fail)
    before = _snapshot(model)
    if error is None:
        _collect(adapter, inputs, "blocks.1", _readings(trajectory, [0, 3]))
    else:
        with pytest.raises(type(error)):
            _collect(adapter, inputs, "blocks.1", _readings(trajectory, [0, 3]))
    _assert_same(before, _snapshot(model))


def test_a_network_may_write_into_the_probed_output_in_place(adapter, run):
    inputs, trajectory = run
    expected = _collect(adapter, inputs, "blocks.1", _readings(trajectory, [3]))
    adapter.model.blocks[2].register_forward_pre_hook(lambda module, args: (args[0].mul_(2).mul_(0.5),))
    found = _collect(adapter, inputs, "blocks.1", _readings(trajectory, [3]))
    torch.testing.assert_close(found["activations"], expected["activations"])
    torch.testing.assert_close(found["gradients"], expected["gradients"])


def test_runs_inside_no_grad_and_inference_mode(adapter, run):
    inputs, trajectory = run
    expected = _collect(adapter, inputs, "blocks.1", _readings(trajectory, [3]))
    with torch.no_grad():
        found = _collect(adapter, inputs, "blocks.1", _readings(trajectory, [3]))
    torch.testing.assert_close(found["gradients"], expected["gradients"])
    with torch.inference_mode():
        found = _collect(adapter, inputs, "blocks.1", _readings(trajectory, [3]))
    torch.testing.assert_close(found["gradients"], expected["gradients"])


def test_module_without_the_image_span_is_refused(adapter, run):
    inputs, trajectory = run
    with pytest.raises(StructuralValidityError, match=r"'head'.*reach up to sequence position 19"):
        _collect(adapter, inputs, "head", _readings(trajectory, [3]))


def test_module_that_takes_no_part_is_refused(adapter, run):
    inputs, trajectory = run
    with pytest.raises(ReplayError, match="'patch' was called 0 times"):
        _collect(adapter, inputs, "patch", _readings(trajectory, [3]))


def test_last_block_has_no_gradient_at_the_picture(adapter, run):
    inputs, trajectory = run
    found = _collect(adapter, inputs, "blocks.2", _readings(trajectory, [3]))
    assert (found["gradients"] == 0).all(), "answer logits read only their own rows of the last block"
