"""What the MMaDA tests share: a fixture reader, a tokenizer, and models that are not ours."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.modeling_outputs import CausalLMOutputWithPast

from dcam_adapters.mmada.magvit import Magvit, MagvitConfig
from support import fixtures

FIXTURES = fixtures.FIXTURES / "mmada"
NAMES = ("a", "b")


def read(name: str) -> SimpleNamespace:
    """Everything in a fixture folder; `named` is its config.json with the ids that parity.json knows."""
    found = fixtures.read_fixture(FIXTURES / name)
    found.named = {
        **found.config,
        **{key: found.facts[key] for key in ("image_token_offset", "special_token_ids")},
    }
    return found


def word_tokenizer(*, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """A word-level tokenizer with LLaDA's special tokens; "\\n" is a token of its own."""
    special = [
        "<unk>",
        "<|startoftext|>",
        "<|endoftext|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ]
    words = ["\n", "\n\n", "user", "assistant", "what", "is", "this", "?", "a", "red", "circle"]
    vocabulary = {token: index for index, token in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\n+"), "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        additional_special_tokens=special[3:],
        chat_template=chat_template,
    )


class StandIn(nn.Module):
    """MMaDA's module tree and forward signature, written without any of our modules.

    As in the original: the transformer is a dictionary of modules that cannot be called, blocks take a bias and a
    cache and return tuples, the inner model makes the logits and scales them in place, and the outer one returns a
    ModelOutput.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = SimpleNamespace(to_dict=lambda: config)
        self.model = _Inner(config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        attention_bias: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
    ) -> CausalLMOutputWithPast:
        output = self.model.forward(input_ids, inputs_embeds, attention_mask, attention_bias)
        return CausalLMOutputWithPast(logits=output.logits)


class _Inner(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        rows, width, epsilon = config["embedding_size"], config["d_model"], config["rms_norm_eps"]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(rows, width),
                "emb_drop": nn.Dropout(0.0),
                "ln_f": nn.RMSNorm(width, eps=epsilon),
                "blocks": nn.ModuleList(_Block(config) for _ in range(config["n_layers"])),
                "ff_out": nn.Linear(width, rows, bias=False),
            }
        )

    def forward(
        self,
        input_ids: Tensor | None,
        input_embeddings: Tensor | None = None,
        attention_mask: Tensor | None = None,
        attention_bias: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        last_logits_only: bool = False,
    ) -> SimpleNamespace:
        if attention_mask is not None and not attention_mask.all():
            raise AssertionError("a mask with zeros makes the original causal: it must not be given")
        x = self.transformer["wte"](input_ids) if input_embeddings is None else input_embeddings
        x = self.transformer["emb_drop"](x)
        for block in self.transformer["blocks"]:
            x, _ = block(x, attention_bias=attention_bias, layer_past=None, use_cache=False)
        logits = self.transformer["ff_out"](self.transformer["ln_f"](x))
        if self.config["scale_logits"]:
            logits.mul_(self.config["d_model"] ** -0.5)
        return SimpleNamespace(logits=logits, attn_key_values=None)


class _Block(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, inner, epsilon = config["d_model"], config["mlp_hidden_size"], config["rms_norm_eps"]
        self.heads, self.kv_heads, self.theta = config["n_heads"], config["n_kv_heads"], config["rope_theta"]
        self.size = width // self.heads
        narrow = self.kv_heads * self.size
        self.attn_norm, self.ff_norm = nn.RMSNorm(width, eps=epsilon), nn.RMSNorm(width, eps=epsilon)
        self.q_proj, self.attn_out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k_proj, self.v_proj = nn.Linear(width, narrow, bias=False), nn.Linear(width, narrow, bias=False)
        self.ff_proj, self.up_proj = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.ff_out = nn.Linear(inner, width, bias=False)

    def _rotated(self, x: Tensor) -> Tensor:
        """Pairs (m, m + size / 2) as complex numbers, turned by the position's angle."""
        half = self.size // 2
        frequencies = self.theta ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.arange(x.shape[2], dtype=torch.float64)[:, None] * frequencies
        turned = torch.complex(x[..., :half].double(), x[..., half:].double()) * torch.polar(
            torch.ones_like(angles), angles
        )
        return torch.cat([turned.real, turned.imag], -1).to(x.dtype)

    def forward(
        self, x: Tensor, attention_bias: Tensor | None = None, layer_past: Any = None, use_cache: bool = False
    ) -> tuple[Tensor, None]:
        n = self.attn_norm(x)
        q, k, v = (
            linear(n).unflatten(-1, (count, self.size)).transpose(1, 2)
            for linear, count in (
                (self.q_proj, self.heads),
                (self.k_proj, self.kv_heads),
                (self.v_proj, self.kv_heads),
            )
        )
        each = torch.arange(self.heads) // (self.heads // self.kv_heads)
        q, k, v = self._rotated(q), self._rotated(k)[:, each], v[:, each]
        weights = torch.einsum("bhqd,bhkd->bhqk", q, k).div(self.size**0.5).softmax(-1)
        x = x + self.attn_out(torch.einsum("bhqk,bhkd->bqhd", weights, v).flatten(-2))
        n = self.ff_norm(x)
        return x + self.ff_out(nn.functional.silu(self.ff_proj(n)) * self.up_proj(n)), None


class ImageTokenizerStandIn(nn.Module):
    """The original's second model: codes come from a method, and calling it means drawing a picture."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        config = MagvitConfig.from_dict(json.loads((folder / "config.json").read_text()))
        self.encoder = Magvit(config).encoder
        weights = load_file(folder / "model.safetensors")
        own = {n.removeprefix("encoder."): t for n, t in weights.items() if n.startswith("encoder.")}
        self.encoder.load_state_dict(own)

    def forward(self, pixels: Tensor) -> Tensor:
        raise AssertionError("pictures are not to be drawn")

    def get_code(self, pixels: Tensor) -> Tensor:
        bits = (self.encoder(pixels) > 0).flatten(2)
        return sum(bits[:, c].long() << (bits.shape[1] - 1 - c) for c in range(bits.shape[1]))
