"""Checkpoint folders: finding the weights, reading them, and putting them where they belong.

No remote code, and pickles only through `torch.load(weights_only=True)`. The model is built on the meta device
and filled tensor by tensor, so weights are in memory once. Whatever does not fit is named in one error.
"""

from __future__ import annotations

from dcam_adapters.common.checkpoint.assigning import assign_weights, outline_weights
from dcam_adapters.common.checkpoint.files import present_weight_files, read_generation, weight_files

__all__ = [
    "assign_weights",
    "outline_weights",
    "present_weight_files",
    "read_generation",
    "weight_files",
]
