"""Where weights go: spreading blocks with accelerate, quantising them with bitsandbytes."""

from __future__ import annotations

import builtins

import pytest
import torch
from support.checkpoints import empty_network, network, save
from torch import nn

from dcam_adapters.common.checkpoint import assign_weights, weight_files
from dcam_core.errors import ConfigurationError
from dcam_core.placement import Placement
from dcam_core.probing.untouched import untouched

IDS = torch.arange(6)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save(folder, network().state_dict())
    return folder


def load(folder, blocks="layers", **settings):
    model = empty_network()
    placement = Placement.of(**settings)
    assign_weights(model, weight_files(folder), placement=placement, blocks=blocks)
    return model


def logits_and_gradient(model, path="layers.0.up"):
    """What the engine does: the output of a module becomes a leaf, and logits are differentiated."""
    leaves = []

    def cut(module, inputs, output):
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    handle = model.get_submodule(path).register_forward_hook(cut)
    with untouched(model):
        logits = model(IDS)
        wanted = logits[0, -1, :3]
        # Several at once, as the engine takes them: through vmap.
        (gradient,) = torch.autograd.grad(
            wanted, leaves[-1], torch.eye(3, dtype=logits.dtype), is_grads_batched=True
        )
    handle.remove()
    return logits.detach(), gradient


# -- describing a placement ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cpu", "device_map": "auto"}, "both device .* and device_map"),
        ({"device": "meta"}, "device 'meta' cannot be used: it holds no weights"),
        ({"device_map": "clever"}, "device_map 'clever' is not one of auto, balanced, sequential"),
        ({"device_map": {"": "warp"}}, r"device_map\[''\]: device 'warp' cannot be used"),
        ({"device_map": {"layers": "disk"}}, "gives no device that computes"),
        ({"device_map": {"": "disk", "head": "cpu"}}, "gives no device that computes"),
        ({"quantisation": "2bit"}, "quantisation '2bit' is not one of 8bit, 4bit"),
        ({"max_memory": {"cpu": "1GiB"}}, "max_memory is read by the device maps auto"),
    ],
)
def test_placements_that_make_no_sense(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        Placement.of(**settings)


def test_on_the_cpu_the_default_is_float32():
    assert Placement.of().dtype == torch.float32
    assert Placement.of(device_map={"": "cpu", "layers": "disk"}).dtype == torch.float32
    assert Placement.of(dtype="bfloat16").dtype == torch.bfloat16
    assert Placement().dtype is None, "an adapter that is asked directly takes weights as stored"


# -- spreading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "device_map",
    [
        {"": "cpu"},
        {"": "cpu", "layers.1": "disk"},
        {"": "cpu", "layers": "disk", "layers.2": "cpu"},
        "auto",
        "balanced",
        "sequential",
    ],
)
def test_a_spread_model_computes_the_same_and_gradients_flow(folder, device_map):
    logits, gradient = logits_and_gradient(load(folder))
    for path, placed in (("layers.0.up", gradient), ("layers.1.down", None)):
        found_logits, found = logits_and_gradient(load(folder, device_map=device_map), path)
        assert torch.equal(found_logits, logits)
        assert found.abs().max() > 0
        if placed is not None:
            assert torch.equal(found, placed)


def test_blocks_on_disk_are_not_in_memory_before_or_after_a_call(folder):
    model = load(folder, device_map={"": "cpu", "layers": "disk", "layers.0": "cpu"}, dtype="float64")
    for _ in range(2):
        on_disk = {name for name, parameter in model.named_parameters() if parameter.is_meta}
        assert on_disk == {name for name in model.state_dict() if name.startswith(("layers.1.", "layers.2."))}
        assert not any(model.get_parameter(name).requires_grad for name in on_disk)
        assert model.layers[1].places.tolist() == [0, 1, 2, 3]
        logits, _ = logits_and_gradient(model, "layers.2.up")
        assert logits.dtype == torch.float64, "weights on disk are converted too"
    assert all(p.requires_grad for p in model.parameters() if not p.is_meta), "the rest is as it was"


