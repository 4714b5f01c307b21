"""The image tokenizer as MMaDA's adapter sees it: a second model, with a checkpoint of its own (spec, section 4).

It may be ours (`magvit.py`), upstream's `MAGVITv2`, or another with its module names.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from dcam_adapters.common.module_tree import require_modules
from dcam_adapters.mmada.config import MMaDAConfig
from dcam_core.errors import CheckpointError
from dcam_core.models import checkpoint_folder

__all__ = ["cell_side", "check_image_tokenizer", "image_codes", "image_tokenizer_folder"]

LEVELS = "encoder.down"
BITS = "encoder.quant_conv"

FOLDER = "vq"
"""Where an image tokenizer lies within the folder of a language model."""

PUBLISHED = "showlab/magvitv2"
"""The image tokenizer that both published language models were trained with, in a repository of its own."""


def image_tokenizer_folder(folder: Path, config: MMaDAConfig, vq: str | Path | None = None) -> Path:
    """The folder of the image tokenizer, from the hub if need be.

    Args:
        folder: the language model's checkpoint.
        config: its configuration.
        vq: folder or hub id of the image tokenizer; None: `FOLDER` within the checkpoint, and without one
            `PUBLISHED`, if the model has as many codes.

    Raises:
        CheckpointError: there is none.
    """
    own = folder / FOLDER
    if vq is None and own.is_dir():
        return own
    if vq is None and config.codebook_size != MMaDAConfig.codebook_size:
        raise CheckpointError(
            f"{folder} has no image tokenizer: there is no folder {FOLDER!r} in it, and the published one "
            f"({PUBLISHED}) has {MMaDAConfig.codebook_size} codes, this model {config.codebook_size}; put the "
            f"image tokenizer's config.json and weights into {own}, or name their folder with the option vq="
        )
    try:
        return checkpoint_folder(str(vq or PUBLISHED))
    except (FileNotFoundError, CheckpointError) as error:
        raise CheckpointError(
            f"the image tokenizer of {folder} is missing: {error}; put its config.json and weights into {own}, or "
            "name their folder with the option vq="
        ) from error


def check_image_tokenizer(vq: nn.Module, config: MMaDAConfig) -> None:
    """Whether an image tokenizer is one, and the language model's.

    Raises:
        CheckpointError: it has another module tree, or another number of codes.
    """
    require_modules(vq, (LEVELS, BITS), family="MAGVIT-v2")
    # Every channel of the encoder's output is one bit of a code.
    bits = getattr(vq.get_submodule(BITS), "out_channels", None)
    if bits is not None and 2**bits != config.codebook_size:
        raise CheckpointError(
            f"the image tokenizer has {2**bits} codes ({bits} bits), the language model {config.codebook_size} "
            "(codebook_size in config.json): they do not belong together; give the image tokenizer that the model "
            "was trained with"
        )


def cell_side(vq: nn.Module) -> int:
    """Side in pixels of one code's cell: the picture is halved between the encoder's levels."""
    return int(2 ** (len(list(vq.get_submodule(LEVELS).children())) - 1))


def image_codes(vq: nn.Module, pixels: Tensor, tokens: int) -> Tensor:
    """Encodes one picture, where the image tokenizer is and in its dtype.

    Args:
        vq: the image tokenizer; `vq.get_code(pixels)`, or `vq(pixels)` where there is no such method.
        pixels: [1, 3, R, R] float32 in [-1, 1].
        tokens: number of codes N that the language model reads.

    Returns:
        [N] int64 on the CPU, row by row.

    Raises:
        CheckpointError: it makes another number of codes.
    """
    encode = getattr(vq, "get_code", vq)  # calling upstream's class draws the picture again
    codes: Tensor = encode(pixels.to(next(vq.parameters()))).flatten().cpu()
    if len(codes) != tokens:
        raise CheckpointError(
            f"the image tokenizer makes {len(codes)} codes of {pixels.shape[-1]}x{pixels.shape[-2]} pixels, the "
            f"model reads {tokens} (num_vq_tokens): they do not belong together"
        )
    return codes
