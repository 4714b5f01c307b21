"""Maps as a training signal: the same maps, with a graph to whatever is trainable."""

import pytest
import torch
from torch.distributed.fsdp import fully_shard

from dcam_core import Explainer
from dcam_core.errors import ConfigurationError, TargetError
from dcam_core.testing.toy import toy_adapter, toy_picture

PROMPT, ANSWER = "the red circle", "a red circle"
OBJECT = torch.zeros(36, 48, dtype=torch.bool)
OBJECT[8:20, 10:24] = True


def maps_of(explainer, targets=("circle",)):
    return explainer.differentiable(toy_picture(), PROMPT, targets, answer=ANSWER)


@pytest.mark.parametrize(
    "settings",
    [
        {"probe_layer": 0},
        {"probe_layer": [0, 1]},
        {"probe_layer": 0, "overrides": ["sampler.cache=prefix"]},
        {"probe_layer": 0, "targets_per_backward": 2, "overrides": ["attribution.name=layer-cam"]},
    ],
    ids=["one layer", "several", "prefix cache", "layer-cam"],
)
def test_they_are_the_raw_maps_of_the_engine(settings):
    explainer = Explainer(toy_adapter(), "grad-cam", **settings)
    wanted = explainer.explain(toy_picture(), PROMPT, "all", answer=ANSWER, baselines=[])
    found = explainer.differentiable(toy_picture(), PROMPT, "all", answer=ANSWER)
    assert [target.word for target in found.targets] == [target.word for target in wanted.targets]
    assert wanted.raw.max() > 0
    assert found.raw.requires_grad
    torch.testing.assert_close(found.raw.detach(), wanted.raw, rtol=1e-4, atol=1e-6 * float(wanted.raw.max()))


def test_an_answer_of_the_models_own_is_denoised_first():
    explainer = Explainer(toy_adapter(), "grad-cam", probe_layer=0)
    wanted = explainer.explain(toy_picture(), PROMPT, ["@1"], baselines=[])
    found = explainer.differentiable(toy_picture(), PROMPT, ["@1"])
    assert found.answer == wanted.answer
    torch.testing.assert_close(found.raw.detach(), wanted.raw, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["blocks.0.mlp.0.weight", "blocks.1.attention.in_proj_weight", "head.weight"]
)
def test_the_second_derivative_agrees_with_differences(name):
    """Below the probed block, above it, and in the head: a parameter acts on activations, on gradients, or both."""
    adapter = toy_adapter()
    adapter.model.double()
    explainer = Explainer(adapter, "grad-cam", probe_layer=0)
    parameter = adapter.model.get_parameter(name)
    direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def share():
        return maps_of(explainer).share_within(OBJECT).sum()

    (gradient,) = torch.autograd.grad(share(), parameter)
    slope = (gradient * direction).sum().item()
    step = 1e-3  # logits and maps are float32, so that a smaller one would measure rounding
    with torch.no_grad():
        parameter.add_(step * direction)
        above = share().item()
        parameter.sub_(2 * step * direction)
        below = share().item()
    assert abs(slope) > 1e-2
    assert slope == pytest.approx((above - below) / (2 * step), rel=0.02)


def test_only_what_is_trainable_gets_a_gradient_and_the_model_is_left_as_it_was():
    adapter = toy_adapter()
    model = adapter.model.train()
    model.requires_grad_(False)
    model.blocks[2].mlp.requires_grad_(True)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    before = torch.get_rng_state()
    loss = 1 - maps_of(Explainer(adapter, "grad-cam", probe_layer=1)).share_within(OBJECT)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(part.training for part in model.modules())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(part._forward_hooks for part in model.modules())
    loss.sum().backward()
    assert model.blocks[2].mlp[0].weight.grad.abs().sum() > 0
    assert {name for name, p in model.named_parameters() if p.grad is not None} <= {
        n for n in flags if flags[n]
    }


def test_descending_moves_the_evidence_onto_the_object():
    adapter = toy_adapter()
    explainer = Explainer(adapter, "grad-cam", probe_layer=0)
    optimiser = torch.optim.Adam(adapter.model.parameters(), 1e-3)
    shares = []
    for _ in range(5):
        share = maps_of(explainer, ["red"]).share_within(OBJECT).sum()
        shares.append(share.item())
        optimiser.zero_grad()
        (1 - share).backward()
        optimiser.step()
    assert shares == sorted(shares)
    assert shares[-1] > 2 * shares[0]


def test_a_mask_of_everything_holds_everything_and_an_empty_map_nothing():
    found = maps_of(Explainer(toy_adapter(), "grad-cam", probe_layer=0), "all")
    torch.testing.assert_close(found.share_within(torch.ones(7, 9)).detach(), torch.ones(3))
    empty = type(found)(found.answer, found.targets, (torch.zeros(3, 3, 4),))
    assert empty.share_within(OBJECT).tolist() == [0, 0, 0]


def test_what_has_no_gradient_is_refused():
    adapter = toy_adapter()
    with pytest.raises(TargetError, match="'moon' is not in the answer"):
        maps_of(Explainer(adapter, "grad-cam", probe_layer=0), ["moon"])
    with pytest.raises(ConfigurationError, match="asks the model itself"):
        maps_of(Explainer(adapter, "grad-cam", overrides=["attribution.name=occlusion"], probe_layer=0))
    adapter.model.requires_grad_(False)
    with pytest.raises(ConfigurationError, match="no parameter of the model requires a gradient"):
        maps_of(Explainer(adapter, "grad-cam", probe_layer=0))


def test_a_sharded_model_is_refused(mesh):
    """Two processes get wrong gradients, none, or a segmentation fault."""
    adapter = toy_adapter()
    fully_shard(adapter.model.blocks[1], mesh=mesh)
    with pytest.raises(ConfigurationError, match="FSDP has sharded the model"):
        maps_of(Explainer(adapter, "grad-cam", probe_layer=0))


def test_an_embedded_model_gets_gradients_in_its_blocks():
    explainer = Explainer("tiny-llada-v", "grad-cam")
    answer = {"prompt": "describe the picture", "targets": ["circle"], "answer": "a red circle"}
    wanted = explainer.explain(toy_picture((96, 96)), **answer, baselines=[])
    found = explainer.differentiable(toy_picture((96, 96)), **answer)
    torch.testing.assert_close(found.raw.detach(), wanted.raw, rtol=1e-3, atol=1e-5 * float(wanted.raw.max()))
    found.share_within(torch.ones(4, 4).tril()).sum().backward()
    last = list(explainer.model.blocks)[-1]
    assert sum(float(p.grad.abs().sum()) for p in last.parameters() if p.grad is not None) > 0