def test_a_strategy_takes_the_disk_for_what_memory_cannot_hold(folder):
    block = sum(p.numel() for p in network().layers[0].parameters()) * 4
    rest = sum(p.numel() for p in network().parameters()) * 4 - 3 * block
    # accelerate keeps room for one more layer where something is offloaded.
    model = load(folder, device_map="sequential", max_memory={"cpu": rest + 2 * block + block // 2})
    on_disk = {name.split(".")[1] for name, p in model.named_parameters() if p.is_meta}
    assert on_disk
    assert on_disk < {"0", "1", "2"}
    assert torch.equal(model(IDS), network()(IDS))


@pytest.mark.parametrize(
    ("device_map", "message"),
    [
        ({"": "cpu", "layers.7": "disk"}, r"names layers\.7, which is no module .* layers\.0 to layers\.2"),
        ({"": "cpu", "layers.0.up": "disk"}, r"splits blocks \(layers\.0\.up\): name whole blocks"),
        ({"": "cpu", "head": "disk"}, r"puts head\.weight on another device than the main one \(cpu\)"),
    ],
)
def test_maps_that_do_not_fit_the_model(folder, device_map, message):
    with pytest.raises(ConfigurationError, match=message):
        load(folder, device_map=device_map)


def test_only_safetensors_can_stay_on_disk(tmp_path):
    save(tmp_path, network().state_dict(), "bin")
    with pytest.raises(ConfigurationError, match=r"model\.bin is no safetensors file"):
        load(tmp_path, device_map={"": "cpu", "layers.0": "disk"})


def test_a_model_without_blocks_goes_to_the_main_device_whole(folder):
    model = load(folder, blocks=None, device_map={"": "cpu", "other.module": "disk"}, quantisation="8bit")
    assert {type(layer) for layer in model.modules() if isinstance(layer, nn.Linear)} == {nn.Linear}
    assert not any(parameter.is_meta for parameter in model.parameters())


# -- quantising ----------------------------------------------------------------------------------------------


def dequantised(model):
    """The same model with the weights that the quantised ones stand for."""
    import bitsandbytes
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    plain = network()
    for path, layer in model.named_modules():
        if isinstance(layer, (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)):
            weight = dequantize_bnb_weight(layer.weight, getattr(layer, "state", None))
            plain.get_submodule(path).weight.data = weight.float()
    return plain


@pytest.mark.parametrize(
    # 8 bits round the hidden states too, to 1/127 of a row's largest value.
    ("quantisation", "weight_error", "error"),
    [("8bit", 0.005, 0.03), ("4bit", 0.15, 1e-4)],
)
def test_a_quantised_model_computes_with_its_weights_and_gradients_are_theirs(
    folder, quantisation, weight_error, error
):
    pytest.importorskip("bitsandbytes")
    model = load(folder, quantisation=quantisation)
    plain, whole = dequantised(model), network()
    for layer in range(3):
        expected = whole.layers[layer].up.weight
        assert (
            plain.layers[layer].up.weight - expected
        ).abs().max() < weight_error * expected.abs().max() * 1.5
    with torch.no_grad():
        model(IDS)  # a pass without gradients before must not change what the next one does
    logits, gradient = logits_and_gradient(model)
    expected_logits, expected = logits_and_gradient(plain)
    assert (logits - expected_logits).abs().max() < error * expected_logits.abs().max()
    assert (gradient - expected).abs().max() < max(error, 1e-3) * expected.abs().max() * 2


@pytest.mark.parametrize(("quantisation", "dtype"), [("8bit", torch.int8), ("4bit", torch.uint8)])
def test_only_the_linear_layers_of_the_blocks_are_quantised(folder, quantisation, dtype):
    pytest.importorskip("bitsandbytes")
    model = load(folder, quantisation=quantisation, dtype="bfloat16")
    for name, parameter in model.named_parameters():
        quantised = name.startswith("layers.") and name.endswith("weight")
        assert parameter.dtype == (dtype if quantised else torch.bfloat16), name
    assert model(IDS).dtype == torch.bfloat16


def test_quantised_blocks_are_not_offloaded(folder):
    with pytest.raises(ConfigurationError, match=r"quantised blocks cannot be kept .* \(layers\.1\)"):
        load(folder, device_map={"": "cpu", "layers.1": "disk"}, quantisation="8bit")


def test_devices_without_a_backend(folder, monkeypatch):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(bitsandbytes, "supported_torch_devices", {"cuda"})
    with pytest.raises(ConfigurationError, match=r"bitsandbytes \S+ does not work on cpu; use another"):
        load(folder, quantisation="4bit")


@pytest.mark.parametrize(
    ("library", "settings", "message"),
    [
        (
            "accelerate",
            {"device_map": "auto"},
            r"device_map needs accelerate.*pip install 'dcam\[placement\]'",
        ),
        ("bitsandbytes", {"quantisation": "8bit"}, r"'8bit' needs bitsandbytes.*'dcam\[quantisation\]'"),
    ],
)
def test_a_library_that_is_not_there_is_named(folder, monkeypatch, library, settings, message):
    find = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.partition(".")[0] == library:
            raise ImportError(f"No module named {library!r}")
        return find(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ConfigurationError, match=message):
        load(folder, **settings)
