"""The projector from the vision tower's features to the language model's embeddings."""

from __future__ import annotations

from torch import nn

__all__ = ["mlp_projector"]


def mlp_projector(vision_width: int, width: int) -> nn.Sequential:
    """`mlp2x_gelu`: Linear, exact (erf) GELU, Linear; keys `0.*` and `2.*` in checkpoints.

    Args:
        vision_width: width of the tower's features.
        width: model width D.
    """
    return nn.Sequential(nn.Linear(vision_width, width), nn.GELU(), nn.Linear(width, width))
