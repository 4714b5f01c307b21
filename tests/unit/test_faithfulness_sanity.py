"""Sanity checks on the toy model: other parameters, other words, other noise; and how alike maps are."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchmetrics.functional import spearman_corrcoef

from dcam_core import Explainer
from dcam_core.errors import ConfigurationError, TargetError, UsageError
from dcam_core.faithfulness import (
    agreement,
    modules_from_the_top,
    noise_stability,
    other_labels,
    parameter_randomisation,
    random_maps,
    randomised_parameters,
    spearman,
    structural_similarity,
)
from dcam_core.probing.targets import read_answer, select_targets
from dcam_core.testing.toy import toy_adapter, toy_picture


@pytest.fixture
def adapter():
    return toy_adapter(15)  # which says five different words


@pytest.fixture
def run(adapter):
    """An explainer, and what it needs to explain one recorded run again and again."""
    explainer = Explainer(adapter, "grad-cam")
    inputs = adapter.prepare(toy_picture(), "the red circle")
    trajectory = adapter.denoise(inputs, adapter.default_sampler)
    answer = read_answer(trajectory.answer_ids, adapter.tokenizer)
    return explainer, inputs, trajectory, answer


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


# -- parameters ----------------------------------------------------------------------------------------------


class NamesItsHead(type(toy_adapter())):
    @property
    def parity_modules(self):
        return {"logits": self.model.head}


def test_from_the_top_means_the_head_and_then_the_last_block():
    blocks = ("blocks.2", "blocks.1", "blocks.0")
    assert modules_from_the_top(toy_adapter()) in (blocks, ("head", *blocks))
    assert modules_from_the_top(NamesItsHead()) == ("head", *blocks)


def test_a_tensor_keeps_its_values_and_loses_their_places(adapter):
    before = weights_of(adapter.model)
    state = torch.get_rng_state()
    with randomised_parameters(adapter.model, ["blocks.1"]):
        during = weights_of(adapter.model)
        for name, value in before.items():
            assert torch.equal(during[name], value) == (not name.startswith("blocks.1"))
            assert torch.equal(during[name].flatten().sort().values, value.flatten().sort().values)
    assert all(torch.equal(value, before[name]) for name, value in weights_of(adapter.model).items())
    assert torch.equal(torch.get_rng_state(), state)


def test_every_value_is_put_back_after_an_error(adapter):
    before = weights_of(adapter.model)
    with pytest.raises(KeyboardInterrupt), randomised_parameters(adapter.model, ["head", "blocks.0"]):
        raise KeyboardInterrupt
    with pytest.raises(AttributeError), randomised_parameters(adapter.model, ["head", "nowhere"]):
        pass
    assert all(torch.equal(value, before[name]) for name, value in weights_of(adapter.model).items())


def test_shared_weights_are_put_back_too():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    model[1].weight = model[0].weight
    before = model[0].weight.detach().clone()
    with randomised_parameters(model, ["0", "1"]):
        assert not torch.equal(model[0].weight, before)
        assert model[1].weight is model[0].weight
    assert torch.equal(model[0].weight, before)


def test_a_module_without_parameters_is_refused(adapter):
    refused = pytest.raises(ConfigurationError, match=r"'blocks.0.mlp.1' has no floating parameters")
    with refused, randomised_parameters(adapter.model, ["blocks.0.mlp.1"]):
        pass


def test_maps_change_with_the_parameters_and_the_model_comes_back(adapter, run):
    explainer, *recorded = run
    targets = select_targets(recorded[-1], None)

    def explain():
        return explainer.explain_run(*recorded, targets).raw

    before, original = weights_of(adapter.model), explain()
    cascade = list(parameter_randomisation(adapter, explain, modules=["blocks.2", "blocks.1", "blocks.0"]))
    alone = list(parameter_randomisation(adapter, explain, modules=["blocks.2", "blocks.1"], cascading=False))
    assert [each.module for each in cascade] == ["blocks.2", "blocks.1", "blocks.0"]
    assert [each.module for each in alone] == ["blocks.2", "blocks.1"]
    # What comes first in the cascade is the same alone; what comes later is not.
    assert torch.equal(cascade[0].maps, alone[0].maps)
    assert not torch.equal(cascade[1].maps, alone[1].maps)
    for each in cascade:
        assert not torch.equal(each.maps, original)
        torch.testing.assert_close(each.spearman, spearman(original, each.maps), equal_nan=True)
        assert each.ssim.shape == (len(targets),)
    assert float(cascade[-1].spearman.nanmean()) < 0.9
    assert torch.equal(explain(), original)
    assert all(torch.equal(value, before[name]) for name, value in weights_of(adapter.model).items())


def test_a_cascade_shuffles_every_tensor_once_and_the_model_is_whole_between_its_items(adapter, monkeypatch):
    before, shuffles = weights_of(adapter.model), []
    monkeypatch.setattr(
        torch, "randperm", lambda *a, _own=torch.randperm, **k: shuffles.append(a) or _own(*a, **k)
    )
    paths, seen = ["blocks.2", "blocks.1", "blocks.0"], []

    def explain():
        seen.append(weights_of(adapter.model))
        return random_maps(1, (3, 4), seed=0)

    for number, _ in enumerate(parameter_randomisation(adapter, explain, modules=paths, seed=3), start=1):
        assert all(torch.equal(value, before[name]) for name, value in weights_of(adapter.model).items())
        count = len(shuffles)
        with randomised_parameters(adapter.model, paths[:number], seed=3):
            expected = weights_of(adapter.model)
        del shuffles[count:]
        assert all(torch.equal(value, expected[name]) for name, value in seen[-1].items())
    assert len(shuffles) == sum(len(list(adapter.model.get_submodule(path).parameters())) for path in paths)


def test_parameters_that_lie_on_disk_are_refused(adapter):
    adapter.model.blocks[1].to("meta")
    refused = pytest.raises(ConfigurationError, match=r"'blocks.1' has its parameters on disk")
    with refused, randomised_parameters(adapter.model, ["blocks.2", "blocks.1"]):
        pass


def test_an_explanation_that_does_not_look_at_the_model_is_found_out(adapter):
    """An edge detector would do: whatever the parameters are, its maps stay."""
    maps = random_maps(2, (3, 4), seed=0)
    for each in parameter_randomisation(adapter, lambda: maps, modules=["blocks.2", "blocks.1"]):
        assert each.spearman.tolist() == pytest.approx([1, 1])
        assert each.ssim.tolist() == pytest.approx([1, 1])


def test_similarity_does_not_depend_on_the_scale_of_the_maps(adapter):
    modules = modules_from_the_top(adapter)[-1:]
    repeats = iter([random_maps(2, (8, 8), 0), random_maps(2, (8, 8), 1)])
    small = iter([1e-6 * random_maps(2, (8, 8), 0), 1e-6 * random_maps(2, (8, 8), 1)])
    (one,), (other,) = (
        list(parameter_randomisation(adapter, maps.__next__, modules=modules)) for maps in (repeats, small)
    )
    assert one.ssim.tolist() == pytest.approx(other.ssim.tolist())
    assert (one.ssim < 0.5).all()


# -- labels --------------------------------------------------------------------------------------------------


def test_other_labels_stand_at_the_same_places_and_change_the_maps(run):
    explainer, *recorded = run
    targets = select_targets(recorded[-1], None)
    changed = other_labels(targets, seed=1)
    assert changed == other_labels(targets, seed=1)
    assert [each.positions for each in changed] == [each.positions for each in targets]
    for target, other in zip(targets, changed, strict=True):
        assert set(target.token_ids).isdisjoint(other.token_ids)
        assert other.word == "".join(other.tokens).strip()
    own, others = (explainer.explain_run(*recorded, each).raw for each in (targets, changed))
    assert float(spearman(own, others).nanmean()) < 0.99


def test_a_word_alone_has_no_other_label(run):
    *_, answer = run
    (target,) = select_targets(answer, ["@0"])
    with pytest.raises(TargetError, match="has no other token"):
        other_labels([target])


# -- alike ---------------------------------------------------------------------------------------------------


def test_rank_correlation_is_the_fields():
    maps, others = random_maps(4, (5, 6), 0), random_maps(4, (5, 6), 1)
    others[3] = others[3].round(decimals=1)  # with equals
    expected = spearman_corrcoef(maps.flatten(1).T.float(), others.flatten(1).T.float())
    torch.testing.assert_close(spearman(maps, others).float(), expected, atol=1e-4, rtol=0)


def test_rank_correlation_sees_order_alone():
    maps = random_maps(2, (4, 4), 0)
    assert spearman(maps, maps**3).tolist() == pytest.approx([1, 1])
    assert spearman(maps, 1 - maps).tolist() == pytest.approx([-1, -1])
    assert spearman(maps, torch.zeros_like(maps)).isnan().all()


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (3, 40), (20, 20)])
def test_structural_similarity_of_any_size(grid):
    maps = random_maps(3, grid, 0)
    assert structural_similarity(maps, maps).tolist() == pytest.approx([1, 1, 1])
    found = structural_similarity(maps, random_maps(3, grid, 1))
    assert found.shape == (3,)
    assert (found < 1).all()


def test_agreement_is_the_mean_of_all_pairs():
    maps = [random_maps(2, (4, 5), seed) for seed in range(3)]
    pairs = [spearman(maps[0], maps[1]), spearman(maps[0], maps[2]), spearman(maps[1], maps[2])]
    torch.testing.assert_close(agreement(maps), sum(pairs) / 3)
    with pytest.raises(UsageError, match="there are 1 repeats"):
        agreement(maps[:1])
    with pytest.raises(UsageError, match=r"maps are \[2, 4, 5\] and \[2, 4, 4\]"):
        spearman(maps[0], maps[1][..., :4])


def test_maps_under_noise_stay_alike_the_more_the_less_noise_there_is(adapter, run):
    explainer, _, trajectory, answer = run
    targets = select_targets(answer, None)

    def explain(picture):
        inputs = adapter.prepare(picture, "the red circle")
        return explainer.explain_run(inputs, trajectory, answer, targets).raw

    none, little, much = (
        noise_stability(explain, toy_picture(), std=std, repeats=2) for std in (0, 0.02, 0.8)
    )
    assert none.tolist() == pytest.approx([1] * len(targets))
    assert float(much.mean()) < float(little.mean()) <= 1
    with pytest.raises(UsageError, match="repeats is 0"):
        noise_stability(explain, toy_picture(), repeats=0)
