"""The recipes that trained the shipped checkpoints, from generated scenes to a checkpoint folder."""

from dcam_adapters.embedded.training.mmada import train_mmada
from dcam_adapters.embedded.training.recipe import train_lavida, train_llada_v

__all__ = ["train_lavida", "train_llada_v", "train_mmada"]
