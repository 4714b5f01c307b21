"""A start for a small vision transformer that has seen nothing: positions and attention that a trained one has.

Trained vision transformers have attention that begins as "look at what is like me, and near me". Starting from
there instead of from noise is what makes a tower learn shapes on a laptop (Trockman & Kolter, "Mimetic
initialization of self-attention layers", ICML 2023; positions as in Vaswani et al., 2017, in two dimensions).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dcam_adapters.common.siglip import SiglipTower, VisionConfig

__all__ = ["initialise_tower"]

QUERY_KEY = 0.7
"""Share of the identity, and of noise, in the product of query and key weights."""

VALUE_OUTPUT = 0.4
"""Share of the negative identity, and of noise, in the product of value and output weights."""

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
