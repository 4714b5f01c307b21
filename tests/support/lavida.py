"""What the LaViDa tests share: fixture readers, and models of the original's module trees that are not ours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Qwen2Config
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm, Qwen2RotaryEmbedding

from support import fixtures
from support.llada_v import add_vision

FIXTURES = fixtures.FIXTURES / "lavida"
NAMES = ("a", "b", "dream")


def read(name: str) -> SimpleNamespace:
    """Everything in a fixture folder."""
    return fixtures.read_fixture(FIXTURES / name)


def stand_in(fixture: SimpleNamespace) -> nn.Module:
    """A model of the original's tree and signature, with the fixture's weights."""
    kind = DreamStandIn if fixture.config["model_type"] == "llava_dream" else LLaDAStandIn
    model = kind(fixture.config)
    model.load_state_dict(fixture.weights)
    return model.eval()


# -- LLaDA: OLMo's names, logits out of the inner model, keys cached before they are rotated -----------------


class _Output(NamedTuple):
    logits: Tensor
    attn_key_values: list[tuple[Tensor, Tensor]] | None
    hidden_states: tuple[Tensor, ...] | None


class LLaDAStandIn(nn.Module):
    """`model.transformer`, called with `input_embeddings`, always checkpointed as the original is."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = SimpleNamespace(to_dict=lambda: config)
        self.model = _LLaDAModel(config)


class _LLaDAModel(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, rows = config["d_model"], config["embedding_size"]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(rows, width),
                "emb_drop": nn.Dropout(0.0),
                "ln_f": nn.RMSNorm(width, config["rms_norm_eps"]),
                "blocks": nn.ModuleList(_LLaDABlock(config) for _ in range(config["n_layers"])),
                "ff_out": nn.Linear(width, rows, bias=False),
            }
        )
        self.activation_checkpointing_strategy = "whole_layer"
        add_vision(self, config, width)

    def forward(
        self,
        input_ids: Tensor | None,
        input_embeddings: Tensor | None = None,
        attention_mask: Tensor | None = None,
        attention_bias: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        last_logits_only: bool = False,
        output_hidden_states: bool | None = None,
        prefix_length: Tensor | None = None,
    ) -> _Output:
        x = self.transformer["emb_drop"](input_embeddings)
        kept = []
        for index, block in enumerate(self.transformer["blocks"]):
            past = past_key_values[index] if past_key_values is not None else None
            if self.activation_checkpointing_strategy is not None:
                x, cache = checkpoint(block, x, None, past, use_cache, use_reentrant=True)
            else:
                x, cache = block(x, layer_past=past, use_cache=use_cache)
            kept.append(cache)
        x = self.transformer["ln_f"](x)
        return _Output(self.transformer["ff_out"](x), kept if use_cache else None, None)


class _LLaDABlock(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, inner = config["d_model"], config["mlp_hidden_size"]
        self.heads, self.theta = config["n_heads"], config["rope_theta"]
        narrow = width // self.heads * config["n_kv_heads"]
        for name, shape in {
            "q_proj": (width, width),
            "k_proj": (width, narrow),
            "v_proj": (width, narrow),
            "attn_out": (width, width),
            "ff_proj": (width, inner),
            "up_proj": (width, inner),
            "ff_out": (inner, width),
        }.items():
            self.add_module(name, nn.Linear(*shape, bias=False))
        self.attn_norm, self.ff_norm = (nn.RMSNorm(width, config["rms_norm_eps"]) for _ in range(2))

    def forward(
        self,
        x: Tensor,
        attention_bias: Tensor | None = None,
        layer_past: tuple[Tensor, Tensor] | None = None,
        use_cache: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        normed = self.attn_norm(x)
        size = x.shape[-1] // self.heads
        q, k, v = (
            part(normed).unflatten(-1, (-1, size)).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        if layer_past is not None:
            k, v = (torch.cat([past, now], dim=-2) for past, now in zip(layer_past, (k, v), strict=True))
        present = (k, v) if use_cache else None
        k = self._rotated(k, 0)
        mixed = F.scaled_dot_product_attention(self._rotated(q, k.shape[-2] - q.shape[-2]), k, v)
        x = x + self.attn_out(mixed.transpose(1, 2).flatten(-2))
        normed = self.ff_norm(x)
        return x + self.ff_out(F.silu(self.ff_proj(normed)) * self.up_proj(normed)), present

    def _rotated(self, x: Tensor, start: int) -> Tensor:
        """Rotation as a product of complex numbers: another way to write the half-split convention."""
        half = x.shape[-1] // 2
        angles = (start + torch.arange(x.shape[-2]))[:, None] * self.theta ** (-torch.arange(half) / half)
        turned = torch.complex(*x.float().chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([turned.real, turned.imag], -1).to(x.dtype)


# -- Dream: Qwen2's names, hidden states out of the inner model, an own cache class --------------------------


class DreamStandIn(nn.Module):
    """`model` and `lm_head`; blocks return tuples, and the cache is filled once and then only read."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = SimpleNamespace(to_dict=lambda: config)
        self.model = _DreamModel(config)
        self.lm_head = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)


class PrefixCache:
    """The form of the original's cache."""

    def __init__(self) -> None:
        self.past_key_values: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        if layer in self.past_key_values:
            past = self.past_key_values[layer]
            return torch.cat([past[0], keys], -2), torch.cat([past[1], values], -2)
        self.past_key_values[layer] = keys, values
        return keys, values

    def get_seq_length(self) -> int:
        return self.past_key_values[0][0].shape[-2] if self.past_key_values else 0


class _TupleLayer(Qwen2DecoderLayer):
    def forward(
        self, hidden: Tensor, past_key_value: PrefixCache | None = None, **options: Any
    ) -> tuple[Tensor]:
        return (super().forward(hidden, past_key_values=past_key_value, **options),)


class _DreamModel(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        qwen = Qwen2Config(
            **{name: config[name] for name in (*names, "num_key_value_heads", "rms_norm_eps")},
            rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
        )
        qwen._attn_implementation = "eager"
        width = config["hidden_size"]
        self.embed_tokens = nn.Embedding(config["vocab_size"], width)
        self.layers = nn.ModuleList(_TupleLayer(qwen, index) for index in range(qwen.num_hidden_layers))
        self.norm = Qwen2RMSNorm(width, config["rms_norm_eps"])
        self.rotary_emb = Qwen2RotaryEmbedding(qwen)
        add_vision(self, config, width)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: PrefixCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
    ) -> BaseModelOutputWithPast:
        if use_cache and past_key_values is None:
            past_key_values = PrefixCache()
        start = past_key_values.get_seq_length() if past_key_values is not None else 0
        positions = torch.arange(start, start + inputs_embeds.shape[1])[None]
        rotary = self.rotary_emb(inputs_embeds, positions)
        hidden = inputs_embeds
        for layer in self.layers:
            hidden = layer(
                hidden, past_key_value=past_key_values, attention_mask=None, position_embeddings=rotary
            )[0]
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden), past_key_values=past_key_values)
