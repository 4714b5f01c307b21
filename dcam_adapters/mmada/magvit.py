"""MAGVIT-v2: a picture becomes a grid of codes by a convolutional encoder and a lookup-free quantiser.

The quantiser has no table of vectors: the sign of every channel is one bit of the code (Yu et al., "Language
Model Beats Diffusion: Tokenizer is Key to Visual Generation", ICLR 2024). Modules carry the names of the
published checkpoint (MMaDA spec, section 4); its decoder, which only draws pictures, is not built.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcam_adapters.common.checkpoint import assign_weights, weight_files
from dcam_core.errors import CheckpointError
from dcam_core.placement import Placement

__all__ = ["Magvit", "MagvitConfig"]

GROUPS = 32
"""Groups of every norm: all widths are multiples of it."""

EPSILON = 1e-6

WEIGHTS = ("pytorch_model", "model", "diffusion_pytorch_model")
"""File names, without their endings, under which the weights are published, the usual one first."""

NOT_BUILT = (r"decoder\..*",)


@dataclass(frozen=True)
class MagvitConfig:
    """Dimensions of the tokenizer; the defaults are the published model's, whose config.json names none.

    Attributes:
        ch: width of the first level, a multiple of 32.
        ch_mult: width of every level as a multiple of `ch`; the picture is halved between levels.
        num_res_blocks: residual blocks of every level; a level without any keeps the width before it.
        z_channels: bits K of a code.
        in_ch: colour channels.
        double_z: whether the encoder predicts variances as well; not supported.
        resolution: nominal side of a picture in pixels; only decides which levels have attention.
        attn_resolutions: sides of the levels that have attention; no published level matches, so such levels
            are not supported.
    """

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 2, 4, 4)
    num_res_blocks: tuple[int, ...] = (4, 3, 4, 3, 4)
    z_channels: int = 13
    in_ch: int = 3
    double_z: bool = False
    resolution: int = 256
    attn_resolutions: tuple[int, ...] = (5,)

    def __post_init__(self) -> None:
        if len(self.ch_mult) != len(self.num_res_blocks) or not self.ch_mult:
            raise CheckpointError(
                f"ch_mult {list(self.ch_mult)} and num_res_blocks {list(self.num_res_blocks)} of the image "
                "tokenizer's config.json need one entry per level each"
            )
        if self.ch % GROUPS:
            raise CheckpointError(
                f"ch {self.ch} of the image tokenizer is no multiple of {GROUPS}, its norms' groups"
            )
        sides = {self.resolution // 2**level for level in range(len(self.ch_mult))}
        if self.double_z or sides & set(self.attn_resolutions):
            raise CheckpointError(
                f"double_z {self.double_z} and attn_resolutions {list(self.attn_resolutions)} describe an image "
                "tokenizer that predicts variances or attends between its levels: no published MAGVIT-v2 does, and "
                "dcam has neither"
            )

    @property
    def factor(self) -> int:
        """Side in pixels of the square that one code stands for."""
        return int(2 ** (len(self.ch_mult) - 1))

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return int(2**self.z_channels)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads the known fields of a config.json; others are ignored, absent ones have the published values."""
        known = {field.name for field in fields(cls)}
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
            if name in known
        }
        return cls(**given)


