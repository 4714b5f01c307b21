"""config.json of the shipped models: the fields of the published checkpoints, with small numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dcam_adapters.embedded.training.recipe import Recipe

__all__ = ["lavida", "llada_v", "olmo"]

HEADS = 4
ROPE_THETA = 500_000.0
MAX_LENGTH = 1024


def llada_v(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """LLaDA-V's: LLaMA's names, and the multimodal part."""
    ids: Any = tokenizer.convert_tokens_to_ids
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    return {
        "architectures": ["LlavaLLaDAModelLM"],
        "model_type": "llava_llada",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "hidden_act": "silu",
        "hidden_size": recipe.width,
        "initializer_range": 0.02,
        "intermediate_size": recipe.inner,
        "max_position_embeddings": MAX_LENGTH,
        "num_attention_heads": HEADS,
        "num_hidden_layers": recipe.layers,
        "num_key_value_heads": HEADS,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": ROPE_THETA,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "use_cache": False,
        "vocab_size": len(tokenizer),
        **_multimodal(recipe, patch=recipe.patch),
        "image_aspect_ratio": "anyres_max_4",
        "mask_token_id": tokenizer.mask_token_id,
        "suppressed_token_ids": [eos, bos, ids("<|start_header_id|>"), ids("<|end_header_id|>")],
    }


def lavida(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """LaViDa's: OLMo's names, and the multimodal part."""
    return {
        "architectures": ["LlavaLladaForMaskedDiffusion"],
        "model_type": "llava_llada",
        **olmo(recipe, rows=len(tokenizer), eos=tokenizer.eos_token_id),
        **_multimodal(recipe, patch=recipe.pooled_patch),
        "image_aspect_ratio": "anyres",
        "mm_pooler_ratio": 2,
        "mm_spatial_pool_mode": "bilinear",
        "mm_spatial_pool_stride": None,
        "mask_token_id": tokenizer.mask_token_id,
    }


def olmo(recipe: Recipe, *, rows: int, eos: int | None) -> dict[str, Any]:
    """The language model of LaViDa and MMaDA.

    Args:
        recipe: sizes.
        rows: number of ids.
        eos: id of the end of text, which is also the padding.
    """
    return {
        "activation_type": "silu",
        "alibi": False,
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": recipe.width,
        "embedding_dropout": 0.0,
        "embedding_size": rows,
        "eos_token_id": eos,
        "flash_attention": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "init_std": 0.02,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "max_sequence_length": MAX_LENGTH,
        "mlp_hidden_size": recipe.inner,
        "mlp_ratio": 4,
        "multi_query_attention": None,
        "n_heads": HEADS,
        "n_kv_heads": HEADS,
        "n_layers": recipe.layers,
        "pad_token_id": eos,
        "residual_dropout": 0.0,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": ROPE_THETA,
        "scale_logits": False,
        "torch_dtype": "float16",
        "use_cache": False,
        "vocab_size": rows,
        "weight_tying": False,
    }


def _multimodal(recipe: Recipe, *, patch: int) -> dict[str, Any]:
    """Tower, projector and the picture's way into the prompt."""
    return {
        "image_crop_resolution": None,
        "image_grid_pinpoints": [[recipe.size, recipe.size]],
        "image_split_resolution": None,
        "mm_hidden_size": recipe.tower_width,
        "mm_newline_position": "grid",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "siglip",
        "tokenizer_model_max_length": MAX_LENGTH,
        "tokenizer_padding_side": "right",
        "use_mm_proj": True,
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": recipe.tower_width,
            "intermediate_size": recipe.tower_width * 3,
            "num_hidden_layers": recipe.tower_layers + 1,  # nominal: the last one is dropped
            "num_attention_heads": 4,
            "num_channels": 3,
            "image_size": recipe.size,
            "patch_size": patch,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "attention_dropout": 0.0,
        },
    }
