"""What the LLaDA-V tests share: fixture readers, a tokenizer, and a model that is not ours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import LlamaConfig, PreTrainedTokenizerFast, SiglipVisionConfig
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding
from transformers.models.siglip.modeling_siglip import SiglipEncoder, SiglipVisionEmbeddings

from support import fixtures

FIXTURES = fixtures.FIXTURES / "llada_v"
NAMES = ("a", "b", "e", "f")


def read(name: str) -> SimpleNamespace:
    """Everything in a fixture folder."""
    return fixtures.read_fixture(FIXTURES / name)


def word_tokenizer(*, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """A word-level tokenizer with LLaDA's special tokens; "\\n" is a token of its own."""
    special = [
        "<unk>",
        "<|startoftext|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|mdm_mask|>",
    ]
    words = ["\n", "\n\n", *["system", "user", "assistant", "what", "is", "this", "?", "a", "red", "circle"]]
    vocabulary = {token: index for index, token in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\n+"), "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        additional_special_tokens=special[1:],
        chat_template=chat_template,
    )


class StandIn(nn.Module):
    """LLaDA-V's module tree and forward signature, of transformers' own modules, not of ours.

    As in the original, blocks return tuples, the backbone returns a ModelOutput and knows a key-value
    cache, which must be switched off.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = SimpleNamespace(to_dict=lambda: config)
        self.model = _Backbone(config)
        self.lm_head = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)


class _TupleBlock(LlamaDecoderLayer):
    def forward(self, hidden: Tensor, **options: Any) -> tuple[Tensor]:
        return (super().forward(hidden, **options),)


def add_vision(backbone: nn.Module, config: dict[str, Any], width: int) -> None:
    """The multimodal parts beside a language model, by the originals' names."""
    backbone.image_newline = nn.Parameter(torch.zeros(width))
    vision = config["vision_config"]
    backbone.mm_projector = nn.Sequential(
        nn.Linear(vision["hidden_size"], width), nn.GELU(), nn.Linear(width, width)
    )
    backbone.vision_tower = SiglipStandIn(vision)


class _Backbone(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        llama = LlamaConfig(
            **{name: config[name] for name in (*names, "num_key_value_heads", "rms_norm_eps")},
            rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
        )
        llama._attn_implementation = "eager"
        width = config["hidden_size"]
        self.embed_tokens = nn.Embedding(config["vocab_size"], width)
        self.layers = nn.ModuleList(_TupleBlock(llama, index) for index in range(llama.num_hidden_layers))
        self.norm = LlamaRMSNorm(width, config["rms_norm_eps"])
        self.rotary_emb = LlamaRotaryEmbedding(llama)
        add_vision(self, config, width)

    def forward(
        self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, use_cache: bool = True
    ):
        if use_cache:
            raise AssertionError("a key-value cache makes no sense here, as in the original")
        positions = torch.arange(inputs_embeds.shape[1])[None]
        rotary = self.rotary_emb(inputs_embeds, positions)
        hidden = inputs_embeds
        for layer in self.layers:
            (hidden,) = layer(hidden, attention_mask=None, position_embeddings=rotary)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden))


class SiglipStandIn(nn.Module):
    """The tower of transformers' own modules, which the LaViDa tests use, too."""

    def __init__(self, vision: dict[str, Any]) -> None:
        super().__init__()
        config = SiglipVisionConfig(**{**vision, "num_hidden_layers": vision["num_hidden_layers"] - 1})
        config._attn_implementation = "eager"
        inner = nn.Module()
        inner.embeddings = SiglipVisionEmbeddings(config)
        inner.encoder = SiglipEncoder(config)
        inner.post_layernorm = nn.LayerNorm(config.hidden_size)
        self.vision_tower = nn.Module()
        self.vision_tower.vision_model = inner

    def forward(self, pixels: Tensor) -> BaseModelOutput:
        inner = self.vision_tower.vision_model
        return inner.encoder(inputs_embeds=inner.embeddings(pixels))
