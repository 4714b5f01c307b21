"""Tensors that do not fit the model: named, and with the likely cause."""

from __future__ import annotations

import pytest
import torch
from support.checkpoints import empty_network, network, save

from dcam_adapters.common.checkpoint import assign_weights, weight_files
from dcam_core.models import MisfitError
from dcam_core.placement import Placement


@pytest.fixture
def misfit(tmp_path):
    """Saves the weights after a change, loads them, and gives the error."""

    def load(change):
        state = network().state_dict()
        state = change(state) or state
        save(tmp_path, state)
        with pytest.raises(MisfitError) as caught:
            assign_weights(empty_network(), weight_files(tmp_path), placement=Placement())
        assert "\n" not in str(caught.value)
        assert set(caught.value.names) == set(state)
        return str(caught.value)

    return load


def renamed(change):
    return lambda state: {change(name): tensor for name, tensor in state.items()}


def test_missing_tensors(misfit):
    message = misfit(lambda state: {name: state[name] for name in state if not name.startswith("layers.2")})
    assert "3 missing: layers.2.up.weight, layers.2.up.bias, layers.2.down.weight." in message
    assert "saved in part" in message


def test_unexpected_tensors(misfit):
    message = misfit(lambda state: state.update({"resampler.query": torch.zeros(2)}))
    assert "1 unexpected: resampler.query. Likely cause: the model has parts" in message


def test_misshaped_tensors_with_both_shapes(misfit):
    message = misfit(lambda state: state.update({"head.weight": torch.zeros(12, 64)}))
    assert "1 mis-shaped: head.weight [12, 64] instead of [10, 64]" in message
    assert "config.json is not the one" in message


def test_long_lists_are_cut(misfit):
    assert "embedding.weight" in (message := misfit(renamed(lambda name: f"other{name}")))
    assert message.count("and 8 more") == 2
    assert "of another family, or of another version" in message


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model."])
def test_a_prefix_of_a_training_framework_is_named(misfit, prefix):
    assert f"put the prefix {prefix!r} before the names" in misfit(renamed(lambda name: prefix + name))


def test_a_lost_prefix_is_named(misfit):
    def part(state):
        return {name.removeprefix("layers."): tensor for name, tensor in state.items()}

    assert "the prefix 'layers.' of the names was lost" in misfit(part)


def test_lora_weights(misfit):
    message = misfit(lambda state: state.update({"layers.0.up.lora_A.weight": torch.zeros(2)}))
    assert "these are LoRA weights: merge them" in message


def test_weights_that_were_saved_quantised(misfit):
    message = misfit(lambda state: state.update({"layers.0.up.SCB": torch.zeros(2)}))
    assert "saved quantised: take the unquantised checkpoint" in message


def test_what_is_ignored_is_neither_read_nor_reported(tmp_path):
    save(tmp_path, {**network().state_dict(), "head.probe": torch.zeros(2), "other.probe": torch.zeros(2)})
    with pytest.raises(MisfitError, match=r"1 unexpected: other\.probe\."):
        assign_weights(
            empty_network(), weight_files(tmp_path), placement=Placement(), ignored=(r"head\.probe",)
        )
