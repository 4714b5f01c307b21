"""Probe layers that have one name in every family: what a block's attention and its feed-forward network read."""

from __future__ import annotations

import pytest

from dcam_core import load_model
from dcam_core.errors import ConfigurationError
from dcam_core.testing.toy import toy_adapter

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


def test_blocks_without_a_norm():
    toy = toy_adapter(seed=0)
    for block in toy.blocks:
        block.norm, block._modules["scale"] = None, block.norm
        del block._modules["norm"]
    with pytest.raises(ConfigurationError, match="have no norm"):
        toy.layer_path("attention-norm:0")
