"""Models as users hold them: compiled, with LoRA, frozen, in half precision, in parallel, in pieces."""

from __future__ import annotations

import peft
import pytest
import torch
from support import lavida, llada_v
from support.lavida import read, stand_in

from dcam_adapters.common.module_tree import called_eagerly, unwrapped
from dcam_adapters.lavida.adapter import LaViDaAdapter, LaViDaDreamAdapter
from dcam_adapters.llada_v.adapter import LLaDAVAdapter
from dcam_core.errors import CheckpointError, ConfigurationError

MODELS = ["a", "dream", "llada-v"]


@pytest.fixture(params=MODELS)
def case(request):
    """(fixture, adapter class, a model of the original's tree that is not ours)."""
    if request.param == "llada-v":
        fixture = llada_v.read("b")
        model = llada_v.StandIn(fixture.config)
        model.load_state_dict(fixture.weights)
        return fixture, LLaDAVAdapter, model.eval()
    fixture = read(request.param)
    kind = LaViDaDreamAdapter if request.param == "dream" else LaViDaAdapter
    return fixture, kind, stand_in(fixture)


def logits(adapter, fixture):
    inputs = adapter.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
    return adapter.replay(inputs, fixture.inputs["state_ids"], torch.tensor([1, 3]))


def lora(model):
    """The model with LoRA on queries and values, B not zero as it is at first."""
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    return peft.get_peft_model(model, config)


@torch.no_grad()
def test_lora_takes_part(case):
    fixture, kind, model = case
    plain = logits(kind.wrap(model), fixture)
    wrapped = lora(model)
    adapter = kind.wrap(wrapped)
    assert adapter.model is model
    assert adapter.name == "PeftModel"
    found = logits(adapter, fixture)
    assert not torch.allclose(found, plain, atol=1e-3)
    merged = kind.wrap(wrapped.merge_and_unload())
    assert torch.allclose(found, logits(merged, fixture), atol=1e-4)


def test_lora_in_our_network_and_frozen_parameters(case):
    fixture, kind, _ = case
    network = kind.load(fixture.folder).model
    adapter = kind.wrap(lora(network), config=fixture.config)
    for parameter in adapter.model.parameters():
        parameter.requires_grad_(False)
    block, seen = adapter.blocks[1], []

    def cut(module, args, output):
        leaf = output[0].detach().requires_grad_()
        seen.append(leaf)
        return (leaf.clone(), *output[1:])

    handle = block.register_forward_hook(cut)
    found = logits(adapter, fixture)
    handle.remove()
    found.sum().backward()
    assert seen[0].grad.abs().max() > 0


def test_learned_prompts_are_refused(case):
    _, kind, model = case
    model.peft_config = {"default": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)}
    model.base_model = model.model
    with pytest.raises(
        ConfigurationError, match=r"adapter 'default' \(PromptTuningConfig\) puts learned tokens"
    ):
        kind.wrap(model)


@torch.no_grad()
def test_compiled_models_are_taken_out(case):
    fixture, kind, model = case
    compiled = torch.compile(model, backend="eager")
    adapter = kind.wrap(compiled)
    assert adapter.model is model
    assert torch.equal(logits(adapter, fixture), logits(kind.wrap(model), fixture))


@torch.no_grad()
def test_compiled_blocks_run_uncompiled(case):
    fixture, kind, model = case
    calls = []

    def backend(graph, example_inputs):
        calls.append(graph)
        return graph.forward

    expected = logits(kind.wrap(model), fixture)
    for block in kind.wrap(model).blocks:
        block.compile(backend=backend)
    assert torch.equal(logits(kind.wrap(model), fixture), expected)
    assert calls == []


@torch.no_grad()
def test_blocks_that_are_compiled_in_the_source(monkeypatch):
    calls = []

    def backend(graph, example_inputs):
        calls.append(graph)
        return graph.forward

    fixture = read("dream")
    monkeypatch.setattr(
        lavida._TupleLayer, "forward", torch.compile(lavida._TupleLayer.forward, backend=backend)
    )
    adapter = LaViDaDreamAdapter.wrap(stand_in(fixture))
    inputs = adapter.prepare_ids(fixture.picture, fixture.inputs["input_ids"])
    prefix = adapter.encode_prefix(inputs)
    adapter.replay(inputs, fixture.inputs["state_ids"], torch.tensor([2]), prefix)
    assert calls == []


def test_nothing_is_changed_where_nothing_is_compiled():
    model = stand_in(read("dream"))
    with called_eagerly(model) as entered:
        assert entered is None


@torch.no_grad()
def test_data_parallel_models_are_taken_out(case):
    _, kind, model = case
    assert kind.wrap(torch.nn.DataParallel(model)).model is model
    assert unwrapped(torch.compile(torch.nn.DataParallel(model))) is model


def test_models_in_pieces_are_refused(case):
    _, kind, model = case
    pieces = type("FullyShardedDataParallel", (torch.nn.Module,), {})()
    pieces.module = model
    with pytest.raises(
        ConfigurationError, match="FullyShardedDataParallel, which keeps its parameters in pieces"
    ):
        kind.wrap(pieces)


@torch.no_grad()
def test_half_precision(case):
    fixture, kind, model = case
    expected = logits(kind.wrap(model), fixture)
    found = logits(kind.wrap(model.bfloat16()), fixture)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 0.5


def test_a_module_tree_of_another_family():
    with pytest.raises(CheckpointError, match=r"DreamStandIn has no module model\.transformer\.blocks"):
        LaViDaAdapter.wrap(stand_in(read("dream")), config=read("a").config)
