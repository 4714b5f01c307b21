"""A tiny random DiffusionGemma out of transformers' own classes, with tokenizer and chat template."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    DiffusionGemmaTextConfig,
    Gemma4VisionConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.diffusion_gemma.generation_diffusion_gemma import EntropyBoundSamplerConfig
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<|image|>", "<|image>", "<image|>", "<|turn>", "<turn|>"]
WORDS = "user model describe the picture a red blue green circle square triangle on left right of and is what".split()
EOS, IMAGE, BEGIN, END = (SPECIAL.index(token) for token in ("<eos>", "<|image|>", "<|image>", "<image|>"))
CANVAS = 8

CHAT_TEMPLATE = (
    "<bos>{% for message in messages %}<|turn> {{ message.role }} "
    "{% for part in message.content %}{% if part.type == 'image' %}<|image|> {% else %}{{ part.text }} {% endif %}"
    "{% endfor %}<turn|> {% endfor %}{% if add_generation_prompt %}<|turn> model {% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        additional_special_tokens=SPECIAL[4:],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def tiny_config() -> DiffusionGemmaConfig:
    text = DiffusionGemmaTextConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        # Both kinds of attention, and a window that is shorter than the prompt.
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        sliding_window=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        global_head_dim=16,
        num_global_key_value_heads=1,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=16,
        max_position_embeddings=1024,
        use_bidirectional_attention="vision",
    )
    vision = Gemma4VisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        patch_size=4,
        pooling_kernel_size=2,
        position_embedding_size=300,
    )
    return DiffusionGemmaConfig(
        text_config=text,
        vision_config=vision,
        boi_token_id=BEGIN,
        eoi_token_id=END,
        image_token_id=IMAGE,
        canvas_length=CANVAS,
    )


def tiny_model(seed: int = 0) -> DiffusionGemmaForBlockDiffusion:
    """Random weights, large enough that the model is sure of something and looks at the picture."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = DiffusionGemmaForBlockDiffusion(tiny_config()).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("position_embedding_table"):
                torch.nn.init.normal_(parameter, std=0.3)
            elif "vision_tower" in name and "post_attention_layernorm" in name:
                # Like a trained tower, this one shows mostly what is at the token's own place.
                torch.nn.init.constant_(parameter, 0.1)
            elif parameter.ndim >= 2:
                torch.nn.init.normal_(parameter, std=1.2 * parameter.shape[-1] ** -0.5)
        torch.nn.init.normal_(model.lm_head.weight, std=1.0)
    generation = model.generation_config
    generation.max_new_tokens, generation.eos_token_id = 2 * CANVAS, EOS
    generation.max_denoising_steps = 6
    generation.sampler_config = EntropyBoundSamplerConfig(entropy_bound=1.0)
    generation.t_min, generation.t_max = 0.4, 0.8
    generation.stability_threshold, generation.confidence_threshold = 1, 0.1
    return model


def tiny_image_processor() -> Gemma4ImageProcessorPil:
    return Gemma4ImageProcessorPil(patch_size=4, pooling_kernel_size=2, max_soft_tokens=70)


def write_checkpoint(folder: Path, seed: int = 0) -> Path:
    """The published layout: configurations, safetensors, tokenizer with chat template, image processor."""
    tiny_model(seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    tiny_image_processor().save_pretrained(folder)
    return folder


def picture(size: tuple[int, int] = (48, 36)) -> Image.Image:
    image = Image.new("RGB", size, (128, 128, 128))
    image.paste((220, 40, 40), (4, 4, size[0] // 2, size[1] // 2))
    image.paste((40, 60, 220), (size[0] // 2, size[1] // 2, size[0] - 4, size[1] - 4))
    return image