class Magvit(nn.Module):
    """Pictures to codes.

    Args:
        config: dimensions.
    """

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        self.quantize = _Quantiser(config.z_channels)

    @classmethod
    def load(cls, folder: Path, *, device: torch.device) -> Self:
        """Reads a tokenizer folder; the weights become float32, whatever they were stored in.

        Args:
            folder: config.json and the weights, by any of their published names.
            device: where the weights go.

        Raises:
            CheckpointError: a file is missing or does not fit.
        """
        try:
            config = MagvitConfig.from_dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{folder / 'config.json'} cannot be read as a JSON object: {error}"
            ) from error
        files = weight_files(folder, WEIGHTS)
        with torch.device("meta"):
            model = cls(config)
        placement = Placement(device=device, dtype=torch.float32)
        assign_weights(model, files, placement=placement, ignored=NOT_BUILT)
        return model.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Encodes pictures.

        Only signs matter, and rounding can flip one: so this is float32 arithmetic inside autocast too, without
        TF32.

        Args:
            pixels: [B, 3, R, R] in [-1, 1], R a multiple of the factor.

        Returns:
            [B, g * g] int64 codes in row-major order, g = R / factor.
        """
        cudnn = torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False)
        with torch.autocast(pixels.device.type, enabled=False), cudnn:
            codes: Tensor = self.quantize(self.encoder(pixels.float()))
        return codes


class _Quantiser(nn.Module):
    """Signs to codes. Both buffers follow from the number of bits; they are kept because checkpoints hold them."""

    embedding: Tensor
    power_vals: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        powers = 2 ** torch.arange(bits - 1, -1, -1)
        digits = (torch.arange(2**bits)[:, None] & powers) > 0
        self.register_buffer("power_vals", powers)
        self.register_buffer("embedding", digits.float() * 2 - 1)

    def forward(self, values: Tensor) -> Tensor:
        """[B, K, g, g] -> [B, g * g] int64: channel 0 is the most significant bit, zero counts as negative."""
        bits = values.flatten(2).transpose(1, 2) > 0
        return (bits * self.power_vals).sum(-1)


class _Encoder(nn.Module):
    """[B, 3, R, R] in [-1, 1] -> [B, K, g, g], whose signs are the code's bits."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        widths = [config.ch * multiple for multiple in config.ch_mult]
        self.conv_in = nn.Conv2d(config.in_ch, config.ch, 3, padding=1)
        self.down = nn.ModuleList(
            _Level(before, width, blocks, halve=index < len(widths) - 1)
            for index, (before, width, blocks) in enumerate(
                zip([config.ch, *widths], widths, config.num_res_blocks, strict=False)
            )
        )
        self.mid = _Middle(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels, 3, padding=1)
        self.quant_conv = nn.Conv2d(config.z_channels, config.z_channels, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.values(self.features(pixels))

    def features(self, pixels: Tensor) -> Tensor:
        """[B, 3, R, R] -> [B, C, g, g], what the bits are read from."""
        features = self.conv_in(pixels)
        for level in self.down:
            features = level(features)
        return F.silu(self.norm_out(self.mid(features)))

    def values(self, features: Tensor) -> Tensor:
        """[B, C, g, g] -> [B, K, g, g]."""
        values: Tensor = self.quant_conv(self.conv_out(features))
        return values


class _Level(nn.Module):
    """Residual blocks at one resolution, and the step to the next."""

    def __init__(self, before: int, width: int, blocks: int, *, halve: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            _ResidualBlock(before if index == 0 else width, width) for index in range(blocks)
        )
        self.downsample = _Downsample(width) if halve else None

    def forward(self, features: Tensor) -> Tensor:
        for block in self.block:
            features = block(features)
        return features if self.downsample is None else self.downsample(features)


class _ResidualBlock(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.norm1 = _norm(before)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1)
        self.norm2 = _norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(before, width, 1) if before != width else None

    def forward(self, features: Tensor) -> Tensor:
        change: Tensor = self.conv1(F.silu(self.norm1(features)))
        change = self.conv2(F.silu(self.norm2(change)))
        return change + (features if self.nin_shortcut is None else self.nin_shortcut(features))


class _Downsample(nn.Module):
    """Halves both sides; the padding is at the right and at the bottom only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        halved: Tensor = self.conv(F.pad(features, (0, 1, 0, 1)))
        return halved


class _Middle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1 = _ResidualBlock(width, width)
        self.attn_1 = _Attention(width)
        self.block_2 = _ResidualBlock(width, width)

    def forward(self, features: Tensor) -> Tensor:
        features = self.block_2(self.attn_1(self.block_1(features)))
        return features


class _Attention(nn.Module):
    """One head over all places of the grid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        normed = self.norm(features)
        # [B, places, C] each. Written out: on CPUs in bfloat16 this is several times faster than the fused kernel.
        query, key, value = (part(normed).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        weights = (query @ key.transpose(1, 2) * features.shape[1] ** -0.5).softmax(-1)
        read = (weights @ value).transpose(1, 2).reshape(features.shape)
        attended: Tensor = features + self.proj_out(read)
        return attended


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, width, eps=EPSILON)
