"""Fresh weights from which small networks learn fast.

Trained vision transformers have attention that begins as "look at what is like me, and near me". Starting from
there instead of from noise is what makes a tower learn shapes on a laptop (Trockman & Kolter, "Mimetic
initialization of self-attention layers", ICML 2023; positions as in Vaswani et al., 2017, in two dimensions).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dcam_adapters.common.siglip import SiglipTower, VisionConfig
from dcam_adapters.llada_v.modeling import LLaDAV

__all__ = ["initialise_language", "initialise_tower"]

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


@torch.no_grad()
def initialise_language(network: LLaDAV, pixels: Tensor) -> None:
    """Fresh projector and language model for a trained tower; draws from the global random state.

    Matrices keep the scale of what they read; those that write into the residual stream are smaller by the root
    of their number. The tower's features come without a norm, far off centre: the projector's first layer
    starts out by centring and scaling them.

    Args:
        network: the network, its tower trained.
        pixels: [B, 3, S, S] some pictures.
    """
    backbone = network.model
    for part in (backbone.layers, backbone.mm_projector):
        for module in part.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    writers = 2 * len(backbone.layers)
    for name, parameter in backbone.layers.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.div_(writers**0.5)
    features = backbone.vision_tower(pixels).flatten(0, 1)
    centre = features.mean(0)
    first = dict(backbone.mm_projector[0].named_parameters())
    first["weight"].div_((features - centre).square().mean().sqrt())
    first["bias"].copy_(-first["weight"] @ centre)
    nn.init.normal_(backbone.embed_tokens.weight, std=0.5)
    nn.init.normal_(backbone.image_newline, std=0.5)
    nn.init.normal_(network.lm_head.weight, std=0.02)


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
