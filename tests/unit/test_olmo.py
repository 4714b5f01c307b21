"""The OLMo-style language model: its configuration, its variants, and prefixes, in both key layouts."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dcam_adapters.common.llama_block import LlamaDimensions, LlamaModel
from dcam_adapters.common.olmo import OlmoConfig, OlmoModel
from dcam_adapters.common.transformer import plain_attention
from dcam_core.errors import CheckpointError

SMALL = OlmoConfig(d_model=32, n_layers=3, n_heads=4, mlp_hidden_size=48, vocab_size=50)
DIMENSIONS = LlamaDimensions(50, 32, 48, 3, 4, 4, epsilon=1e-5, theta=500000.0)

# Source: LLaDA-V spec, section 1.1: the renaming between the two layouts.
RENAMED = {
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
}


def model(seed=0, **changes):
    torch.manual_seed(seed)
    return OlmoModel(dataclasses.replace(SMALL, **changes)).eval()


def published(**changes):
    values = {
        **{
            "d_model": 4096,
            "n_layers": 32,
            "n_heads": 32,
            "n_kv_heads": 32,
            "mlp_hidden_size": 12288,
            "mlp_ratio": 4,
        },
        **{"vocab_size": 126464, "embedding_size": 126464, "block_type": "llama", "block_group_size": 1},
        **{
            "activation_type": "silu",
            "layer_norm_type": "rms",
            "rope": True,
            "alibi": False,
            "weight_tying": False,
        },
        **{
            "bias_for_layer_norm": False,
            "include_bias": False,
            "multi_query_attention": None,
            "max_sequence_length": 4096,
        },
    }
    return {name: value for name, value in {**values, **changes}.items() if value != "absent"}


@torch.no_grad()
def test_both_key_layouts_are_one_network():
    olmo, llama = model(), LlamaModel(DIMENSIONS)
    state = olmo.state_dict()
    renamed = {
        "embed_tokens.weight": state["transformer.wte.weight"],
        "norm.weight": state["transformer.ln_f.weight"],
    }
    for block in range(3):
        for name, other in RENAMED.items():
            renamed[f"layers.{block}.{other}.weight"] = state[f"transformer.blocks.{block}.{name}.weight"]
    llama.load_state_dict(renamed)
    x = torch.randn(2, 7, 32)
    assert torch.equal(olmo(x), llama(x))


@pytest.mark.parametrize("build", [model, lambda: LlamaModel(DIMENSIONS)], ids=["olmo", "llama"])
def test_a_prefix_equals_a_mask_that_hides_the_rest_from_it(build):
    network = build()
    prompt, answer = torch.randn(1, 5, 32), torch.randn(3, 4, 32)
    hidden, keys_values = network.encode(prompt)
    assert torch.equal(hidden, network(prompt))
    behind = network(answer, prefix=keys_values)
    allowed = torch.ones(9, 9, dtype=torch.bool)
    allowed[:5, 5:] = False
    whole = network(torch.cat([prompt.expand(3, -1, -1), answer], 1), allowed)
    assert torch.allclose(behind, whole[:, 5:], atol=1e-5)
    assert torch.allclose(hidden.expand(3, -1, -1), whole[:, :5], atol=1e-5)


def test_prefixes_follow_each_other():
    network = model()
    first, second, third = (torch.randn(1, n, 32) for n in (3, 2, 4))
    _, one = network.encode(first)
    _, two = network.encode(second, prefix=one)
    both = [
        tuple(torch.cat(pair, 2) for pair in zip(a, b, strict=True)) for a, b in zip(one, two, strict=True)
    ]
    segment = torch.tensor([0] * 3 + [1] * 2 + [2] * 4)
    allowed = segment[:, None] >= segment
    whole = network(torch.cat([first, second, third], 1), allowed)
    assert torch.allclose(network(third, prefix=both), whole[:, 5:], atol=1e-5)


def test_masks_and_positions_reach_over_the_prefix():
    network = model()
    prompt, answer = torch.randn(1, 3, 32), torch.randn(1, 2, 32)
    _, keys_values = network.encode(prompt)
    alone = torch.cat([torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool)], 1)
    unseen = network(answer, alone, torch.arange(2), keys_values)
    assert torch.allclose(unseen, network(answer), atol=1e-5)


def test_a_prefix_is_differentiable():
    network = model()
    prompt = torch.randn(1, 5, 32, requires_grad=True)
    _, keys_values = network.encode(prompt)
    network(torch.randn(1, 4, 32), prefix=keys_values).sum().backward()
    assert prompt.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"include_qkv_bias": True}, {f"{p}_proj.bias" for p in "qkv"}),
        (
            {"include_bias": True},
            {f"{n}.bias" for n in ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")},
        ),
        ({"attention_layer_norm": True}, {"q_norm.weight", "k_norm.weight"}),
    ],
)
def test_options_of_a_block_bring_their_tensors(changes, names):
    plain, other = model().state_dict(), model(**changes).state_dict()
    extra = set(other) - set(plain)
    head = {"transformer.ff_out.bias"} if "include_bias" in changes else set()
    assert extra == head | {f"transformer.blocks.{i}.{name}" for i in range(3) for name in names}


def test_query_and_key_norms_are_applied_before_the_heads_are_split():
    network = model(attention_layer_norm=True, n_kv_heads=2)
    block = network.transformer["blocks"][0]
    assert (len(block.q_norm.weight), len(block.k_norm.weight)) == (32, 16)
    seen = []
    block.k_norm.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    network(torch.randn(1, 4, 32))
    (before, after), *_ = seen
    assert before.shape == (1, 4, 16)
    assert torch.allclose(after, torch.nn.functional.rms_norm(before, (16,), eps=1e-5), atol=1e-6)


@torch.no_grad()
def test_embeddings_and_logits_are_scaled_where_asked():
    plain = model()
    x = torch.randn(1, 4, 32)
    scaled = model(input_emb_norm=True)
    scaled.load_state_dict(plain.state_dict())
    assert torch.allclose(scaled(x / 32**0.5), plain(x), atol=1e-5)
    quiet = model(scale_logits=True)
    quiet.load_state_dict(plain.state_dict())
    assert torch.allclose(quiet.logits(x), plain.logits(x) / 32**0.5, atol=1e-6)
    # The head alone scales, too.
    assert torch.equal(quiet.transformer["ff_out"](x), quiet.logits(x))


@torch.no_grad()
def test_a_tied_head_is_the_embedding():
    network = model(weight_tying=True, scale_logits=True)
    assert "transformer.ff_out.weight" not in network.state_dict()
    x = torch.randn(1, 4, 32)
    expected = x @ network.transformer["wte"].weight.T / 32**0.5
    assert torch.allclose(network.logits(x), expected, atol=1e-6)


@torch.no_grad()
def test_rotation_in_full_precision_differs_in_half_precision_only():
    x = torch.randn(1, 40, 32)
    full, half = model(), model(rope_full_precision=False)
    assert torch.equal(full(x), half(x))
    low = x.bfloat16()
    found = full.bfloat16()(low), half.bfloat16()(low)
    assert not torch.equal(*found)
    assert torch.allclose(*found, atol=0.2)


@torch.no_grad()
def test_plain_attention_can_be_chosen():
    fused = model()
    plain = OlmoModel(SMALL, attention=plain_attention)
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(2, 6, 32)
    assert torch.allclose(plain(x), fused(x), atol=1e-5)


# -- configuration -------------------------------------------------------------------------------------------


def test_published_fields_are_the_defaults():
    config = OlmoConfig.from_dict(published(), family="LaViDa")
    assert config == OlmoConfig(n_kv_heads=32, mlp_hidden_size=12288, embedding_size=126464)
    assert (config.head_dim, config.key_value_heads, config.inner, config.rows) == (128, 32, 12288, 126464)


def test_null_fields_fall_back_as_in_the_original():
    config = OlmoConfig.from_dict(
        published(n_kv_heads=None, mlp_hidden_size=None, embedding_size=None), family="LaViDa"
    )
    assert (config.key_value_heads, config.inner, config.rows) == (32, 16384, 126464)
    one = OlmoConfig.from_dict(published(n_kv_heads=None, multi_query_attention=True), family="LaViDa")
    assert one.key_value_heads == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": "absent"}, r"LaViDa checkpoint lacks d_model: the model's shape is unknown"),
        ({"block_type": "sequential"}, r"block_type = 'sequential', LaViDa's adapter offers 'llama'"),
        ({"block_group_size": 4}, "block_group_size = 4"),
        ({"activation_type": "swiglu"}, "activation_type = 'swiglu'"),
        ({"layer_norm_type": "default"}, "layer_norm_type = 'default'"),
        ({"layer_norm_with_affine": False}, "layer_norm_with_affine = False"),
        ({"rope": False}, "rope = False"),
        ({"alibi": True}, "alibi = True"),
        ({"bias_for_layer_norm": True}, "norms without biases"),
        ({"bias_for_layer_norm": None, "include_bias": True}, "norms without biases"),
        ({"n_heads": 30}, "heads of one even width"),
        ({"n_kv_heads": 5}, r"a divisor of n_heads \(32\)"),
    ],
)
def test_what_is_not_offered_is_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        OlmoConfig.from_dict(published(**changes), family="LaViDa")
