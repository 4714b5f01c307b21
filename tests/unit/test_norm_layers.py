"""Probe layers that have one name in every family: what a block's attention and its feed-forward network read."""

from __future__ import annotations

import pytest

from dcam_core import Explainer, load_model
from dcam_core.errors import ConfigurationError
from dcam_core.testing.toy import ToyAdapter, toy_adapter, toy_picture

NAMES = {
    "tiny-llada-v": ("input_layernorm", "post_attention_layernorm"),
    "tiny-lavida": ("attn_norm", "ff_norm"),
    "tiny-mmada": ("attn_norm", "ff_norm"),
}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_one_name_in_every_family(name):
    model, (attention, feed_forward) = load_model(name), NAMES[name]
    last, first = model.layer_path(-1), model.layer_path(0)
    assert model.layer_path("attention-norm:-1") == f"{last}.{attention}"
    assert model.layer_path("attention-norm:0") == f"{first}.{attention}"
    assert model.layer_path("feed-forward-norm:0.0") == f"{first}.{feed_forward}"
    assert model.layer_path("feed-forward-norm:1.0") == f"{last}.{feed_forward}"


def test_a_block_with_one_norm():
    toy = toy_adapter(seed=0)
    assert toy.layer_path("feed-forward-norm:1") == toy.layer_path("attention-norm:1")


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("attention-norm:9", "9 is not a block"),
        ("attention-norm:1.5", "not a fraction"),
        ("attention-norm:", "write a number or a fraction"),
        ("feed-forward-norm:last", "write a number or a fraction"),
        ("atention-norm:1", "is not a module"),
    ],
)
def test_what_names_no_norm_is_refused(layer, message):
    with pytest.raises(ConfigurationError, match=message):
        toy_adapter(seed=0).layer_path(layer)


class Normless(ToyAdapter):
    """The toy, as a family whose blocks have no norm before attention."""

    def attention_norm(self, block):
        return None


@pytest.fixture
def normless():
    return Normless(seed=0)


def test_a_norm_that_is_not_there_is_refused_by_its_name(normless):
    with pytest.raises(ConfigurationError, match="have no norm"):
        normless.layer_path("attention-norm:0")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_what_attention_reads_is_its_norm(name):
    model = load_model(name)
    assert model.layer_path("attention-input:-1") == model.layer_path("attention-norm:-1")
    assert model.layer_remark("attention-input:-1") == ""


def test_what_attention_reads_without_a_norm_is_the_block_below(normless):
    assert normless.layer_path("attention-input:-1") == normless.layer_path(-2)
    assert normless.layer_path("attention-input:0.5") == normless.layer_path(0)
    with pytest.raises(ConfigurationError, match="first block of toy has no norm and no block below it"):
        normless.layer_path("attention-input:0")


def test_the_default_method_works_without_a_norm_and_says_so(normless):
    explained = Explainer(normless).explain(toy_picture(), "the red circle", "all")
    assert explained.settings["probe_layer"] == normless.layer_path(-2)
    (remark,) = explained.settings["probe_layer_remarks"]
    assert remark.startswith(
        "attention-input:-1: the blocks of toy have no norm, so the output of the block below"
    )
    assert explained.raw.amax() > 0
    usual = Explainer(toy_adapter(seed=0)).explain(toy_picture(), "the red circle", "all")
    assert "probe_layer_remarks" not in usual.settings
