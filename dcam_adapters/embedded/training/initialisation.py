"""Fresh weights from which small networks learn fast.

Trained vision transformers have attention that begins as "look at what is like me, and near me". Starting from
there instead of from noise is what makes a tower learn shapes on a laptop (Trockman & Kolter, "Mimetic
initialization of self-attention layers", ICML 2023; positions as in Vaswani et al., 2017, in two dimensions).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcam_adapters.common.siglip import SiglipTower, VisionConfig

__all__ = ["initialise_blocks", "initialise_projector", "initialise_tower", "resampled_tower"]

QUERY_KEY = 0.7
"""Share of the identity, and of noise, in the product of query and key weights."""

VALUE_OUTPUT = 0.4
"""Share of the negative identity, and of noise, in the product of value and output weights."""

WRITERS = ("o_proj.weight", "down_proj.weight", "attn_out.weight", "ff_out.weight")
"""Matrices that write into the residual stream, in LLaMA's and in OLMo's names."""

POSITION_SCALE = 0.5
WAVELENGTH = 100.0


@torch.no_grad()
def initialise_tower(tower: SiglipTower, config: VisionConfig) -> None:
    """Fresh weights for training a tower from scratch; draws from the global random state.

    Args:
        tower: the tower.
        config: its dimensions.
    """
    width, heads = config.hidden_size, config.num_attention_heads
    vision = tower.vision_tower.vision_model
    patches = vision.embeddings.patch_embedding
    nn.init.trunc_normal_(patches.weight, std=patches.weight[0].numel() ** -0.5)
    vision.embeddings.get_parameter("patch_embedding.bias").zero_()
    positions = POSITION_SCALE * _sine_positions(config.patches_per_side, width)
    vision.embeddings.position_embedding.weight.copy_(positions)
    for layer in vision.encoder.layers:
        weight = {name.removesuffix(".weight"): value for name, value in layer.named_parameters()}
        for head in range(heads):
            rows = slice(head * width // heads, (head + 1) * width // heads)
            queries, keys = _factors(_noise(width, QUERY_KEY) + QUERY_KEY * torch.eye(width), width // heads)
            weight["self_attn.q_proj"][rows], weight["self_attn.k_proj"][rows] = queries.T, keys
        output, values = _factors(_noise(width, VALUE_OUTPUT) - VALUE_OUTPUT * torch.eye(width), width)
        weight["self_attn.v_proj"].copy_(values)
        weight["self_attn.out_proj"].copy_(output)
        nn.init.trunc_normal_(weight["mlp.fc1"], std=width**-0.5)
        nn.init.trunc_normal_(weight["mlp.fc2"], std=0.5 * config.intermediate_size**-0.5)
        for name, parameter in weight.items():
            if name.endswith(".bias"):
                parameter.zero_()


@torch.no_grad()
def initialise_blocks(blocks: nn.Module, embedding: nn.Module, head: nn.Module) -> None:
    """Fresh weights for a language model; draws from the global random state.

    Matrices keep the scale of what they read; those that write into the residual stream are smaller by the root
    of their number.

    Args:
        blocks: the transformer blocks, in LLaMA's or OLMo's names.
        embedding: token ids to embeddings.
        head: normed hidden states to logits.
    """
    writers = 2 * len(list(blocks.children()))
    for name, matrix in blocks.named_parameters():
        if matrix.ndim == 2:
            scale = writers if name.endswith(WRITERS) else 1
            nn.init.normal_(matrix, std=(matrix.shape[1] * scale) ** -0.5)
    nn.init.normal_(embedding.get_parameter("weight"), std=0.5)
    nn.init.normal_(head.get_parameter("weight"), std=0.02)


@torch.no_grad()
def initialise_projector(projector: nn.Module, features: Tensor) -> None:
    """Fresh weights for a projector; draws from the global random state.

    The tower's features come without a norm, far off centre: the first layer starts out by centring and scaling
    them.

    Args:
        projector: two linear layers, numbers 0 and 2.
        features: [n, W] features of some patches.
    """
    for layer in projector.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
    centre = features.mean(0)
    weight = projector.get_parameter("0.weight")
    weight.div_((features - centre).square().mean().sqrt())
    projector.get_parameter("0.bias").copy_(-weight @ centre)


@torch.no_grad()
def resampled_tower(weights: Mapping[str, Tensor], config: VisionConfig) -> dict[str, Tensor]:
    """Weights of a trained tower for another size of patches: its kernel and its positions are interpolated.

    Args:
        weights: state dict of a tower.
        config: dimensions of the new one, alike but for `patch_size`.
    """
    kernel, positions = (
        f"vision_tower.vision_model.embeddings.{name}_embedding.weight" for name in ("patch", "position")
    )
    old, new, cells = weights[kernel].shape[-1], config.patch_size, config.patches_per_side
    side = round(len(weights[positions]) ** 0.5)
    grid = weights[positions].view(1, side, side, -1).permute(0, 3, 1, 2)
    return {
        **weights,
        # Smaller patches have fewer pixels to sum over.
        kernel: F.interpolate(weights[kernel], (new, new), mode="bilinear", antialias=True)
        * (old / new) ** 2,
        positions: F.interpolate(grid, (cells, cells), mode="bicubic")[0].flatten(1).T.contiguous(),
    }


def _noise(width: int, share: float) -> Tensor:
    noise: Tensor = share * torch.randn(width, width) / width**0.5
    return noise


def _factors(product: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """[width, rank] and [rank, width] whose product is the best approximation of that rank."""
    left, scales, right = torch.linalg.svd(product)
    roots = scales[:rank].sqrt()
    return left[:, :rank] * roots, roots[:, None] * right[:rank]


def _sine_positions(cells: int, width: int) -> Tensor:
    """[cells * cells, width] sines and cosines of row and column, row-major."""
    frequencies = WAVELENGTH ** -(torch.arange(width // 4) / (width // 4))
    row, column = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (row, column)]
    waves: Tensor = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    return waves
