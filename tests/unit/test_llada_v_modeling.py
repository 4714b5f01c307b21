"""LLaDA-V's modules: attention variants, masks, packed segments, fresh weights."""

from __future__ import annotations

import pytest
import torch
from support.llada_v import read

from dcam_adapters.common.llama_block import LlamaBlock, LlamaDimensions
from dcam_adapters.common.transformer import (
    RMSNorm,
    apply_rotary,
    plain_attention,
    rotary_tables,
    sdpa_attention,
)
from dcam_adapters.llada_v.config import LLaDAVConfig
from dcam_adapters.llada_v.modeling import LLaDAV


def qkv(length=7):
    return tuple(torch.randn(2, 3, length, 8, dtype=torch.float64) for _ in range(3))


@pytest.mark.parametrize("kind", ["none", "bool", "additive"])
def test_plain_and_fused_attention_agree(kind):
    allowed = torch.rand(7, 7) > 0.3
    allowed.fill_diagonal_(True)
    additive = torch.zeros(7, 7, dtype=torch.float64).masked_fill(~allowed, -torch.inf)
    mask = {"none": None, "bool": allowed, "additive": additive}[kind]
    heads = qkv()
    # The plain one takes its softmax in float32.
    assert torch.allclose(plain_attention(*heads, mask), sdpa_attention(*heads, mask), atol=1e-6)


def test_rotary_scores_depend_on_distance_only():
    query, key = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)

    def score(at, other):
        rotated = [
            apply_rotary(x, rotary_tables(torch.tensor([place]), 16, 500000.0, x.dtype))
            for x, place in ((query, at), (key, other))
        ]
        return (rotated[0] * rotated[1]).sum()

    # Angles are computed in float32.
    assert torch.allclose(score(3, 10), score(20, 27), atol=1e-5)
    assert not torch.allclose(score(3, 10), score(3, 11), atol=1e-3)


def test_rotary_tables_of_batched_positions():
    positions = torch.tensor([[0, 1, 2], [0, 5, 9]])
    cosines, sines = rotary_tables(positions, 8, 10000.0, torch.float32)
    assert cosines.shape == sines.shape == (2, 1, 3, 8)
    assert torch.equal(cosines[1, 0], rotary_tables(positions[1], 8, 10000.0, torch.float32)[0])


def test_rms_norm_takes_statistics_in_float32():
    norm = RMSNorm(64, 1e-5).to(torch.float16)
    x = torch.full((1, 64), 300.0, dtype=torch.float16)  # whose square overflows in float16
    assert torch.allclose(norm(x), torch.ones_like(x))


def test_grouped_keys_equal_repeated_heads():
    grouped, full = (
        LlamaBlock(LlamaDimensions(8, 32, 48, 1, 4, key_value_heads, epsilon=1e-5, theta=1e4))
        for key_value_heads in (2, 4)
    )
    state = grouped.state_dict()
    for name in ("self_attn.k_proj.weight", "self_attn.v_proj.weight"):
        state[name] = state[name].unflatten(0, (2, 8)).repeat_interleave(2, 0).flatten(0, 1)
    full.load_state_dict(state)
    x = torch.randn(1, 5, 32)
    rotary = rotary_tables(torch.arange(5), 8, 10000.0, x.dtype)
    assert torch.allclose(grouped(x, rotary)[0], full(x, rotary)[0], atol=1e-6)


@pytest.fixture(scope="module")
def network():
    fixture = read("f")
    model = LLaDAV(LLaDAVConfig.from_dict(fixture.config))
    model.load_state_dict(fixture.weights)
    return model.eval()


@torch.no_grad()
def test_the_order_of_attention_implementations_does_not_matter(network):
    fixture = read("f")
    plain = LLaDAV(network.config, attention=plain_attention, vision_attention="eager").eval()
    plain.load_state_dict(fixture.weights)
    pixels = fixture.expected["pixel_values"]
    assert torch.allclose(plain.model.encode_crops(pixels), network.model.encode_crops(pixels), atol=2e-5)
    x = fixture.expected["hidden.0"]
    assert torch.allclose(plain(x), network(x), atol=1e-4)


@torch.no_grad()
def test_packed_segments_equal_separate_ones(network):
    """Several answers behind one prompt, as training packs them: own positions, no sight of each other."""
    prompt, first, second = (torch.randn(1, n, 48) for n in (6, 4, 3))
    alone = [network.model(torch.cat([prompt, segment], 1)) for segment in (first, second)]

    # For every segment to see what it sees alone, the prompt must not read any of them.
    packed = torch.cat([prompt, first, second], 1)
    segment = torch.tensor([0] * 6 + [1] * 4 + [2] * 3)
    allowed = (segment[:, None] == segment) | (segment == 0)
    positions = torch.tensor([*range(6), *range(6, 10), *range(6, 9)])
    prefix = torch.ones(10, 10, dtype=torch.bool)
    prefix[:6, 6:] = False
    together = network.model(packed, allowed, positions)
    apart = network.model(torch.cat([prompt, first], 1), prefix)
    assert torch.allclose(together[:, 6:10], apart[:, 6:], atol=1e-5)
    assert not torch.allclose(together[:, 6:10], alone[0][:, 6:], atol=1e-3)
    apart = network.model(torch.cat([prompt, second], 1), prefix[:9, :9])
    assert torch.allclose(together[:, 10:], apart[:, 6:], atol=1e-5)


@torch.no_grad()
def test_attention_is_bidirectional(network):
    x = torch.randn(1, 6, 48)
    changed = x.clone()
    changed[:, -1] += 1
    assert (network.model(x) - network.model(changed)).abs()[0, 0].max() > 1e-4


def test_fresh_weights_come_from_the_generator_alone(network):
    models = [LLaDAV(network.config) for _ in range(2)]
    for model in models:
        model.initialise(torch.Generator().manual_seed(3))
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["lm_head.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert first["model.mm_projector.0.bias"].abs().max() == 0
